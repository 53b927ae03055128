"""The training batches of a run, made ahead in a thread where the config asks for it."""

import collections
import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from sae_lens.training.prefetch import PrefetchingIterator

from sae_lens_groups.checkpoint import readable
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.interruption import EndableIterator, StoppableIterator, StopRequest
from sae_lens_groups.shuffle_buffer import GroupBatch
from sae_lens_groups.store import GroupActivationsStore


@contextlib.contextmanager
def training_batches(
    store: GroupActivationsStore, cfg: GroupSAERunnerConfig[Any], stop: StopRequest
) -> Iterator[StoppableIterator[dict[str, GroupBatch]]]:
    """The store's batches until a stop is requested, behind those of a checkpoint's run.

    A thread that makes them ahead ends with the block.
    """
    source = store.batches()
    n_ahead = int(cfg.prefetch_llm_batches)
    if cfg.resume_from_checkpoint is not None:
        with readable(cfg.resume_from_checkpoint):
            store.load_from_checkpoint(cfg.resume_from_checkpoint)
    if not n_ahead:
        with contextlib.closing(source):
            yield StoppableIterator(source, stop)
        return
    ending = EndableIterator(source)
    prefetcher = PrefetchingIterator(ending, prefetch=n_ahead)
    try:
        yield StoppableIterator(prefetcher, stop)
    finally:
        if hasattr(prefetcher, "close"):
            prefetcher.close()
        else:  # SAELens 6.44: its thread ends where the batches do, once the queue has room
            ending.end()
            with contextlib.suppress(Exception):  # the run has seen it, or does not need it
                collections.deque(prefetcher, maxlen=0)
        source.close()


def paused(batches: Any) -> AbstractContextManager[None]:
    """Keeps a prefetching thread off the dataset and the random generators for a while."""
    source = batches.source if isinstance(batches, StoppableIterator) else batches
    return source.paused() if isinstance(source, PrefetchingIterator) else nullcontext()
