"""One normalisation per layer: estimated for each layer of a group, applied row by row.

SAELens scales each SAE's input by one factor. Inside a group that would let the layers of large
norm drown the others, so every layer has its own (Group-SAE, arXiv 2410.21508, section 4).

Shapes: B rows of a training batch, D = d_in, L layers of the group.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from sae_lens.training import activation_scaler
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups.alignment import AlignedScaler, Alignment, LayerPair, PairMoments, layer_map_of
from sae_lens_groups.errors import NormEstimateError
from sae_lens_groups.layers import LayerGroup

MEAN_NORM = "expected_average_only_in"
WHITENING = "covariance_whitening"
# Squares of scaled activations, and of their gradients, have to stay within float32.
_SMALLEST = 1e-18
# SAELens's other modes work on each row alone, inside the SAE, and need no estimate.
ESTIMATED_MODES = (MEAN_NORM, WHITENING)

# Added to the covariance's eigenvalues, as in SAELens.
_WHITENING_EPS = 1e-3


@dataclass
class GroupScaling:
    """The scalers of a group's layers."""

    group: LayerGroup
    scalers: list[ActivationScaler]
    """One per layer, lowest layer first. A fresh `ActivationScaler` changes nothing."""
    _factor_L: torch.Tensor | None = field(default=None, init=False, repr=False)

    @classmethod
    def identity(cls, group: LayerGroup) -> "GroupScaling":
        """Scalers that leave every row as it is."""
        return cls(group, [AlignedScaler() for _ in group.layers])

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

        Args:
            alignment: how the maps are fitted.
            moments: (layer, middle layer) -> raw moments, of every layer but the middle one.
        """
        of_layer, middle = self.of_layer, self.group.middle
        maps = {
            layer: alignment.fit(moments[layer, middle].scaled(scaler, of_layer[middle]))
            for layer, scaler in of_layer.items()
            if layer != middle
        }
        return GroupScaling(
            self.group,
            [AlignedScaler.of(scaler, maps.get(layer)) for layer, scaler in of_layer.items()],
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


class ScalingEstimate(Protocol):
    """Collects what one layer's scaler needs, batch by batch."""

    def add(self, rows_BD: torch.Tensor) -> None:
        """Takes raw rows of this layer into account."""
        ...

    def scaler(self, layer: int) -> ActivationScaler:
        """The scaler of all rows so far; `layer` is for the message if there is none."""
        ...


@dataclass
class MeanNormEstimate:
    """Makes the mean norm of a layer's scaled rows sqrt(d_in), as SAELens does for one hook."""

    d_in: int
    total_norm: float = 0.0
    n_rows: int = 0

    def add(self, rows_BD: torch.Tensor) -> None:
        norm_B = rows_BD.norm(dim=-1)
        self.total_norm += norm_B.float().sum().item()
        self.n_rows += len(norm_B)

    def scaler(self, layer: int) -> ActivationScaler:
        _require_rows(self.n_rows, layer)
        mean_norm = self.total_norm / self.n_rows
        if mean_norm == 0:
            raise NormEstimateError(
                f"the activations of layer {layer} are all zero, so they cannot be normalised; "
                "leave the layer out of layer_groups or set normalize_activations to none"
            )
        factor = self.d_in**0.5 / mean_norm
        if not _SMALLEST <= factor <= 1 / _SMALLEST:
            raise NormEstimateError(
                f"the mean norm of layer {layer}'s activations is {mean_norm:.3g}, which float32 "
                "cannot bring to a usual size; check the model, leave the layer out of "
                "layer_groups, or set normalize_activations to none"
            )
        return ActivationScaler(scaling_factor=factor)


@dataclass
class WhiteningEstimate:
    """PCA whitening of a layer's rows from their first two moments (arXiv 2511.13981)."""

    d_in: int
    n_rows: int = 0
    sum_D: torch.Tensor = field(init=False)
    sum_of_products_DD: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.sum_D = torch.zeros(self.d_in, dtype=torch.float64)
        self.sum_of_products_DD = torch.zeros(self.d_in, self.d_in, dtype=torch.float64)

    def add(self, rows_BD: torch.Tensor) -> None:
        rows_BD = rows_BD.double()
        self.sum_D = self.sum_D.to(rows_BD.device)
        self.sum_of_products_DD = self.sum_of_products_DD.to(rows_BD.device)
        self.n_rows += len(rows_BD)
        self.sum_D += rows_BD.sum(dim=0)
        self.sum_of_products_DD += rows_BD.T @ rows_BD

    def scaler(self, layer: int) -> ActivationScaler:
        _require_rows(self.n_rows, layer, at_least=2)
        mean_D = self.sum_D / self.n_rows
        covariance_DD = (self.sum_of_products_DD - self.n_rows * torch.outer(mean_D, mean_D)) / (
            self.n_rows - 1
        )
        eigenvalue_D, eigenvector_DD = torch.linalg.eigh(covariance_DD)
        eigenvalue_D = eigenvalue_D.clamp(min=0) + _WHITENING_EPS
        whitening = activation_scaler.ActivationWhitening(
            mean=mean_D,
            matrix=(eigenvector_DD * eigenvalue_D.rsqrt()).contiguous(),
            inverse_matrix=(eigenvalue_D.sqrt()[:, None] * eigenvector_DD.T).contiguous(),
        )
        return ActivationScaler(whitening=whitening)


class GroupScalingEstimate:
    """Collects batches of one group and turns them into its `GroupScaling`."""

    def __init__(self, group: LayerGroup, mode: str, d_in: int) -> None:
        estimate = MeanNormEstimate if mode == MEAN_NORM else WhiteningEstimate
        self.group = group
        self.estimates: list[ScalingEstimate] = [estimate(d_in) for _ in group.layers]

    def add(self, rows_BD: torch.Tensor, position_B: torch.Tensor) -> None:
        """Takes a training batch of raw rows into account."""
        if len(self.group) == 1:
            self.estimates[0].add(rows_BD)
            return
        for position, estimate in enumerate(self.estimates):
            estimate.add(rows_BD[position_B == position])

    def scaling(self) -> GroupScaling:
        """The scalers of all rows so far."""
        scalers = [
            estimate.scaler(layer)
            for layer, estimate in zip(self.group.layers, self.estimates, strict=True)
        ]
        return GroupScaling(self.group, scalers)


def _require_rows(n_rows: int, layer: int, at_least: int = 1) -> None:
    if n_rows < at_least:
        raise NormEstimateError(
            f"layer {layer} was drawn for {n_rows} tokens during the norm estimate, which needs "
            f"at least {at_least}; raise n_batches_for_norm_estimate"
        )
