"""Which rank trains which group."""

from collections.abc import Sequence

from sae_lens_groups.errors import counted
from sae_lens_groups.layers import LayerGroup


def owners(groups: Sequence[LayerGroup], n_ranks: int) -> list[tuple[LayerGroup, ...]]:
    """Of each rank the groups that it trains: an SAE costs the same whatever its layers.

    Results do not depend on it.
    """
    return [tuple(groups[rank::n_ranks]) for rank in range(n_ranks)]


def placement_text(placed: Sequence[Sequence[LayerGroup]]) -> str:
    """Who trains what, and a number of groups at which no rank would wait for another."""
    listed = "; ".join(
        f"rank {rank}: " + (" ".join(map(str, groups)) or "the language model alone")
        for rank, groups in enumerate(placed)
    )
    n_ranks, n_groups = len(placed), sum(map(len, placed))
    if n_groups % n_ranks == 0:
        return listed
    better = -(-n_groups // n_ranks) * n_ranks
    return f"{listed}. {counted(better, 'group')} would take no longer on {n_ranks} ranks"
