"""Which rank trains which group."""

from collections.abc import Sequence

from sae_lens_groups.errors import counted
from sae_lens_groups.layers import LayerGroup


def owners(
    groups: Sequence[LayerGroup], n_ranks: int, ranks_per_group: int = 1
) -> list[tuple[LayerGroup, ...]]:
    """Of each rank the groups that it trains: an SAE costs the same whatever its layers.

    Neighbouring ranks, `ranks_per_group` of them, train the same, each a shard of their features.
    Results do not depend on who trains what.
    """
    n_sets = n_ranks // ranks_per_group
    return [tuple(groups[rank // ranks_per_group :: n_sets]) for rank in range(n_ranks)]


def placement_text(placed: Sequence[Sequence[LayerGroup]], ranks_per_group: int = 1) -> str:
    """Who trains what, and a number of groups at which no rank would wait for another."""
    every = ranks_per_group
    listed = "; ".join(
        (f"rank {rank}: " if every == 1 else f"ranks {rank}-{rank + every - 1}, a shard each: ")
        + (" ".join(map(str, placed[rank])) or "the language model alone")
        for rank in range(0, len(placed), every)
    )
    n_ranks, n_groups = len(placed) // every, sum(map(len, placed)) // every
    if n_groups % n_ranks == 0:
        return listed
    better = -(-n_groups // n_ranks) * n_ranks
    return f"{listed}. {counted(better, 'group')} would take no longer on {len(placed)} ranks"
