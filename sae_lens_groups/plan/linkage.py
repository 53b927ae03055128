"""`linkage`: merges neighbouring runs of layers, the closest first."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan.rule import PartitionRequest


def linkage(request: PartitionRequest) -> Sequence[LayerGroup]:
    """Complete linkage on the distances, merging only neighbours, until G groups are left.

    The groups for G are those for G + 1 with two merged. Of equally close pairs the lowest is
    merged. (Group-SAE, arXiv 2410.21508, section 3, asks for complete linkage; that a group is a
    run of layers is left to chance there.)
    """
    assert request.distances is not None
    assert request.n_groups is not None
    matrix = request.distances.matrix
    runs = [LayerGroup(layer, layer) for layer in range(request.n_layers)]
    while len(runs) > request.n_groups:
        apart = [_distance(matrix, below, above) for below, above in pairwise(runs)]
        closest = int(np.argmin(apart))
        merged = LayerGroup(runs[closest].first, runs[closest + 1].last)
        runs[closest : closest + 2] = [merged]
    return runs


def _distance(matrix: np.ndarray, below: LayerGroup, above: LayerGroup) -> float:
    """The largest distance between a layer of one run and a layer of the other."""
    return matrix[below.first : below.last + 1, above.first : above.last + 1].max()
