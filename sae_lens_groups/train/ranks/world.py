"""The processes that train one suite, as each of them sees the others."""

import atexit
import contextlib
import functools
import os
import sys
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from sae_lens_groups.errors import ConfigError, TrainingInterrupted, in_one_line
from sae_lens_groups.train.ranks.heartbeat import Heartbeat
from sae_lens_groups.train.ranks.status import (
    LostError,
    TornError,
    Wishes,
    agreed,
    is_agreed,
    portable,
)

_T = TypeVar("_T")
_K = TypeVar("_K")
_V = TypeVar("_V")

START_UP = timedelta(hours=2)
"""How long ranks wait for one another before the first step, while one downloads or measures."""
PATIENCE = timedelta(minutes=30)
"""How long from then on, while one writes a checkpoint or uploads a suite. Those that are gone are
missed sooner, by their heartbeat."""
_GRACE_SECONDS = 10.0  # schedulers and torchrun may each pass on the same signal


class World:
    """A process that trains alone: what it decides is agreed on."""

    rank = 0
    size = 1
    grace_seconds = 0.0
    """How long after a first signal another one is the same request."""

    @property
    def is_first(self) -> bool:
        """Whether it is the one that reads, writes what there is one of, and speaks."""
        return self.rank == 0

    @property
    def here(self) -> str:
        """Which rank this is, for a message that would mean nothing without."""
        return ""

    def agreed(self, work: Callable[[], _T]) -> _T:
        """Does a part of the work on every rank; what goes wrong on one of them is raised on all."""
        return work()

    def of_first(self, work: Callable[[], _T]) -> _T:
        """What the work gives on the first rank, which alone does it."""
        return work()

    def gathered(self, work: Callable[[], _T]) -> list[_T]:
        """What the work gives on each rank."""
        return [work()]

    def merged(self, find: Callable[[], Mapping[_K, _V]]) -> dict[_K, _V]:
        """What all ranks find, each of its own groups."""
        return {key: value for part in self.gathered(find) for key, value in part.items()}

    def settled(self, wishes: Wishes, *, is_time: bool) -> Wishes:  # noqa: ARG002
        """What is done of what ranks wish for; nothing where it is not the time to agree."""
        return wishes

    def device(self, name: str | None) -> str | None:
        """A device of the config, as this rank has it."""
        return name

    def say(self, text: str) -> None:
        """Says what is of interest where there are others, once."""

    def on_loss(self, last_words: Callable[[], str]) -> None:
        """What else to say where the process ends because another rank is gone."""

    def leave(self) -> None:
        """Ends what there is between this rank and the others."""


class Ranks(World):
    """One of several processes, each with a part of the groups."""

    grace_seconds = _GRACE_SECONDS

    def __init__(self) -> None:
        self._is_broken = False
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.device_type = "cuda" if self.local_rank < torch.cuda.device_count() else "cpu"
        self._heartbeat = (
            None if dist.is_initialized() else _join(self.local_rank, self.device_type)
        )
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._group: Any = dist.group.WORLD
        if not self.is_first:
            warnings.simplefilter("ignore")  # the first rank says the same

    @property
    def here(self) -> str:
        return f" on rank {self.rank}"

    def counts(self, work: Callable[[], Sequence[int]]) -> list[list[int]]:
        """A few numbers that the work gives on each rank, at most 2 + 2 for each rank."""
        return self._meeting(work, numbers=list)[1]

    def agreed(self, work: Callable[[], _T]) -> _T:
        return self._meeting(work)[0]

    def of_first(self, work: Callable[[], _T]) -> _T:
        given = [self._meeting(work if self.is_first else _nothing, place=work)[0]]
        self._talk(dist.broadcast_object_list, given, src=0)
        return given[0]

    def gathered(self, work: Callable[[], _T]) -> list[_T]:
        return self._objects(self.agreed(work))

    def settled(self, wishes: Wishes, *, is_time: bool) -> Wishes:
        if not is_time:
            return Wishes()
        found = self.counts(lambda: wishes)
        if self._group is dist.group.WORLD:
            self._group = dist.new_group(timeout=PATIENCE)
        # Clocks differ, so that the first rank's alone says when a checkpoint is due.
        return Wishes(max(stop for stop, *_ in found), bool(found[0][1]))

    def device(self, name: str | None) -> str | None:
        return f"cuda:{self.local_rank}" if name == "cuda" else name

    def say(self, text: str) -> None:
        if self.is_first:
            sys.stderr.write(f"{text}\n")

    def scattered(self, tensors: list[torch.Tensor] | None, like: torch.Tensor) -> torch.Tensor:
        """Of the first rank's tensors, one for each rank, the own."""
        self._talk(dist.scatter, like, tensors, src=0)
        return like

    def exchanged(
        self, rows_ND: torch.Tensor, n_sent: list[int], n_received: list[int]
    ) -> torch.Tensor:
        """The rows that all ranks send here, by rank, for those that are sent to each."""
        as_bytes = rows_ND.contiguous().view(torch.uint8)  # which every backend takes
        received = as_bytes.new_empty(sum(n_received), as_bytes.shape[1])
        self._talk(dist.all_to_all_single, received, as_bytes, n_received, n_sent)
        return received.view(rows_ND.dtype)

    def on_loss(self, last_words: Callable[[], str]) -> None:
        if self._heartbeat is not None:
            self._heartbeat.last_words = last_words

    def leave(self) -> None:
        if self._heartbeat is None or not dist.is_initialized():
            return
        if not self._is_broken:
            with contextlib.suppress(Exception):  # others may have left in another way
                self._meeting(_nothing)
        self._heartbeat.stop()
        with contextlib.suppress(Exception):
            dist.destroy_process_group()

    # --- meetings ---

    def _meeting(
        self,
        work: Callable[[], _T],
        *,
        numbers: Callable[[_T], Sequence[int]] = lambda _: (),
        place: Callable[[], object] | None = None,
    ) -> tuple[_T, list[list[int]]]:
        """What the work gives here, and numbers of it on each rank, once all have done theirs."""
        place = place or work
        result: Any = None
        error: BaseException | None = None
        with contextlib.nullcontext() if self._heartbeat is None else self._heartbeat.expecting():
            try:
                result = work()
            except (Exception, TrainingInterrupted) as raised:
                if is_agreed(raised):
                    raise
                error = raised
            mine = [error is not None, _code_of(place), *(() if error else numbers(result))]
            everyones = self._numbers(mine)
            if any(failed for failed, *_ in everyones):
                self._raise_together(error)
        if len({code for _, code, *_ in everyones}) > 1:
            self._is_broken = True
            raise agreed(TornError(f"the ranks lost one another{self.here}: {place}"))
        return result, [numbers for _, _, *numbers in everyones]

    def _numbers(self, mine: Sequence[int]) -> list[list[int]]:
        padded = torch.zeros(4 + 2 * self.size, dtype=torch.long)
        padded[: len(mine)] = torch.tensor(mine)
        everyones = [torch.empty_like(padded) for _ in range(self.size)]
        self._talk(dist.all_gather, everyones, padded)
        return [one.tolist() for one in everyones]

    def _raise_together(self, mine: BaseException | None) -> None:
        errors = self._objects(None if mine is None else portable(mine))
        failed = [rank for rank, one in enumerate(errors) if one is not None]
        rank = min(failed, key=lambda rank: isinstance(errors[rank], LostError))
        error = mine if rank == self.rank else errors[rank]
        assert error is not None
        raise agreed(error)

    def _objects(self, mine: _T) -> list[_T]:
        everyones: list[Any] = [None] * self.size
        self._talk(dist.all_gather_object, everyones, mine)
        return everyones

    def _talk(self, collective: Callable[..., Any], *args: Any, **settings: Any) -> None:
        try:
            if self._is_broken:
                raise RuntimeError("it is gone since")
            collective(*args, group=self._group, **settings)
        except RuntimeError as error:
            self._is_broken = True
            if self._heartbeat is not None:
                self._heartbeat.stop()
            raise agreed(
                TornError(f"another rank has ended or does not answer: {in_one_line(error)}")
            ) from error


def _nothing() -> Any:
    return None


def _code_of(work: Callable[..., Any]) -> int:
    """Where in the program a meeting is, so that ranks at different ones find out."""
    return zlib.crc32(f"{work.__module__}.{getattr(work, '__qualname__', '')}".encode())


def n_processes() -> int:
    """How many of them the launcher has started."""
    return int(os.environ.get("WORLD_SIZE") or 1)


@functools.cache
def world_of_process() -> World:
    """The world that this process is in, which it joins when it is first asked for."""
    if n_processes() == 1:
        return World()
    ranks = Ranks()
    atexit.register(ranks.leave)
    return ranks


def _join(local_rank: int, device_type: str) -> Heartbeat:
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {n_processes()}, and {', '.join(missing)} not set; start with torchrun, "
            "or unset WORLD_SIZE to train in one process"
        )
    if device_type == "cuda":
        torch.cuda.set_device(local_rank)  # "cuda" means this one from here on
    store, rank, size = next(rendezvous("env://", timeout=START_UP))
    # A restart finds the store of the attempt before, with what that has left in it.
    attempt = f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}_of_{size}"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo",
        store=PrefixStore(attempt, store),
        rank=rank,
        world_size=size,
        timeout=START_UP,
    )
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return Heartbeat(attempt, rank, size, host, port)
