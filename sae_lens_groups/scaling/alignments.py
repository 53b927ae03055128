"""The ways to map one layer to another: a factor, a rotation, and least squares."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sae_lens_groups.scaling.layer_scaler import LayerMap, without_offset
from sae_lens_groups.scaling.moments import LayerPair, PairMoments

NONE = "none"
SCALE = "scale"

# Of R2: where two maps are about as good, the one that was asked for stays.
_WORSE = 0.01


@dataclass(frozen=True)
class Alignment:
    """A way to map a layer's activations to another's."""

    fit: Callable[[PairMoments], LayerMap]
    keeps_lengths: bool = False
    """Whether its maps are rotations: an SAE whose encoder is its decoder takes no others."""
    only_norms: bool = False
    """Whether it does nothing to layers whose mean norms are equal."""

    def fit_or_scale(self, moments: PairMoments, pair: LayerPair) -> tuple[LayerMap, bool]:
        """The fitted map, and True; or `scale`'s, a warning, and False.

        The latter where it explains less than `scale` does of tokens that it was not fitted on.
        """
        fitted = self.fit(moments)
        if self.keeps_lengths or len(moments.held_x_BD) == 0:
            return fitted, True
        rest = moments.without_held_out()
        r2 = moments.held_out_r2(self.fit(rest))
        r2_scale = moments.held_out_r2(scale(rest))
        loss, way = max((s - r, way) for s, r, way in zip(r2_scale, r2, (0, 1)))
        if loss < _WORSE:
            return fitted, True
        layer, other = pair if way == 0 else reversed(pair)
        warnings.warn(
            f"the map of layer {layer} to layer {other} that the alignment fits is worse than "
            f"`scale` on tokens held out (R2 {r2[way]:.2f}, scale {r2_scale[way]:.2f}), so `scale` "
            "is used for these layers; raise plan_tokens",
            stacklevel=2,
        )
        return scale(moments), False


def scale(moments: PairMoments) -> LayerMap:
    """One factor, the ratio of the mean norms."""
    factor = moments.norm_ratio
    identity_DD = torch.eye(len(moments.sum_x_D), dtype=torch.float64)
    return without_offset(factor * identity_DD, identity_DD / factor)


def orthogonal(moments: PairMoments) -> LayerMap:
    """The rotation Q with the least squared error of x Q as y (Procrustes), and back by its inverse.

    Nothing is centred: a layer's mean is a part of what an SAE explains.
    """
    U_DD, _, Vh_DD = torch.linalg.svd(moments.xy_DD)
    return without_offset(U_DD @ Vh_DD, (U_DD @ Vh_DD).T.contiguous())


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
