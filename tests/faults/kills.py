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

Train = Callable[[str], None]
"""Writes a suite of this name to the end, from where it was left when there is something of it."""

# Python reports these before they happen.
_FILE_EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}
# So many of them one checkpoint takes, with the removal of an old one.
_EVENTS_PER_CHECKPOINT = 110


@dataclass
class Outcome:
    """How a run that was killed compares with the one that was not."""

    kills: list[str]
    """Where each kill came."""
    differing: list[str]
    """The files that differ; none is what is wanted."""


def killed_and_compared(train: Train, folder: Path, n_kills: int, chance: random.Random) -> Outcome:
    """Kills a run `n_kills` times; it has to write the files of a run that was left alone.

    Args:
        folder: where `train` writes, nothing but what begins with the name that it is given.
    """
    seconds, status = in_child(lambda: train("whole"))
    assert status == 0
    kills: list[str] = []
    while len(kills) < n_kills:
        where = _killed_once(train, folder, seconds, chance)
        if where is None:
            break  # it was done before the kill came
        kills.append(where)
    else:
        _, status = in_child(lambda: train("killed"))
        assert status == 0
    return Outcome(kills, differing_files(folder / "whole", folder / "killed"))


def _killed_once(train: Train, folder: Path, seconds: float, chance: random.Random) -> str | None:
    """Starts or goes on with the run and kills it; None where it ended before."""
    if chance.random() < 0.5:
        delay = seconds * chance.uniform(0.1, 0.5)
        _, status = in_child(lambda: train("killed"), kill_after=delay)
        where = f"after {delay:.2f} s"
    else:
        n_events = chance.randrange(1, 2 * _EVENTS_PER_CHECKPOINT)

        def train_until_event() -> None:
            kill_at_event(n_events, str(folder / "killed"))
            train("killed")

        _, status = in_child(train_until_event)
        where = f"at event {n_events} of its files"
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
    """Files of two suites that are not the same, but for those that name folders or tell times."""
    names = {
        str(path.relative_to(folder))
        for folder in (one, other)
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("runner_cfg.json", "checksums.json", "recipe.json")
    }
    return sorted(name for name in names if _content(one / name) != _content(other / name))


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
