"""Stops training between two steps when the user or the machine asks for it."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

from sae_lens_groups.errors import TrainingInterrupted

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Remembers the first SIGINT or SIGTERM; a second one acts at once, as it always does.

    Args:
        grace_seconds: for so long a further one is the same, passed on by somebody else too.
    """

    def __init__(self, grace_seconds: float = 0.0) -> None:
        self.signal_number: int | None = None
        self._grace_seconds, self._grace_ends = grace_seconds, 0.0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Takes over both signals for the block. Only the main thread may, so elsewhere it does nothing."""
        if not _is_main_thread():
            yield
            return
        previous = {number: signal.getsignal(number) for number in _SIGNALS}

        def remember(signal_number: int, _frame: FrameType | None) -> None:
            is_first, now = self.signal_number is None, time.monotonic()
            if is_first:
                self.signal_number, self._grace_ends = signal_number, now + self._grace_seconds
            if now < self._grace_ends:
                return
            for number, handler in previous.items():
                signal.signal(number, handler)
            if not is_first:
                signal.raise_signal(signal_number)

        try:
            for number in _SIGNALS:
                signal.signal(number, remember)
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def deliver_again(self) -> None:
        """Gives a remembered signal to whoever handled it before `listening`; the main thread does."""
        if self.signal_number is not None and _is_main_thread():
            signal.raise_signal(self.signal_number)

    def raise_if_requested(self) -> None:
        """Raises `TrainingInterrupted` once a signal has come."""
        if self.signal_number is not None:
            raise TrainingInterrupted(self.signal_number)

    def passing(self, source: Iterable[T]) -> Iterator[T]:
        """A source's items until a stop is requested: for what comes before training."""
        for item in source:
            self.raise_if_requested()
            yield item


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
