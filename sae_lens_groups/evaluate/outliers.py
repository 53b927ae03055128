"""Which evaluated tokens are outliers: those of massive activations, which would outweigh all others.

Shapes: S sequences of a batch, T positions.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from sae_lens.saes.sae import SAEMetadata

from sae_lens_groups.activations import USUAL_MULTIPLE, Site


class Counted(NamedTuple):
    """Which tokens of a batch count, (S, T)."""

    ordinary_ST: torch.Tensor
    with_outliers_ST: torch.Tensor


class Outliers:
    """Finds the tokens whose norm is beyond the limit of any of the hooks.

    A hook's limit is the lowest of those of training, `max_activation_norm` in the metadata of its
    SAEs. Where they have none, because nothing was left out or nobody knows, it is 10 times the
    median norm of the first batch.
    """

    def __init__(self, trained: Mapping[str, Sequence[SAEMetadata]]) -> None:
        self._sites = {name: Site(name, of[0].hook_head_index) for name, of in trained.items()}
        known = {name: [of.max_activation_norm for of in each] for name, each in trained.items()}
        limits = {name: [n for n in each if n is not None] for name, each in known.items()}
        self._limits: dict[str, float] = {name: min(each) for name, each in limits.items() if each}
        self.n_found = 0

    def apart(self, captured: Mapping[str, torch.Tensor], kept_ST: torch.Tensor) -> Counted:
        """The tokens of a batch that count, without and with outliers."""
        kept_ST = kept_ST.cpu()
        is_outlier_ST = torch.zeros_like(kept_ST)
        for name, site in self._sites.items():
            norm_ST = site.rows(captured[name]).float().norm(dim=-1).cpu()
            if name not in self._limits:
                self._limits[name] = USUAL_MULTIPLE * norm_ST[kept_ST].median().item()
            is_outlier_ST |= norm_ST > self._limits[name]
        self.n_found += int((is_outlier_ST & kept_ST).sum())
        return Counted(kept_ST & ~is_outlier_ST, kept_ST)
