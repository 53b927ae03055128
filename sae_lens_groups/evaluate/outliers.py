"""Which evaluated tokens are outliers: those of massive activations, which would outweigh all others.

Shapes: S sequences of a batch, T positions.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from sae_lens import SAE

from sae_lens_groups.activations import USUAL_MULTIPLE, Site


class Counted(NamedTuple):
    """Which tokens of a batch count, (S, T)."""

    ordinary_ST: torch.Tensor
    with_outliers_ST: torch.Tensor


class Outliers:
    """Finds the tokens whose norm is beyond the limit of any of the hooks.

    An SAE's limit is that of its training, `max_activation_norm` in its metadata. Where it has none,
    because nothing was left out or nobody knows, it is 10 times the median norm of the first batch.
    """

    def __init__(self, sites: Mapping[str, Site], saes: Mapping[str, SAE[Any]]) -> None:
        self._sites = sites
        known = {name: sae.cfg.metadata.max_activation_norm for name, sae in saes.items()}
        self._limits = {name: limit for name, limit in known.items() if limit is not None}
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
