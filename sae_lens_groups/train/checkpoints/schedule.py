"""When checkpoints are due."""

from collections.abc import Sequence
from time import monotonic

from sae_lens_groups.field_values import Every


class CheckpointSchedule:
    """Says after which training steps a checkpoint is due.

    Args:
        thresholds: training tokens per SAE, ascending; one is due behind each.
        every: how far apart further ones are; none where it is None.
        n_tokens: the training tokens that the run starts with.
    """

    def __init__(self, thresholds: Sequence[int], every: Every | None, n_tokens: int = 0) -> None:
        self._thresholds = [threshold for threshold in thresholds if threshold >= n_tokens]
        self._every = every or Every()
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
            return monotonic() >= self._last_time + seconds
        return tokens is not None and n_tokens // tokens > self._last_tokens // tokens

    def _mark(self, n_tokens: int) -> None:
        self._last_time, self._last_tokens = monotonic(), n_tokens
