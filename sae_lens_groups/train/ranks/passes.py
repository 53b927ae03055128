"""Which rank runs the language model on which LM batches, and when.

Where not all train as many groups, the others have time to run it for them: unequal shares, by
counted FLOPs. Results do not depend on who runs it.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from sae_lens_groups.activations import GroupActivationsStore
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.train.cost import flops_of_prompt
from sae_lens_groups.train.ranks.world import World

# The buffer is filled more slowly, as nobody trains meanwhile, and the last round is for nothing.
_LEAST_GAIN = 0.9


class Pass(NamedTuple):
    """A pass of the language model, on one LM batch of a round."""

    interval: int
    """While which LM batch of the round before is trained on."""
    rank: int
    """Who runs it."""


def passes_of_run(
    world: World,
    cfg: GroupSAERunnerConfig[Any],
    store: GroupActivationsStore,
    placed: Sequence[tuple[LayerGroup, ...]],
    sae_step_flops: Sequence[float | None],
) -> list[Pass]:
    """The passes of a round, counted on the first rank; empty where every rank makes one before it.

    Args:
        placed: each rank's groups.
        sae_step_flops: per row, of each setting's SAEs; None where they cannot be counted.
    """
    n_groups = [len(groups) for groups in placed]
    if len(set(n_groups)) == 1 or cfg.use_cached_activations:
        return []

    def counted() -> list[Pass]:
        of_rows = [flops for flops in sae_step_flops if flops is not None]
        per_prompt = flops_of_prompt(store)
        if per_prompt is None or len(of_rows) < len(sae_step_flops):
            return []
        n_rows = cfg.rows_per_prompt * cfg.layers_per_token
        return unequal_passes(n_groups, per_prompt, n_rows * sum(of_rows) / cfg.ranks_per_group)

    passes = world.of_first(counted)
    if passes:
        world.say(_text(passes, world.size))
    return passes


def unequal_passes(n_groups: Sequence[int], lm_cost: float, sae_cost: float) -> list[Pass]:
    """Passes of a round, in the order of its LM batches, by which ranks with fewer groups run more.

    All ranks meet before each LM batch is trained on, and wait for the slowest. Empty where a round
    takes no tenth less than if every rank makes one pass before it.

    Args:
        n_groups: how many each rank trains.
        lm_cost: of a pass.
        sae_cost: of training one group on an LM batch's rows, in the same unit.
    """
    every = range(len(n_groups))
    load = {(interval, rank): sae_cost * n_groups[rank] for interval in every for rank in every}
    slowest = [sae_cost * max(n_groups)] * len(n_groups)
    passes: list[Pass] = []
    for _ in every:
        added, interval, rank = min(
            (max(0.0, load[interval, rank] + lm_cost - slowest[interval]), interval, rank)
            for interval, rank in product(every, every)
        )
        load[interval, rank] += lm_cost
        slowest[interval] += added
        passes.append(Pass(interval, rank))
    equal = cost_of_round([], n_groups, lm_cost, sae_cost)
    return sorted(passes) if sum(slowest) < _LEAST_GAIN * equal else []


def cost_of_round(
    passes: Sequence[Pass], n_groups: Sequence[int], lm_cost: float, sae_cost: float
) -> float:
    """What the slowest rank does between two meetings, summed; arguments as of `unequal_passes`."""
    if not passes:  # every rank one, before training goes on
        return lm_cost + len(n_groups) * sae_cost * max(n_groups)
    n_passes, every = Counter(passes), range(len(n_groups))
    return sum(
        max(sae_cost * n_groups[rank] + lm_cost * n_passes[Pass(interval, rank)] for rank in every)
        for interval in every
    )


def _text(passes: Sequence[Pass], n_ranks: int) -> str:
    """How many of a round's LM batches each rank runs the language model on."""
    shares = [sum(one.rank == rank for one in passes) for rank in range(n_ranks)]
    listed = ", ".join(f"rank {rank} runs {share}" for rank, share in enumerate(shares))
    return f"of every {n_ranks} passes of the language model {listed}"
