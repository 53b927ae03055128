"""The training batches of a run, made ahead in a thread where the config asks for it."""

import collections
import contextlib
from collections.abc import Iterator
from pathlib import Path

from sae_lens.training.prefetch import PrefetchingIterator

from sae_lens_groups.batch_stream import BatchStream
from sae_lens_groups.shuffle_buffer import GroupBatch


class TrainingBatches(Iterator[dict[str, GroupBatch]]):
    """The batches of a stream.

    Args:
        stream: where they come from.
        n_ahead: how many a thread makes ahead; 0 for no thread.
    """

    def __init__(self, stream: BatchStream, n_ahead: int) -> None:
        self._stream = stream
        self._made = _Made(stream)
        self._prefetcher = PrefetchingIterator(self._made, prefetch=n_ahead) if n_ahead else None

    def __next__(self) -> dict[str, GroupBatch]:
        batch = next(self._prefetcher or self._made)
        self._made.unused.popleft()
        return batch

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keeps the thread off the dataset and the language model for the block."""
        with self._prefetcher.paused() if self._prefetcher else contextlib.nullcontext():
            yield

    def save(self, checkpoint: Path) -> None:
        """Writes all that decides which batches come next."""
        with self.paused():
            self._stream.save(checkpoint, list(self._made.unused))

    def close(self) -> None:
        """Ends the thread; `save` still works."""
        prefetcher = self._prefetcher
        if prefetcher is not None and hasattr(prefetcher, "close"):
            prefetcher.close()
        elif prefetcher is not None:
            # SAELens 6.44: its thread ends where the batches do, once the queue has room.
            self._made.end()
            with contextlib.suppress(Exception):  # the run has seen it, or does not need it
                collections.deque(prefetcher, maxlen=0)
        self._stream.close()


class _Made(Iterator[dict[str, GroupBatch]]):
    """Passes batches on, and keeps those that were made and not yet used."""

    def __init__(self, source: Iterator[dict[str, GroupBatch]]) -> None:
        self._source = source
        self.unused: collections.deque[dict[str, GroupBatch]] = collections.deque()
        self._has_ended = False

    def __next__(self) -> dict[str, GroupBatch]:
        if self._has_ended:
            raise StopIteration
        batch = next(self._source)
        self.unused.append(batch)
        return batch

    def end(self) -> None:
        """No more batches from here on."""
        self._has_ended = True
