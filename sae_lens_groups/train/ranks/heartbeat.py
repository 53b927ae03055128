"""Whether the other ranks live: each counts on in the launcher's store, in threads of its own.

A rank that is stopped, or whose machine is gone, counts no more, while one that is busy does, however
long. torch has nothing for it: what is waited for too long in its timeouts may as well be a rank
that writes a checkpoint, and its watchdogs are of the own process.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch.distributed as dist

from sae_lens_groups.errors import counted

SECONDS_OF_SILENCE = 25
"""After which a rank is taken for gone; less, where one call into C may hold Python for so long."""
_BEAT_SECONDS = 1.0
_LAST_BEAT_SECONDS = 3.0
_STATUS = 2  # that of the command after a message


class Heartbeat:
    """Ends this process, with status 2, where it waits for a rank that is gone.

    The wait is inside a collective, which nothing else ends on every backend.

    Args:
        prefix: of the store's keys, another one for each attempt of a launcher.
        host: where the store listens that the ranks have met in.
    """

    def __init__(self, prefix: str, rank: int, size: int, host: str, port: int) -> None:
        self.last_words: Callable[[], str] = lambda: "training had not begun"
        """What else to say in the end."""
        self._rank, self._n_open = rank, 0
        # A connection of its own: one that the main thread waits through is locked.
        timeout = timedelta(seconds=SECONDS_OF_SILENCE)
        self._store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            host, port, is_master=False, timeout=timeout, wait_for_workers=False
        )
        self._keys = [f"{prefix}/heartbeat/{other}" for other in range(size)]
        self._seconds = [0.0] * size
        self._is_over = threading.Event()
        self._store.set(self._keys[rank], "0")
        self._threads = [
            threading.Thread(target=work, name="heartbeat", daemon=True)
            for work in (self._beat, self._watch)
        ]
        for thread in self._threads:
            thread.start()

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """While the block runs, a rank that is gone is the end of this process."""
        self._n_open += 1
        try:
            yield
        finally:
            self._n_open -= 1

    def stop(self) -> None:
        """Counts no more, and misses nobody."""
        self._is_over.set()
        for thread in self._threads:  # one that is inside the store when Python ends would abort it
            thread.join(_LAST_BEAT_SECONDS)

    def _beat(self) -> None:
        n, before = 0, [b""] * len(self._keys)
        # Seldomer where there are many, as the store is asked for the counts of all by each.
        while not self._is_over.wait(max(_BEAT_SECONDS, len(self._keys) / 100)):
            n += 1
            with contextlib.suppress(RuntimeError):  # the store's process has ended, or is stopped
                self._store.set(self._keys[self._rank], str(n))
                found = self._store.multi_get(self._keys)
                for rank, (one, other) in enumerate(zip(found, before)):
                    if one != other:
                        self._seconds[rank] = 0
                before = found

    def _watch(self) -> None:
        """Counts seconds of its own waits, of which there are none while this process is stopped."""
        while not self._is_over.wait(_BEAT_SECONDS):
            for rank in range(len(self._keys)):
                self._seconds[rank] += _BEAT_SECONDS
            silent = [n for n, one in enumerate(self._seconds) if one >= SECONDS_OF_SILENCE]
            gone = [rank for rank in silent if rank != self._rank]
            if self._n_open and gone:
                self._end(gone)

    def _end(self, gone: list[int]) -> None:
        others = set(range(len(self._keys))) - {*gone}
        if self._rank > min(others):  # who speaks ends first
            time.sleep(_LAST_BEAT_SECONDS)
        else:
            which = " and ".join(f"rank {rank}" for rank in gone)
            text = f"{which}: no sign of life for {counted(SECONDS_OF_SILENCE, 'second')}"
            line = f"\nsae-lens-groups: error: {text}; {self.last_words()}\n"
            os.write(2, line.encode())
        os._exit(_STATUS)
