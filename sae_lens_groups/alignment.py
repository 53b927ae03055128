"""Maps between the activations of two layers, fitted from their second moments.

Shapes: B tokens of one LM batch, D = d_in. Rows are multiplied from the left: x @ matrix + offset.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens.training.activation_scaler import ActivationScaler
from safetensors.torch import load_file, save_file
from typing_extensions import override

from sae_lens_groups import files

NONE = "none"
LayerPair = tuple[int, int]
"""A layer, and the layer it is mapped to."""


@dataclass(frozen=True)
class LayerMap:
    """From a layer's activations to another's, and back by a map of its own. In float64."""

    matrix_DD: torch.Tensor
    offset_D: torch.Tensor
    reverse_matrix_DD: torch.Tensor
    reverse_offset_D: torch.Tensor

    def forward(self, acts: torch.Tensor) -> torch.Tensor:
        """The layer's activations (..., D) as the other layer's."""
        return acts @ self.matrix_DD.to(acts) + self.offset_D.to(acts)

    def backward(self, acts: torch.Tensor) -> torch.Tensor:
        """The other layer's activations (..., D) as this layer's."""
        return acts @ self.reverse_matrix_DD.to(acts) + self.reverse_offset_D.to(acts)

    def then(self, other: "LayerMap | None") -> "LayerMap":
        """This map followed by another."""
        if other is None:
            return self
        return LayerMap(
            self.matrix_DD @ other.matrix_DD,
            self.offset_D @ other.matrix_DD + other.offset_D,
            other.reverse_matrix_DD @ self.reverse_matrix_DD,
            other.reverse_offset_D @ self.reverse_matrix_DD + self.reverse_offset_D,
        )

    def reversed(self) -> "LayerMap":
        """The way back as the map, and the map as the way back."""
        return LayerMap(
            self.reverse_matrix_DD, self.reverse_offset_D, self.matrix_DD, self.offset_D
        )


class PairMoments:
    """Sums over tokens of x, y, |x|, |y|, x^T x, y^T y and x^T y.

    x are the activations at a layer, y those at the layer it is mapped to.
    """

    def __init__(self, d_in: int) -> None:
        self.n_tokens = 0
        self.sum_norm_x, self.sum_norm_y = torch.zeros(2, dtype=torch.float64)
        self.sum_x_D, self.sum_y_D = torch.zeros(2, d_in, dtype=torch.float64)
        self.xx_DD, self.yy_DD, self.xy_DD = torch.zeros(3, d_in, d_in, dtype=torch.float64)

    def to(self, device: torch.device | str) -> "PairMoments":
        """The same sums on a device."""
        moved = PairMoments(0)
        for name, value in vars(self).items():
            setattr(moved, name, value.to(device) if isinstance(value, torch.Tensor) else value)
        return moved

    def add(self, x_BD: torch.Tensor, y_BD: torch.Tensor) -> None:
        """Takes the same tokens' activations at both layers into account."""
        x_BD, y_BD = x_BD.to(self.xx_DD), y_BD.to(self.xx_DD)
        self.n_tokens += len(x_BD)
        self.sum_x_D += x_BD.sum(dim=0)
        self.sum_y_D += y_BD.sum(dim=0)
        self.sum_norm_x += x_BD.norm(dim=1).sum()
        self.sum_norm_y += y_BD.norm(dim=1).sum()
        self.xx_DD += x_BD.T @ x_BD
        self.yy_DD += y_BD.T @ y_BD
        self.xy_DD += x_BD.T @ y_BD

    @property
    def norm_ratio(self) -> float:
        """The mean norm of y over that of x."""
        return float(self.sum_norm_y / self.sum_norm_x)

    def scaled(self, scaler_x: ActivationScaler, scaler_y: ActivationScaler) -> "PairMoments":
        """The moments of the scaled activations, which need not be read again.

        Mean norms do not follow from moments where a scaler whitens; root mean squares stand in.
        """
        d_in = len(self.sum_x_D)
        (P_DD, p_D), (Q_DD, q_D) = _as_affine(scaler_x, d_in), _as_affine(scaler_y, d_in)
        n, scaled = self.n_tokens, PairMoments(d_in)
        scaled.n_tokens = n
        scaled.sum_x_D = self.sum_x_D @ P_DD + n * p_D
        scaled.sum_y_D = self.sum_y_D @ Q_DD + n * q_D
        scaled.xx_DD = _products(self.xx_DD, self.sum_x_D, self.sum_x_D, P_DD, p_D, P_DD, p_D, n)
        scaled.yy_DD = _products(self.yy_DD, self.sum_y_D, self.sum_y_D, Q_DD, q_D, Q_DD, q_D, n)
        scaled.xy_DD = _products(self.xy_DD, self.sum_x_D, self.sum_y_D, P_DD, p_D, Q_DD, q_D, n)
        scaled.sum_norm_x = _sum_of_norms(self.sum_norm_x, scaler_x, scaled.xx_DD, n)
        scaled.sum_norm_y = _sum_of_norms(self.sum_norm_y, scaler_y, scaled.yy_DD, n)
        return scaled


@dataclass(frozen=True)
class Alignment:
    """A way to map a layer's activations to another's."""

    fit: Callable[[PairMoments], LayerMap]
    keeps_lengths: bool = False
    """Whether its maps are rotations: an SAE whose encoder is its decoder takes no others."""
    only_norms: bool = False
    """Whether it does nothing to layers whose mean norms are equal."""


def scale(moments: PairMoments) -> LayerMap:
    """One factor, the ratio of the mean norms."""
    factor = moments.norm_ratio
    identity_DD = torch.eye(len(moments.sum_x_D), dtype=torch.float64)
    return _without_offset(factor * identity_DD, identity_DD / factor)


def orthogonal(moments: PairMoments) -> LayerMap:
    """The rotation Q with the least squared error of x Q as y (Procrustes), and back by its inverse.

    Nothing is centred: a layer's mean is a part of what an SAE explains.
    """
    U_DD, _, Vh_DD = torch.linalg.svd(moments.xy_DD)
    return _without_offset(U_DD @ Vh_DD, (U_DD @ Vh_DD).T.contiguous())


def affine(moments: PairMoments) -> LayerMap:
    """The affine map with the least squared error, and another fitted for the way back.

    The inverse of the first would blow up what the layers do not share.
    """
    n = moments.n_tokens
    mean_x_D, mean_y_D = moments.sum_x_D / n, moments.sum_y_D / n
    xx_DD = moments.xx_DD / n - torch.outer(mean_x_D, mean_x_D)
    yy_DD = moments.yy_DD / n - torch.outer(mean_y_D, mean_y_D)
    xy_DD = moments.xy_DD / n - torch.outer(mean_x_D, mean_y_D)
    matrix_DD = torch.linalg.pinv(xx_DD, hermitian=True) @ xy_DD
    reverse_DD = torch.linalg.pinv(yy_DD, hermitian=True) @ xy_DD.T
    return LayerMap(
        matrix_DD, mean_y_D - mean_x_D @ matrix_DD, reverse_DD, mean_x_D - mean_y_D @ reverse_DD
    )


class AlignedScaler(ActivationScaler):
    """SAELens's scaler of a layer, followed by a map to another layer's scaled activations."""

    layer_map: LayerMap | None = None

    @classmethod
    def of(cls, scaler: ActivationScaler, layer_map: LayerMap | None) -> "AlignedScaler":
        """A scaler that does what this one does, and maps."""
        aligned = cls(**vars(scaler))
        aligned.layer_map = layer_map
        return aligned

    @override
    def scale(self, acts: torch.Tensor) -> torch.Tensor:
        scaled = super().scale(acts)
        return scaled if self.layer_map is None else self.layer_map.forward(scaled)

    @override
    def unscale(self, acts: torch.Tensor) -> torch.Tensor:
        return super().unscale(acts if self.layer_map is None else self.layer_map.backward(acts))

    @override
    def save(self, file_path: str) -> None:
        super().save(file_path)
        if self.layer_map is not None:
            save_file(vars(self.layer_map), Path(file_path).with_name(files.ALIGNMENT))

    @override
    def load(self, file_path: str | Path) -> None:
        super().load(file_path)
        path = Path(file_path).with_name(files.ALIGNMENT)
        self.layer_map = LayerMap(**load_file(path)) if path.exists() else None


def layer_map_of(scaler: ActivationScaler) -> LayerMap | None:
    """The map that follows a scaler, if one does."""
    return scaler.layer_map if isinstance(scaler, AlignedScaler) else None


def _without_offset(matrix_DD: torch.Tensor, reverse_DD: torch.Tensor) -> LayerMap:
    zero_D = torch.zeros(len(matrix_DD), dtype=torch.float64)
    return LayerMap(matrix_DD, zero_D, reverse_DD, zero_D.clone())


def scaling_map(scaler: ActivationScaler, d_in: int) -> LayerMap:
    """What SAELens's part of a scaler does, as a map: from raw activations to scaled ones."""
    whitening: Any = getattr(scaler, "whitening", None)
    factor = 1.0 if scaler.scaling_factor is None else scaler.scaling_factor
    if whitening is None:
        identity_DD = torch.eye(d_in, dtype=torch.float64)
        return _without_offset(factor * identity_DD, identity_DD / factor)
    matrix_DD, mean_D = whitening.matrix.cpu().double(), whitening.mean.cpu().double()
    inverse_DD = whitening.inverse_matrix.cpu().double()
    return LayerMap(factor * matrix_DD, -mean_D @ matrix_DD, inverse_DD / factor, mean_D / factor)


def _as_affine(scaler: ActivationScaler, d_in: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a scaler does to a row: x @ matrix + offset. Returns (D, D) and (D,)."""
    as_map = scaling_map(scaler, d_in)
    return as_map.matrix_DD, as_map.offset_D


def _sum_of_norms(
    raw: torch.Tensor, scaler: ActivationScaler, products_DD: torch.Tensor, n: int
) -> torch.Tensor:
    if getattr(scaler, "whitening", None) is not None:
        return (n * products_DD.trace()).sqrt()
    return raw * (1.0 if scaler.scaling_factor is None else scaler.scaling_factor)


def _products(
    xy_DD: torch.Tensor,
    sum_x_D: torch.Tensor,
    sum_y_D: torch.Tensor,
    P_DD: torch.Tensor,
    p_D: torch.Tensor,
    Q_DD: torch.Tensor,
    q_D: torch.Tensor,
    n: int,
) -> torch.Tensor:
    """Sums of (x P + p)^T (y Q + q) from those of x^T y, x and y."""
    return (
        P_DD.T @ xy_DD @ Q_DD
        + torch.outer(P_DD.T @ sum_x_D, q_D)
        + torch.outer(p_D, sum_y_D @ Q_DD)
        + n * torch.outer(p_D, q_D)
    )
