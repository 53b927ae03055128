"""Where the time of a run goes: a stopwatch around the functions that do each part.

On a GPU only the processor's time would be seen, so parts are for the CPU.
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from sae_lens import ActivationsStore
from sae_lens.training.sae_trainer import SAETrainer
from transformer_lens import HookedRootModule

from sae_lens_groups.activations.shuffle_buffer import ShuffleBuffer
from sae_lens_groups.activations.store import GroupActivationsStore
from sae_lens_groups.plugins import fast_steps
from sae_lens_groups.train.group_trainer import GroupTrainer
from sae_lens_groups.train.statistics import LayerStatistics
from tests.benchmarks.speed.clocks import CLOCKS

LM, SAMPLING, BUFFER = "language model", "sampling", "shuffle buffer"
STEP, OPTIMISER, LOGGING, OTHER = "SAE step", "optimiser", "logging", "other"
PARTS = (LM, SAMPLING, BUFFER, STEP, OPTIMISER, LOGGING, OTHER)

_FUNCTIONS: list[tuple[Any, str, str]] = [
    (HookedRootModule, "run_with_hooks", LM),
    (ActivationsStore, "get_batch_tokens", OTHER),
    (GroupActivationsStore, "as_served", SAMPLING),
    (ShuffleBuffer, "reserve", BUFFER),
    (ShuffleBuffer, "write", BUFFER),
    (ShuffleBuffer, "_read", BUFFER),
    *((step, "__call__", STEP) for step in fast_steps().values()),
    (SAETrainer, "_train_step", STEP),
    (torch.optim.Adam, "step", OPTIMISER),
    (torch.nn.utils, "clip_grad_norm_", OPTIMISER),
    (LayerStatistics, "add_active", LOGGING),
    (LayerStatistics, "add", LOGGING),
    (GroupTrainer, "_update_pbar", LOGGING),
]


class Stopwatch:
    """Seconds of each part, without those of the parts that it calls."""

    def __init__(self, clock: str) -> None:
        self._seconds_now = CLOCKS[clock]
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Books the block's time on a part."""
        self._book()
        self._running.append(name)
        try:
            yield
        finally:
            self._book()
            self._running.pop()

    def _book(self) -> None:
        now = self._seconds_now()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The function, its time booked on a part."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return wrapper


@contextlib.contextmanager
def time_by_part(seconds: dict[str, float], clock: str) -> Iterator[None]:
    """Measures the block, and puts the seconds of each part into `seconds`."""
    watch = Stopwatch(clock)
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in _FUNCTIONS]
    write_drawn = GroupActivationsStore.write_drawn
    for owner, name, part in _FUNCTIONS:
        setattr(owner, name, watch.timed(getattr(owner, name), part))
    GroupActivationsStore.write_drawn = _with_timed_take(watch, write_drawn)
    try:
        with watch.part(OTHER):
            yield
    finally:
        GroupActivationsStore.write_drawn = write_drawn
        for owner, name, original in originals:
            setattr(owner, name, original)
        seconds.update({part: watch.seconds[part] for part in PARTS})


def _with_timed_take(watch: Stopwatch, write_drawn: Callable[..., None]) -> Any:
    """What draws from a layer runs inside of the language model's pass, so it has its own part."""

    def timed(store: GroupActivationsStore, *args: Any) -> None:
        capture = store.capture

        def with_timed_take(tokens: torch.Tensor, take: Callable[..., None]) -> None:
            capture(tokens, watch.timed(take, SAMPLING))

        store.capture = with_timed_take  # type: ignore[method-assign]
        try:
            with watch.part(SAMPLING):
                write_drawn(store, *args)
        finally:
            del store.capture

    return timed
