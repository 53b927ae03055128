"""Estimates each layer's scaling from its first activations: a mean norm, or a whitening."""

from dataclasses import dataclass, field

import torch
from sae_lens.training import activation_scaler
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups.errors import NormEstimateError
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.scaling.group_scaling import MEAN_NORM, GroupScaling

# Squares of scaled activations, and of their gradients, have to stay within float32.
_SMALLEST = 1e-18

# SAELens's n_batches_for_norm_estimate, which a short run would not be as long as.
_MOST_BATCHES = 1000

# Added to the covariance's eigenvalues, as in SAELens.
_WHITENING_EPS = 1e-3


def estimate_batches(mode: str, d_in: int, batch_size: int, n_steps: int) -> int:
    """Training batches that are in proportion to a run of `n_steps`: a tenth, where that is enough."""
    # A mean takes far fewer rows than a covariance, which is d_in^2 numbers.
    n_rows = 4096 if mode == MEAN_NORM else 50 * d_in
    return min(_MOST_BATCHES, max(-(-n_rows // batch_size), n_steps // 10))


@dataclass
class MeanNormEstimate:
    """Makes the mean norm of a layer's scaled rows sqrt(d_in), as SAELens does for one hook."""

    d_in: int
    total_norm: float = 0.0
    n_rows: int = 0

    def add(self, rows_BD: torch.Tensor) -> None:
        """Takes raw rows of this layer into account."""
        norm_B = rows_BD.norm(dim=-1)
        self.total_norm += norm_B.float().sum().item()
        self.n_rows += len(norm_B)

    def scaler(self, layer: int) -> ActivationScaler:
        """The scaler of all rows so far; `layer` is for the message if there is none."""
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
        self.estimates = [estimate(d_in) for _ in group.layers]

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
