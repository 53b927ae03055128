"""Kills a run at random moments, lets it go on each time, and compares how it ends."""

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, IterableDataset

from tests.faults.runs import RunKind, train

# Python reports these before they happen.
_FILE_EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}
# So many of them one checkpoint takes, with the removal of an old one.
_EVENTS_PER_CHECKPOINT = 110


@dataclass
class Outcome:
    """How a run that was killed compares with the one that was not."""

    kind: RunKind
    kills: list[str]
    """Where each kill came."""
    differing: list[str]
    """The files that differ; none is what is wanted."""


def killed_and_compared(
    kind: RunKind,
    dataset: Dataset | IterableDataset,
    folder: Path,
    n_kills: int,
    chance: random.Random,
) -> Outcome:
    """Kills a run `n_kills` times; it has to write the files of a run that was left alone."""
    seconds, status = in_child(lambda: train(kind, dataset, folder, "whole"))
    assert status == 0
    kills: list[str] = []
    while len(kills) < n_kills:
        where = _killed_once(kind, dataset, folder, seconds, chance)
        if where is not None:
            kills.append(where)
        elif (folder / "killed").exists():
            break  # it was done before the kill came
    if not (folder / "killed").exists():
        _, status = in_child(lambda: train(kind, dataset, folder, "killed"))
        assert status == 0
    return Outcome(kind, kills, differing_files(folder / "whole", folder / "killed"))


def _killed_once(
    kind: RunKind,
    dataset: Dataset | IterableDataset,
    folder: Path,
    seconds: float,
    chance: random.Random,
) -> str | None:
    """Starts or goes on with the run and kills it; None where it ended before."""
    if chance.random() < 0.5:
        delay = seconds * chance.uniform(0.1, 0.5)
        _, status = in_child(lambda: train(kind, dataset, folder, "killed"), kill_after=delay)
        where = f"after {delay:.2f} s"
    else:
        n_events = chance.randrange(1, 2 * _EVENTS_PER_CHECKPOINT)
        checkpoints = str(folder / "killed checkpoints")

        def train_until_event() -> None:
            kill_at_event(n_events, checkpoints)
            train(kind, dataset, folder, "killed")

        _, status = in_child(train_until_event)
        where = f"at file event {n_events} in the checkpoints"
    if status == 0:
        return None
    assert status == -signal.SIGKILL, f"the run ended by itself with {status}"
    return where


def kill_self() -> None:
    """Ends this process as a machine that is switched off would."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_event(n_events: int, folder: str, kill: Callable[[], None] = kill_self) -> None:
    """Lets this process kill itself at the nth file operation inside a folder."""
    n_seen = 0

    def count(event: str, args: tuple[object, ...]) -> None:
        nonlocal n_seen
        if event not in _FILE_EVENTS or not str(args[0]).startswith(folder):
            return
        n_seen += 1
        if n_seen == n_events:
            kill()

    sys.addaudithook(count)


def in_child(work: Callable[[], None], kill_after: float | None = None) -> tuple[float, int]:
    """Does some work in a process of its own; returns its seconds and its exit status.

    The process is a fork, which spares it importing torch again.
    """
    start = time.monotonic()
    process = os.fork()
    if process == 0:
        _work_and_exit(work)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return time.monotonic() - start, os.waitstatus_to_exitcode(status)


def _work_and_exit(work: Callable[[], None]) -> None:
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # progress bars of a hundred runs
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def differing_files(one: Path, other: Path) -> list[str]:
    """Files of two suites that are not the same, but for the settings, which name folders."""
    names = {
        str(path.relative_to(folder))
        for folder in (one, other)
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("runner_cfg.json", "checksums.json")
    }
    return sorted(name for name in names if _content(one / name) != _content(other / name))


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
