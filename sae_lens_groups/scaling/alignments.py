"""The ways to map one layer to another: a factor, a rotation, and least squares."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sae_lens_groups.scaling.layer_scaler import LayerMap, without_offset
from sae_lens_groups.scaling.moments import PairMoments

NONE = "none"


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
