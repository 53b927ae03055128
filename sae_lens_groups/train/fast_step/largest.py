"""The largest of many values, found with less work than torch does.

On a CPU numpy chooses, whose partition (from numpy 2 on) and comparison use vector instructions,
where torch's do not. The chosen come in an order that is the same every time on one machine.
"""

from itertools import count
from math import gcd

import numpy as np
import torch

_BUNDLE = 8  # measured best among 4, 8 and 16, as were this many bundles for each value wanted
_BUNDLES_PER_WANTED = 4
_PARTITIONED_AT_ONCE = 2**20  # numpy's places take 8 bytes for each value
_LINE = 16  # values of float32 in a cache line
_LINES_SAMPLED = 2**14


def largest_per_row(
    values_BF: torch.Tensor, k: int, by_magnitude: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest values of each row and where they are, both (B, k), in no order."""
    column_BK = _columns_of_largest(values_BF, k, by_magnitude)
    return values_BF.gather(1, column_BK), column_BK


def _columns_of_largest(values_BF: torch.Tensor, k: int, by_magnitude: bool) -> torch.Tensor:
    n_rows, width = values_BF.shape
    n_bundles = width // _BUNDLE
    if width % _BUNDLE or n_bundles < _BUNDLES_PER_WANTED * k:
        return _partitioned(values_BF.abs() if by_magnitude else values_BF, k)
    # Columns c, c + n, c + 2n and so on make a bundle. The k largest values lie in the k bundles of
    # the largest maximum: outside of those, k larger values exist. Maxima are quick to find.
    bundles = values_BF.view(n_rows, _BUNDLE, n_bundles)
    maximum = bundles.amax(1)
    if by_magnitude:
        maximum = torch.maximum(maximum, -bundles.amin(1))
    bundle_BK = _columns_of_largest(maximum, k, by_magnitude=False)
    firsts = torch.arange(0, width, n_bundles, device=values_BF.device)
    candidate = (bundle_BK[:, None, :] + firsts[:, None]).view(n_rows, _BUNDLE * k)
    values = values_BF.gather(1, candidate)
    return candidate.gather(1, _partitioned(values.abs() if by_magnitude else values, k))


def _partitioned(values_BF: torch.Tensor, k: int) -> torch.Tensor:
    if values_BF.device.type != "cpu":
        return torch.topk(values_BF, k, dim=-1, sorted=False).indices
    blocks = values_BF.split(max(1, _PARTITIONED_AT_ONCE // values_BF.shape[1]))
    columns = [np.argpartition(block.numpy(), -k, axis=1)[:, -k:] for block in blocks]
    return torch.from_numpy(np.concatenate(columns))


def places_above(values_BF: torch.Tensor, lowest: torch.Tensor) -> torch.Tensor:
    """The places in the flattened tensor of values above this, ascending; waits for the device."""
    if values_BF.device.type != "cpu":
        return (values_BF > lowest).view(-1).nonzero().squeeze(1)
    return torch.from_numpy(np.flatnonzero(values_BF.numpy() > lowest.numpy()))


def largest_of_all(values: torch.Tensor, n: int) -> torch.Tensor:
    """The places of the n largest of a flat tensor, in ascending order.

    Values that are not positive may be left out, as ReLU makes them zero. Of equal ones the first
    are taken on a CPU.
    """
    if values.device.type != "cpu":  # a data-dependent size would wait for the device
        return torch.topk(values, n, sorted=False).indices.sort().values
    return torch.from_numpy(_largest_of_all(values.numpy(), n))


def _largest_of_all(values: np.ndarray, n: int) -> np.ndarray:
    # A partition of millions is slow, so most are ruled out first.
    candidate = np.flatnonzero(values > _bound_below_largest(values, n))
    if len(candidate) < n:
        candidate = np.flatnonzero(values > 0)
    if len(candidate) <= n:
        return candidate
    of_candidates = values[candidate]
    least = np.partition(of_candidates, -n)[-n]
    is_chosen = of_candidates > least
    is_chosen[np.flatnonzero(of_candidates == least)[: n - np.count_nonzero(is_chosen)]] = True
    return candidate[is_chosen]


def _bound_below_largest(values: np.ndarray, n: int) -> float:
    """A bound, not negative, that a sample suggests: a little more than n values lie above it."""
    # Whole cache lines, which cost as much to read as one value of each. A step without a common
    # factor with their number comes to all features; some are larger than others.
    n_lines = max(1, len(values) // _LINE)
    lines = values[: n_lines * _LINE].reshape(n_lines, -1)
    step = next(s for s in count(max(1, n_lines // _LINES_SAMPLED)) if gcd(s, n_lines) == 1)
    sample = lines[::step].reshape(-1)
    expected = n * len(sample) / len(values)
    rank = min(len(sample), int(1.1 * expected + 6 * expected**0.5) + 1)
    return max(0.0, float(np.partition(sample, -rank)[-rank]))
