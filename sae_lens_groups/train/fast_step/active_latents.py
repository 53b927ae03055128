"""The active latents of a batch, and the sums over them that a training step is made of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch.nn.functional import embedding_bag

_BLOCK_BYTES = 3 * 2**19


@dataclass(frozen=True)
class ActiveLatents:
    """Which latents are active in which row, ordered by row."""

    row_N: torch.Tensor
    feature_N: torch.Tensor
    value_N: torch.Tensor
    """The activations, as SAELens's `feature_acts` holds them; 0 where ReLU cut one off."""
    n_rows: int
    d_sae: int

    def relu(self) -> "ActiveLatents":
        """The same behind a ReLU."""
        return replace(self, value_N=self.value_N.relu())

    def where(self, is_kept_N: torch.Tensor) -> "ActiveLatents":
        """Some of them; waits for the device."""
        kept_N = places_of(is_kept_N)
        return replace(
            self,
            row_N=self.row_N.index_select(0, kept_N),
            feature_N=self.feature_N.index_select(0, kept_N),
            value_N=self.value_N.index_select(0, kept_N),
        )

    def in_parts(self, widths: Sequence[int]) -> "ActiveLatents":
        """With a row for each part of the features of each row: row 0's parts, then row 1's.

        Within a row the latents have to be ordered by feature, where there is more than one part.

        Args:
            widths: where each part ends.
        """
        n_parts = len(widths)
        if n_parts == 1:
            return self
        ends = torch.tensor(widths[:-1], device=self.feature_N.device)
        part_N = torch.bucketize(self.feature_N, ends, right=True)
        row_N = self.row_N * n_parts + part_N
        return replace(self, row_N=row_N, n_rows=self.n_rows * n_parts)

    def to_sparse(self) -> torch.Tensor:
        """SAELens's `feature_acts`, (B, F), as a sparse COO tensor."""
        return torch.sparse_coo_tensor(
            torch.stack([self.row_N, self.feature_N]),
            self.value_N,
            (self.n_rows, self.d_sae),
            check_invariants=False,
        )

    def decode(self, weight_N: torch.Tensor, W_dec_FD: torch.Tensor) -> "Decoded":
        """Per row, the sum of its latents' decoder rows times their weights."""
        weight_N = weight_N.detach().requires_grad_()
        with torch.enable_grad():
            sum_BD = embedding_bag(
                self.feature_N,
                W_dec_FD.detach(),
                starts(self.row_N, self.n_rows),
                mode="sum",
                per_sample_weights=weight_N,
            )
        return Decoded(sum_BD, weight_N)


@dataclass(frozen=True)
class Decoded:
    """Sums of decoder rows, and the weights that they were taken with."""

    _sum_BD: torch.Tensor
    _weight_N: torch.Tensor

    @property
    def sum_BD(self) -> torch.Tensor:
        """(B, D), without a gradient."""
        return self._sum_BD.detach()

    def weight_gradient(self, grad_BD: torch.Tensor) -> torch.Tensor:
        """The gradient (N,) of the weights, from that of the sums; (N, D) is never in memory."""
        return torch.autograd.grad(self._sum_BD, self._weight_N, grad_BD)[0]


class ByFeature:
    """The same latents ordered by feature, for sums over the rows in which a feature is active."""

    def __init__(self, active: ActiveLatents) -> None:
        self._order_N = _by_feature(active.feature_N, active.d_sae)
        self._start_F = starts(active.feature_N, active.d_sae)

    def write_sums(
        self,
        weight_N: torch.Tensor,
        row_N: torch.Tensor,
        rows_BD: torch.Tensor,
        out_FD: torch.Tensor,
    ) -> None:
        """Sets each feature's row to the sum of its latents' rows of `rows_BD` times their weights."""
        weight_N = weight_N.index_select(0, self._order_N)
        row_N = row_N.index_select(0, self._order_N)
        for features, latents in self._blocks(out_FD):
            out_FD[features] = embedding_bag(
                row_N[latents],
                rows_BD,
                self._start_F[features] - latents.start,
                mode="sum",
                per_sample_weights=weight_N[latents],
            )

    def _blocks(self, out_FD: torch.Tensor) -> Iterator[tuple[slice, slice]]:
        """Ranges of features and of their latents; the sums of a block fit a processor's cache."""
        n_features, width = out_FD.shape
        n_latents = len(self._order_N)
        if out_FD.device.type != "cpu":
            yield slice(0, n_features), slice(0, n_latents)
            return
        n_per_block = max(1, _BLOCK_BYTES // (width * out_FD.element_size()))
        firsts = range(0, n_features, n_per_block)
        starts = [*self._start_F[::n_per_block].tolist(), n_latents]
        for first, (start, end) in zip(firsts, pairwise(starts), strict=True):
            yield slice(first, first + n_per_block), slice(start, end)


def places_of(is_there_N: torch.Tensor) -> torch.Tensor:
    """Where this is true, ascending; on a CPU by numpy, which takes a quarter of torch's time."""
    if is_there_N.device.type != "cpu":
        return is_there_N.nonzero().squeeze(1)
    return torch.from_numpy(np.flatnonzero(is_there_N.numpy()))


def starts(index_N: torch.Tensor, n: int) -> torch.Tensor:
    """Where the entries of each of n places begin, (n,), once they are ordered by place."""
    count = torch.zeros(n, dtype=torch.long, device=index_N.device)
    # torch.bincount would wait for the device.
    count.scatter_add_(0, index_N, torch.ones_like(index_N))
    return count.cumsum(0) - count


def _by_feature(feature_N: torch.Tensor, d_sae: int) -> torch.Tensor:
    """The order of latents by feature, stable: no sum's order depends on the device."""
    is_narrow = d_sae <= 2**15
    feature_N = feature_N.to(torch.int16 if is_narrow else torch.int32)  # narrow ones sort faster
    if is_narrow and feature_N.device.type == "cpu":
        # A radix sort whatever the size; torch's is one for large tensors only.
        return torch.from_numpy(np.argsort(feature_N.numpy(), kind="stable"))
    return torch.sort(feature_N, stable=True).indices
