"""Kills ranks of a run of several processes, by hand and under torchrun's restarts."""

import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, IterableDataset
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from sae_lens_groups.train.ranks.world import world_of_process
from tests.faults.kills import Outcome, differing_files, in_child, kill_at_event
from tests.faults.runs import RunKind, train
from tests.test_ranks import environments

# Of one rank, about so many file operations are in a checkpoint.
_EVENTS_PER_CHECKPOINT = 45
_SECONDS_TO_END = 60
"""At most, for the ranks that are left."""


@dataclass(frozen=True)
class Kill:
    """Which rank kills itself, and when: after some time, or at a file operation of a checkpoint."""

    rank: int
    seconds: float | None
    n_events: int = 0

    def __str__(self) -> str:
        when = f"at file event {self.n_events} in the checkpoints"
        return f"rank {self.rank} {when if self.seconds is None else f'after {self.seconds:.2f} s'}"

    def arm(self, checkpoints: Path, done: Path) -> None:
        """Lets this process end so; `done` has a line for every kill that came."""

        def kill() -> None:
            with done.open("a") as lines:
                lines.write(f"{self}\n")
            os.kill(os.getpid(), signal.SIGKILL)

        if self.seconds is None:
            kill_at_event(self.n_events, str(checkpoints), kill)
        else:
            timer = threading.Timer(self.seconds, kill)
            timer.daemon = True
            timer.start()


@dataclass(frozen=True)
class RankedRun:
    """A run of several processes, whose folder holds all that it writes."""

    kind: RunKind
    dataset: Dataset | IterableDataset
    folder: Path
    n_ranks: int

    @property
    def is_done(self) -> bool:
        """Whether its suite is there."""
        return (self.folder / "killed").exists()

    def work(self, kills: Sequence[Kill]) -> None:
        """What each rank does in each attempt, until it is killed."""
        attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        if attempt < len(kills) and kills[attempt].rank == int(os.environ["RANK"]):
            kills[attempt].arm(self.folder / "killed checkpoints", self.folder / "kills")
        try:
            train(self.kind, self.dataset, self.folder, "killed")
        finally:
            world_of_process().leave()

    def under_restarts(self, kills: Sequence[Kill]) -> None:
        """Starts it once, with as many restarts as there are kills."""
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=self.n_ranks,
            run_id="killed",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=len(kills),
            monitor_interval=0.1,
            start_method="fork",  # which spares importing torch; torchrun's agent all the same
        )

        def launch() -> None:
            with _streams_to(self.folder / "log"):
                elastic_launch(config, self.work)(kills)

        _, status = in_child(launch)
        assert status == 0, (self.folder / "log").read_text()[-4000:]

    def by_hand(self, kill: Kill | None) -> None:
        """Starts it once; it is killed where a kill is given, or runs to its end."""
        kills = [] if kill is None else [kill]
        processes = [
            _forked(lambda: self.work(kills), env, self.folder / "log")
            for env in environments(self.n_ranks)
        ]
        statuses = _ended(processes)
        if kill is None:
            assert set(statuses) == {0}, (self.folder / "log").read_text()[-4000:]


def ranks_killed_and_compared(
    run: RankedRun, n_kills: int, chance: random.Random, *, is_restarted: bool
) -> Outcome:
    """Kills ranks `n_kills` times; the run has to write the files of one process left alone."""
    seconds, status = in_child(lambda: train(run.kind, run.dataset, run.folder, "whole"))
    assert status == 0
    kills = [random_kill(run.n_ranks, seconds, chance) for _ in range(n_kills)]
    if is_restarted:
        run.under_restarts(kills)
    else:
        for kill in kills:
            if not run.is_done:
                run.by_hand(kill)
        if not run.is_done:
            run.by_hand(None)
    came = run.folder / "kills"
    lines = came.read_text().splitlines() if came.exists() else []
    return Outcome(lines, differing_files(run.folder / "whole", run.folder / "killed"))


def random_kill(n_ranks: int, seconds: float, chance: random.Random) -> Kill:
    """Half of them in a checkpoint."""
    rank = chance.randrange(n_ranks)
    if chance.random() < 0.5:
        return Kill(rank, seconds * chance.uniform(0.1, 0.5))
    return Kill(rank, None, chance.randrange(1, 2 * _EVENTS_PER_CHECKPOINT))


def _forked(work: Callable[[], None], env: dict[str, str], log: Path) -> int:
    process = os.fork()
    if process:
        return process
    os.environ.update(env)
    status = 1
    try:
        with _streams_to(log):
            work()
        status = 0
    except BaseException:
        with log.open("a") as lines:
            traceback.print_exc(file=lines)
    finally:
        os._exit(status)


@contextmanager
def _streams_to(log: Path):
    sys.stdout.flush()
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        yield


def _ended(processes: list[int]) -> list[int]:
    """The statuses of processes, all of which end soon after the first that is killed."""
    statuses: dict[int, int] = {}
    ends = float("inf")
    while len(statuses) < len(processes):
        for process in set(processes) - statuses.keys():
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                statuses[process] = os.waitstatus_to_exitcode(status)
                ends = min(ends, time.monotonic() + _SECONDS_TO_END)
        if time.monotonic() > ends:
            for process in set(processes) - statuses.keys():
                os.kill(process, signal.SIGKILL)
            raise AssertionError(f"{processes} did not all end: {statuses}")
        time.sleep(0.02)
    return [statuses[process] for process in processes]
