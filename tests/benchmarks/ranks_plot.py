"""What the parts of a run of one process make of more ranks, and the plot of it.

A rank takes its share of the LM batches and of the groups, in whole ones, unequal ones where that is
quicker; the rest of the run is not shared. Each rank has a core and memory of its own, where the two
that were measured share theirs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sae_lens_groups.train.ranks.passes import cost_of_round, unequal_passes

BYTES_PER_SECOND = 2.3e9
"""That gloo moves between two processes of one machine, measured there."""
SECONDS_PER_COLLECTIVE = 0.8e-3
"""For a few numbers, likewise."""
N_RANKS = 12
_MOST_OFF = 0.15


class Parts(NamedTuple):
    """What a run of one process is made of."""

    n_groups: int
    n_lm_batches: int
    bytes_per_batch: int
    """Of one group's rows of one LM batch."""
    share_lm: float
    """Of its time, that of the language model."""
    share_sae: float
    """That of the groups' training steps."""


class Measured(NamedTuple):
    """A shape's seconds by the clock on the wall."""

    shape: str
    seconds: float
    seconds_of_two: float
    parts: Parts


def simulated(found: Measured, n_ranks: int) -> float:
    """The seconds that a run would take on so many ranks."""
    if n_ranks == 1:
        return found.seconds
    n_groups, n_lm_batches, n_bytes, share_lm, share_sae = found.parts
    n_rounds, n_waves = -(-n_lm_batches // n_ranks), -(-n_groups // n_ranks)
    of_ranks = [len(range(rank, n_groups, n_ranks)) for rank in range(n_ranks)]
    lm_cost, sae_cost = share_lm / n_lm_batches, share_sae / n_groups / n_lm_batches
    passes = unequal_passes(of_ranks, lm_cost, sae_cost)
    of_rounds = cost_of_round(passes, of_ranks, lm_cost, sae_cost) * n_lm_batches / n_ranks
    if not passes:  # of whole LM batches at once
        of_rounds += lm_cost * (n_rounds - n_lm_batches / n_ranks)
    # Of its LM batch, a rank sends all groups' rows but its own groups'.
    sent = n_rounds * n_bytes * n_groups * (n_ranks - 1) / n_ranks
    n_collectives = n_rounds * (3 + 2 * n_waves + n_ranks)
    shared = found.seconds * (of_rounds + 1 - share_lm - share_sae)
    return shared + sent / BYTES_PER_SECOND + n_collectives * SECONDS_PER_COLLECTIVE


def draw(measured: Sequence[Measured], path: Path) -> None:
    """Draws how many times as fast as one process each number of ranks is."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ranks = range(1, N_RANKS + 1)
    for found, colour in zip(measured, ("tab:blue", "tab:orange", "tab:purple", "tab:green")):
        speeds = [found.seconds / simulated(found, n) for n in ranks]
        label = f"{found.shape}: simulated"
        axes.plot(ranks, speeds, "--o", color=colour, label=label, markersize=4, fillstyle="none")
        two = found.seconds / found.seconds_of_two
        axes.plot([1, 2], [1, two], "s", color=colour, label="measured, on 2 cores", markersize=7)
    axes.plot(ranks, ranks, ":", color="grey", label="as many times as ranks")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("ranks, one thread each")
    axes.set_ylabel("times as fast as one process")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    axes.set_title(_title(measured), fontsize=9)
    figure.savefig(path, dpi=130)


def _title(measured: Sequence[Measured]) -> str:
    off = max(abs(simulated(of, 2) / of.seconds_of_two - 1) for of in measured)
    seen = f"simulated and measured on 2 ranks differ by {off:.0%}"
    return seen if off <= _MOST_OFF else f"{seen}, which is too much to trust the simulation"
