"""`optimal`: of all ways to split layers into G runs, the one with the least distance inside them.

The objective is the sum of the distances between all pairs of layers that share a group. Of ten
candidates it agreed best with the explained variance that suites on random partitions reached
(tutorials/planning.md); AMAD, minimised directly, gives single layers and one giant group.
"""

from collections.abc import Sequence

import numpy as np

from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan.rule import PartitionRequest


def optimal(request: PartitionRequest) -> Sequence[LayerGroup]:
    """The G runs of layers with the smallest sum of distances inside them, found exactly.

    Of equally good splits, the one whose last group is longest, then the one before it, and so on.
    """
    assert request.distances is not None
    assert request.n_groups is not None
    layers = slice(0, request.n_layers)
    inside = _distances_inside(request.distances.matrix[layers, layers])
    return _best_runs(inside, request.n_groups)


def _distances_inside(matrix: np.ndarray) -> np.ndarray:
    """(L, L): at [first, last] the sum of the distances between all pairs of layers of that run."""
    inside = np.zeros_like(matrix)
    for first in range(len(matrix)):
        for last in range(first + 1, len(matrix)):
            inside[first, last] = inside[first, last - 1] + matrix[first:last, last].sum()
    return inside


def _best_runs(inside: np.ndarray, n_groups: int) -> list[LayerGroup]:
    """Dynamic programme over where the last of n runs begins."""
    n_layers = len(inside)
    # least[n, end]: the smallest sum of layers 0 to end - 1 in n runs; start[n, end]: of the last.
    least = np.full((n_groups + 1, n_layers + 1), np.inf)
    start = np.zeros((n_groups + 1, n_layers + 1), dtype=int)
    least[0, 0] = 0
    for n in range(1, n_groups + 1):
        for end in range(n, n_layers + 1):
            sums = least[n - 1, :end] + inside[:end, end - 1]
            start[n, end] = np.argmin(sums)
            least[n, end] = sums[start[n, end]]
    runs: list[LayerGroup] = []
    end = n_layers
    for n in range(n_groups, 0, -1):
        first = int(start[n, end])
        runs.insert(0, LayerGroup(first, end - 1))
        end = first
    return runs
