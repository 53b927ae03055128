"""Runs of nearly equal length."""

from collections.abc import Sequence

from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan.rule import PartitionRequest


def even(request: PartitionRequest) -> Sequence[LayerGroup]:
    """`even:G`: G runs of near-equal length.

    Where they cannot be equal, the earlier ones are one layer longer.
    """
    assert request.n_groups is not None
    shortest, n_longer = divmod(request.n_layers, request.n_groups)
    groups: list[LayerGroup] = []
    first = 0
    for index in range(request.n_groups):
        last = first + shortest - (0 if index < n_longer else 1)
        groups.append(LayerGroup(first, last))
        first = last + 1
    return groups
