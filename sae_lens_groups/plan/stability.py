"""How sure a plan's groups are, given the standard errors of the distances."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan.distances import LayerDistances

N_RESAMPLINGS = 100


def stability(
    groups: Sequence[LayerGroup],
    distances: LayerDistances,
    split: Callable[[LayerDistances], Sequence[LayerGroup]],
) -> float:
    """The share of 100 resampled matrices that `split` splits into the same groups.

    Every entry is drawn from a normal distribution with its standard error. A low share means that
    another sample of tokens would have given other groups: a near-tie, or too few tokens.
    """
    generator = np.random.default_rng(0)
    same = [
        tuple(split(_resampled(distances, generator))) == tuple(groups)
        for _ in range(N_RESAMPLINGS)
    ]
    return sum(same) / N_RESAMPLINGS


def _resampled(distances: LayerDistances, generator: np.random.Generator) -> LayerDistances:
    noise = np.triu(generator.normal(size=distances.matrix.shape), 1)
    matrix = distances.matrix + (noise + noise.T) * distances.standard_errors
    return replace(distances, matrix=matrix.clip(min=0))
