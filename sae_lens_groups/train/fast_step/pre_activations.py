"""The pre-activations of a batch, few of which a step needs."""

from collections.abc import Callable
from itertools import count
from math import gcd

import numpy as np
import torch

from sae_lens_groups.train.fast_step.active_latents import ActiveLatents, places_of
from sae_lens_groups.train.fast_step.scratch import Scratch

_BLOCK_BYTES = 2**18  # of a product, what is asked of it and the answer stay in a processor's cache
_LINE = 32  # neighbours that cost about as much to read as one alone
_LINES_SAMPLED = 2**12


class PreActivations:
    """SAELens's `hidden_pre`, (B, F): `product * factor + bias`, computed where it is needed.

    To convert, multiply and add all of it takes a processor as long as the product itself, so the
    product is asked which latents can be active, and only theirs are computed. On a GPU all are.

    Args:
        product_BF: of rows and encoder, in float32 or bfloat16. Overwritten by `whole`.
        bias_F: what is added, in float32.
        factor_F: what is multiplied with, not negative; None for 1.
        scratch: memory that the steps of all groups share.
    """

    def __init__(
        self,
        product_BF: torch.Tensor,
        bias_F: torch.Tensor,
        factor_F: torch.Tensor | None,
        scratch: Scratch,
    ) -> None:
        self._product_BF = product_BF
        self._bias_F = bias_F
        self._factor_F = factor_F
        self._scratch = scratch

    @property
    def shape(self) -> torch.Size:
        """(B, F)."""
        return self._product_BF.shape

    def whole(self) -> torch.Tensor:
        """All of them, (B, F), in float32."""
        out = self._product_BF
        if out.dtype != torch.float32:
            # Converted as a whole: torch mixes two dtypes in one operation ten times as slowly.
            out = self._scratch.empty("hidden", tuple(out.shape), self._bias_F).copy_(out)
        self._product_BF = self._applied(out, lambda of_F: of_F, out=out)
        self._bias_F, self._factor_F = torch.zeros_like(self._bias_F), None
        return self._product_BF

    def columns(self, index_C: torch.Tensor) -> torch.Tensor:
        """Those of some features, (B, C), in float32."""
        return self._applied(self._product_BF[:, index_C], lambda of_F: of_F[index_C])

    def above(self, lowest: torch.Tensor) -> ActiveLatents:
        """The latents above this, one value for each feature, (F,), or for all; waits for the device."""
        if self._is_whole_needed:
            return self._at(places_of((self.whole() > lowest).view(-1)))
        near = self._near(lowest)
        if lowest.dim() > 0:
            lowest = lowest.index_select(0, near.feature_N)
        return near.where(near.value_N > lowest)

    def largest(self, n: int) -> ActiveLatents:
        """The n largest of the batch. On a CPU without those that are not positive, as ReLU makes
        them zero, and of equal ones the first.
        """
        if self._is_whole_needed:  # a data-dependent size would wait for the device
            values = self.whole().view(-1)
            return self._at(torch.topk(values, n, sorted=False).indices.sort().values)
        bound = _bound_below_largest(self._sample(), n / self._product_BF.numel())
        near = self._near(bound)
        if np.count_nonzero(near.value_N.numpy() > bound.numpy()) < n:
            near = self._near(torch.zeros(()))
        return near.where(torch.from_numpy(_are_largest(near.value_N.numpy(), n)))

    @property
    def _is_whole_needed(self) -> bool:
        return self._product_BF.device.type != "cpu"

    def _near(self, lowest: torch.Tensor) -> ActiveLatents:
        """All above this, and the few below that only rounding keeps from it."""
        limit_F = lowest - self._bias_F - 1e-6 * (lowest.abs() + self._bias_F.abs())
        if self._factor_F is not None:
            limit_F = limit_F / self._factor_F
        return self._at(torch.from_numpy(_places_above(self._product_BF, limit_F)))

    def _at(self, index_N: torch.Tensor) -> ActiveLatents:
        """Those at ascending places of the flattened matrix."""
        n_rows, width = self.shape
        row_N = _divided(index_N, width)
        feature_N = index_N - row_N * width
        product_N = self._product_BF.view(-1).index_select(0, index_N)
        value_N = self._applied(product_N, lambda of_F: of_F.index_select(0, feature_N))
        return ActiveLatents(row_N, feature_N, value_N, n_rows, width)

    def _sample(self) -> torch.Tensor:
        """Values of all features, evenly spread: all of a small matrix."""
        line = gcd(self.shape[1], _LINE)
        lines_LE = self._product_BF.view(-1, line)
        # A step without a common factor comes to all features; some are larger than others.
        steps = count(max(1, len(lines_LE) // _LINES_SAMPLED))
        step = next(step for step in steps if gcd(step, len(lines_LE)) == 1)
        of_row_S = torch.arange(0, len(lines_LE), step) % (self.shape[1] // line)
        return self._applied(
            lines_LE[::step], lambda of_F: of_F.view(-1, line).index_select(0, of_row_S)
        )

    def _applied(
        self,
        product: torch.Tensor,
        of: Callable[[torch.Tensor], torch.Tensor],
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Pre-activations from values of the product, for which `of` picks bias and factor."""
        product, bias = product.float(), of(self._bias_F)
        if self._factor_F is None:
            return torch.add(product, bias, out=out)
        return torch.addcmul(bias, product, of(self._factor_F), out=out)


def _divided(index_N: torch.Tensor, by: int) -> torch.Tensor:
    """Rounded down; on a CPU by numpy, which takes a quarter of torch's time."""
    if index_N.device.type != "cpu":
        return index_N // by
    return torch.from_numpy(index_N.numpy() // by)


def _places_above(product_BF: torch.Tensor, limit_F: torch.Tensor) -> np.ndarray:
    """The places in the flattened product of values above each feature's limit, ascending.

    By numpy, whose comparison uses vector instructions, where torch's does not. Bfloat16, which it
    does not know, is compared by its bits.
    """
    n_rows, width = product_BF.shape
    n_per_block = max(1, _BLOCK_BYTES // (width * product_BF.element_size()))
    limit, is_bits = limit_F.numpy(), product_BF.dtype != torch.float32
    if is_bits:
        limit = _ordered(limit_F.view(torch.int32).numpy())
        limit = ((limit >> 16) - (limit < 0)).astype(np.int16)  # rounded down
    is_in_order = not is_bits or bool((limit >= 0).all())  # as bits of positive numbers are
    values = (product_BF.view(torch.int16) if is_bits else product_BF).numpy()
    places = []
    for first in range(0, n_rows, n_per_block):
        block = values[first : first + n_per_block]
        is_above = (block if is_in_order else _ordered(block)) > limit
        places.append(np.flatnonzero(is_above) + first * width)
    return np.concatenate(places)


def _ordered(bits: np.ndarray) -> np.ndarray:
    """Integers in the order of the numbers whose bits these are, as signed integers."""
    return bits ^ ((bits >> (8 * bits.itemsize - 1)) & np.iinfo(bits.dtype).max)


def _bound_below_largest(sample: torch.Tensor, share: float) -> torch.Tensor:
    """A bound, not negative, with likely a little more than this share of all values above it."""
    values = sample.numpy().reshape(-1)
    expected = share * len(values)
    rank = min(len(values), int(1.1 * expected + 6 * expected**0.5) + 1)
    return torch.tensor(max(0.0, float(np.partition(values, -rank)[-rank])))


def _are_largest(values: np.ndarray, n: int) -> np.ndarray:
    """Which are the n largest, of equal ones the first; of fewer that are positive, these."""
    least = np.partition(values, -n)[-n] if len(values) >= n else 0
    if least <= 0:
        return values > 0
    is_largest = values > least
    is_largest[np.flatnonzero(values == least)[: n - np.count_nonzero(is_largest)]] = True
    return is_largest
