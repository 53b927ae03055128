"""Distances between layers, each as sums over blocks of tokens, so that no activation is kept.

Shapes: L layers, N tokens of one block, D = d_in. All in float64.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class DistanceMetric:
    """A way to measure how far apart layers are, in two steps.

    Blocks are disjoint, of 256 to 511 tokens (fewer where one LM batch has fewer), and each holds
    tokens from all over an LM batch.
    """

    sums: Callable[[torch.Tensor], torch.Tensor]
    """A block of activations (L, N, D) to sums of any shape, which are added up over blocks."""
    distances: Callable[[torch.Tensor, int], torch.Tensor]
    """The added sums and the number of tokens behind them to distances (L, L)."""
    centred: bool = False
    """Whether each layer's mean is taken off first. The mean is that of the first tenth of the
    tokens, which are then not in any block: one pass has to do for both."""


def angular_sums(acts_LND: torch.Tensor) -> torch.Tensor:
    """Per pair of layers, the angles between the same token's activations, as parts of pi, added.

    Group-SAE, arXiv 2410.21508, section 3; with `centred`, as in the authors' code.
    """
    unit_NLD = _unit(acts_LND).transpose(0, 1)
    cosine_NLL = unit_NLD @ unit_NLD.transpose(1, 2)
    lower, upper = torch.triu_indices(len(acts_LND), len(acts_LND), 1, device=acts_LND.device)
    angles_NP = cosine_NLL[:, lower, upper].clamp_(-1, 1).acos_()  # P pairs of layers
    sums_LL = acts_LND.new_zeros(len(acts_LND), len(acts_LND))
    sums_LL[lower, upper] = angles_NP.sum(dim=0) / math.pi
    return sums_LL + sums_LL.T


def cosine_sums(acts_LND: torch.Tensor) -> torch.Tensor:
    """Per pair of layers, one minus the cosine of the same token's activations, added."""
    unit_LX = _unit(acts_LND).flatten(1)
    return acts_LND.shape[1] - unit_LX @ unit_LX.T


def mean_over_tokens(sums_LL: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """Added distances to mean distances (L, L)."""
    return sums_LL / n_tokens


def hsic_sums(acts_LND: torch.Tensor) -> torch.Tensor:
    """Per pair of layers, the unbiased HSIC of a block with linear kernels.

    HSIC_1 of Song et al. 2012 (JMLR 13, equation 5). As an unbiased estimate it may be averaged
    over blocks (Nguyen, Raghu, Kornblith 2021, arXiv 2010.15327, section 3).
    """
    n = acts_LND.shape[1]
    if n < 4:  # not defined
        return acts_LND.new_zeros(len(acts_LND), len(acts_LND))
    # HSIC does not depend on the mean, and large means would cost digits.
    acts_LND = acts_LND - acts_LND.mean(dim=1, keepdim=True)
    kernel_LNN = acts_LND @ acts_LND.transpose(1, 2)
    kernel_LNN.diagonal(dim1=1, dim2=2).zero_()
    row_sums_LN = kernel_LNN.sum(dim=2)
    total_L = row_sums_LN.sum(dim=1)
    flat_LX = kernel_LNN.flatten(1)
    return (
        flat_LX @ flat_LX.T
        + torch.outer(total_L, total_L) / ((n - 1) * (n - 2))
        - row_sums_LN @ row_sums_LN.T * 2 / (n - 2)
    ) / (n * (n - 3))


def one_minus_cka(hsic_LL: torch.Tensor, n_tokens: int) -> torch.Tensor:  # noqa: ARG001
    """Added HSICs to one minus the linear CKA, which noise may bring above 1 or below 0."""
    self_L = hsic_LL.diagonal()
    return 1 - hsic_LL / torch.outer(self_L, self_L).sqrt()


ANGULAR = DistanceMetric(sums=angular_sums, distances=mean_over_tokens, centred=True)
COSINE = DistanceMetric(sums=cosine_sums, distances=mean_over_tokens)
CKA = DistanceMetric(sums=hsic_sums, distances=one_minus_cka)


def _unit(acts_LND: torch.Tensor) -> torch.Tensor:
    """Each row divided by its norm; a row of zeros stays one, at a right angle to every other."""
    smallest = torch.finfo(acts_LND.dtype).tiny
    return acts_LND / acts_LND.norm(dim=2, keepdim=True).clamp(min=smallest)
