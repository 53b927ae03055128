"""What is counted of a group's features while text goes by, in memory that does not grow with it.

Shapes: S sequences of a batch, T positions, C features, L layers of the group, B bins, F = d_sae.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_groups.activations import Site, taking_flat_heads
from sae_lens_groups.features.kept import Examples
from sae_lens_groups.features.result import HISTOGRAM_EDGES, LayerFeatures
from sae_lens_groups.layers import LayerGroup

_MOST_BYTES = 2**28  # of the activations of all layers of a group at once


class GroupTally:
    """The features of one group on all its layers.

    Args:
        saes: by hook name, of its layers in order.
        feature_C: the features that are looked at.
        n_top: examples of the highest activation that are kept, per feature and layer.
        n_sampled: examples that are drawn from all prompts in which the feature fires.
        width: tokens of an example.
    """

    def __init__(
        self,
        group: LayerGroup,
        saes: Mapping[str, SAE[Any]],
        feature_C: torch.Tensor,
        n_top: int,
        n_sampled: int,
        width: int,
        seed: int,
    ) -> None:
        self.group, self._saes, self.feature_C = group, saes, feature_C
        self._device = next(iter(saes.values())).device
        n, n_layers = len(feature_C), len(saes)
        self.n_firings_LC = torch.zeros(n_layers, n, dtype=torch.long, device=self._device)
        self._highest_LC = torch.zeros(n_layers, n, device=self._device)
        n_bins = len(HISTOGRAM_EDGES) + 1
        self._histogram_LCB = torch.zeros(n_layers, n, n_bins, dtype=torch.int32)
        self._edges = torch.tensor(HISTOGRAM_EDGES, device=self._device)

        def kept(n_kept: int) -> list[Examples]:
            shape = (n, n_kept, n_layers, width)
            return [Examples.none(shape, self._device) for _ in saes]

        self._top, self._sampled = kept(n_top), kept(n_sampled)
        self._draws = torch.Generator().manual_seed(seed)

    @property
    def n_bytes(self) -> int:
        """The memory that this takes, however much text goes by."""
        arrays = (self.n_firings_LC, self._highest_LC, self._histogram_LCB)
        examples = sum(of.n_bytes for of in (*self._top, *self._sampled))
        return examples + sum(array.nbytes for array in arrays)

    def add(
        self,
        captured: Mapping[str, torch.Tensor],
        tokens_ST: torch.Tensor,
        kept_ST: torch.Tensor,
        first_prompt: int,
    ) -> None:
        """Adds an LM batch, of which only tokens in `kept_ST` count."""
        per_prompt = max(of.cfg.d_sae for of in self._saes.values()) * tokens_ST.shape[1] * 4
        n = max(1, _MOST_BYTES // (per_prompt * len(self._saes)))
        for start in range(0, len(tokens_ST), n):
            part = slice(start, start + n)
            acts_LSTC = [
                self._activations(name, acts[part], kept_ST[part])
                for name, acts in ((name, captured[name]) for name in self._saes)
            ]
            tokens = tokens_ST[part].to(self._device)
            for index in range(len(acts_LSTC)):
                self._add_layer(index, acts_LSTC, tokens, first_prompt + start)

    def _activations(self, name: str, acts: torch.Tensor, kept_ST: torch.Tensor) -> torch.Tensor:
        sae = self._saes[name]
        rows_STD = Site(name, sae.cfg.metadata.hook_head_index).rows(acts)
        with taking_flat_heads(sae):
            features_STF = sae.encode(rows_STD.to(sae.device))
        features_STF = features_STF.to_dense() if features_STF.is_sparse else features_STF
        if len(self.feature_C) < features_STF.shape[-1]:
            features_STF = features_STF[..., self.feature_C.to(self._device)]
        # where, not a product: what a token left out gives may be NaN
        return torch.where(kept_ST.to(self._device)[..., None], features_STF.float(), 0.0)

    def _add_layer(
        self,
        index: int,
        acts_LSTC: Sequence[torch.Tensor],
        tokens_ST: torch.Tensor,
        first_prompt: int,
    ) -> None:
        acts_STC = acts_LSTC[index]
        s, t, c = acts_STC.nonzero(as_tuple=True)
        size_N = acts_STC[s, t, c].abs()
        self.n_firings_LC[index] += torch.bincount(c, minlength=acts_STC.shape[2])
        histogram_CB = self._histogram_LCB[index]
        bin_N = c * histogram_CB.shape[1] + torch.bucketize(size_N, self._edges)
        histogram_CB += (
            torch.bincount(bin_N, minlength=histogram_CB.numel())
            .view(histogram_CB.shape)
            .to(histogram_CB)
        )
        peak_SC, position_SC = acts_STC.abs().max(1)
        self._highest_LC[index] = torch.maximum(self._highest_LC[index], peak_SC.max(0).values)
        draw_SC = torch.rand(peak_SC.shape, generator=self._draws).to(self._device)
        found = (peak_SC, position_SC, tokens_ST, acts_LSTC, first_prompt)
        for kept, rank_SC in ((self._top[index], peak_SC), (self._sampled[index], draw_SC)):
            kept.offer(torch.where(peak_SC > 0, rank_SC, -torch.inf), *found)

    def layers(self) -> list[LayerFeatures]:
        """What was found, a layer each."""
        return [
            LayerFeatures(
                layer=layer,
                n_firings_C=self.n_firings_LC[index].cpu(),
                highest_C=self._highest_LC[index].cpu(),
                histogram_CB=self._histogram_LCB[index],
                top=self._top[index].cpu(),
                sampled=self._sampled[index].cpu(),
            )
            for index, layer in enumerate(self.group.layers)
        ]
