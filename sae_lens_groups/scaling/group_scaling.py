"""Scales every row of a batch as its own layer is scaled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from sae_lens.training import activation_scaler
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.scaling.alignments import Alignment
from sae_lens_groups.scaling.layer_scaler import LayerScaler, layer_map_of
from sae_lens_groups.scaling.moments import LayerPair, PairMoments

MEAN_NORM = "expected_average_only_in"
WHITENING = "covariance_whitening"

# SAELens's other modes work on each row alone, inside the SAE, and need no estimate.
ESTIMATED_MODES = (MEAN_NORM, WHITENING)


@dataclass
class GroupScaling:
    """The scalers of a group's layers."""

    group: LayerGroup
    scalers: Sequence[ActivationScaler]
    """One per layer, lowest layer first. A fresh `ActivationScaler` changes nothing."""
    _factor_L: torch.Tensor | None = field(default=None, init=False, repr=False)

    @classmethod
    def identity(cls, group: LayerGroup) -> "GroupScaling":
        """Scalers that leave every row as it is."""
        return cls(group, [LayerScaler() for _ in group.layers])

    def scale(self, rows_BD: torch.Tensor, position_B: torch.Tensor) -> torch.Tensor:
        """Each row scaled by its own layer's scaler. Returns (B, D)."""
        if len(self.scalers) == 1:
            return self.scalers[0].scale(rows_BD)
        if any(layer_map_of(scaler) is not None for scaler in self.scalers):
            return self._scale_layer_by_layer(rows_BD, position_B)
        factor_L = self._factors(rows_BD)
        if factor_L is not None:
            return rows_BD * factor_L[position_B, None]
        if any(whitening_of(scaler) is not None for scaler in self.scalers):
            return self._scale_layer_by_layer(rows_BD, position_B)
        return rows_BD

    def _factors(self, rows_BD: torch.Tensor) -> torch.Tensor | None:
        """The factors (L,) of layers that have nothing else; None where one has none."""
        if self._factor_L is None:
            factors = [scaler.scaling_factor for scaler in self.scalers]
            if None in factors:
                return None
            # Made once: to copy it to a GPU in every step would wait for the device.
            self._factor_L = torch.tensor(factors, dtype=rows_BD.dtype, device=rows_BD.device)
        return self._factor_L

    @property
    def of_layer(self) -> dict[int, ActivationScaler]:
        """Layer -> scaler."""
        return dict(zip(self.group.layers, self.scalers, strict=True))

    def aligned(
        self, alignment: Alignment, moments: Mapping[LayerPair, PairMoments]
    ) -> "GroupScaling":
        """The same scaling, followed by a map of every layer to the group's middle layer.

        `moments` are raw: (layer, middle layer) -> those of every layer but the middle one.
        """
        of_layer, middle = self.of_layer, self.group.middle
        maps = {
            layer: alignment.fit_or_scale(
                moments[layer, middle].scaled(scaler, of_layer[middle]), (layer, middle)
            )[0]
            for layer, scaler in of_layer.items()
            if layer != middle
        }
        return GroupScaling(
            self.group,
            [LayerScaler.of(scaler, maps.get(layer)) for layer, scaler in of_layer.items()],
        )

    def _scale_layer_by_layer(
        self, rows_BD: torch.Tensor, position_B: torch.Tensor
    ) -> torch.Tensor:
        scaled_BD = torch.empty_like(rows_BD)
        for position, scaler in enumerate(self.scalers):
            of_layer_B = position_B == position
            scaled_BD[of_layer_B] = scaler.scale(rows_BD[of_layer_B])
        return scaled_BD


def whitening_of(scaler: ActivationScaler) -> "activation_scaler.ActivationWhitening | None":
    """A scaler's whitening; None also where this version of SAELens has no whitening."""
    return getattr(scaler, "whitening", None)
