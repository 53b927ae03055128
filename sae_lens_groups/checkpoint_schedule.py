"""When a run saves a checkpoint: `checkpoint_every`, and SAELens's `n_checkpoints`."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sae_lens_groups.errors import ConfigError

_SECONDS = {"s": 1, "m": 60, "h": 3600}
_EVERY = re.compile(r"(?P<number>\d+(\.\d+)?) ?(?P<unit>[smh]?)", re.ASCII)


@dataclass(frozen=True)
class Every:
    """How far apart checkpoints are: in seconds, or in training tokens per SAE."""

    seconds: float | None = None
    tokens: int | None = None


def parse_every(text: str) -> Every:
    """What `checkpoint_every` means: `10m`, `30s`, `2h`, or a number of training tokens.

    Raises:
        ConfigError: it is neither.
    """
    match = _EVERY.fullmatch(text.strip().replace("_", ""))
    if match is not None and float(match["number"]) > 0:
        if match["unit"]:
            return Every(seconds=float(match["number"]) * _SECONDS[match["unit"]])
        if match["number"].isdigit():
            return Every(tokens=int(match["number"]))
    raise ConfigError(
        f"checkpoint_every is {text!r}; give a time such as 10m (s, m and h are known), or a whole "
        "number of training tokens"
    )


class CheckpointSchedule:
    """Says after which training steps a checkpoint is due.

    Args:
        thresholds: training tokens per SAE, ascending; one is due behind each.
        every: how far apart further ones are; none where it is None.
        n_tokens: the training tokens that the run starts with.
        clock: seconds that never go backwards.
    """

    def __init__(
        self,
        thresholds: Sequence[int],
        every: Every | None,
        n_tokens: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._thresholds = [threshold for threshold in thresholds if threshold >= n_tokens]
        self._every = every or Every()
        self._clock = clock
        self._mark(n_tokens)

    def is_due(self, n_tokens: int) -> bool:
        """Whether a checkpoint is due now, after so many training tokens; the next one is later."""
        is_past = bool(self._thresholds) and n_tokens > self._thresholds[0]
        if is_past:
            self._thresholds.pop(0)
        if not (is_past or self._is_late(n_tokens)):
            return False
        self._mark(n_tokens)
        return True

    def _is_late(self, n_tokens: int) -> bool:
        seconds, tokens = self._every.seconds, self._every.tokens
        if seconds is not None:
            return self._clock() >= self._last_time + seconds
        return tokens is not None and n_tokens // tokens > self._last_tokens // tokens

    def _mark(self, n_tokens: int) -> None:
        self._last_time, self._last_tokens = self._clock(), n_tokens
