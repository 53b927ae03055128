"""Training batches: drawn from the store, made ahead in a thread, and where they stand."""

import collections
import contextlib
import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch
from sae_lens.constants import ACTIVATIONS_STORE_STATE_FILENAME
from sae_lens.training.prefetch import PrefetchingIterator
from safetensors.torch import load_file, save_file

from sae_lens_groups import files
from sae_lens_groups.activations.shuffle_buffer import (
    GroupBatch,
    ShuffleBuffer,
    ShuffleBuffers,
    rows_name,
)
from sae_lens_groups.errors import GroupSAEError, TrainingError, in_one_line
from sae_lens_groups.layers import LayerGroup

_SHUFFLE, _N_SERVING = "shuffle", "n_serving"
_ROWS, _POSITIONS = "rows", "positions"


class RowSource(Protocol):
    """What gives drawn rows: a `GroupActivationsStore`, or several processes with one each."""

    groups: tuple[LayerGroup, ...]
    """Whose rows it gives."""
    device: torch.device
    """Where."""

    def shuffle_buffer(self, generator: torch.Generator | None = None) -> ShuffleBuffer:
        """An empty buffer for them."""
        ...

    def fill(self, sink: ShuffleBuffers) -> Generator[None, None, None]:
        """Writes one LM batch after another into a buffer, as often as it is asked to."""
        ...

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Where it is; empty where another process keeps that."""
        ...

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on where `state_dict` was called."""
        ...


class BatchStream(Iterator[dict[str, GroupBatch]]):
    """Endless shuffled training batches of `train_batch_size_tokens` rows, by group name.

    Mixed as SAELens mixes them, all groups by the same permutation. What follows depends on
    nothing but what `save` writes.

    Args:
        store: gives the rows, as a `GroupActivationsStore` does.
        rng_states: where the permutations of each order start, as `torch.get_rng_state` gives it,
            the first by the name ""; without any it is torch's own state. Each has a generator of
            its own, so that what else draws random numbers in the process changes nothing.

    Raises:
        GroupSAEError: from `next`; whatever the dataset or the language model raises, or a drawn row
            that holds NaN or infinity. No such row is served, and `save` still works.
    """

    def __init__(
        self, store: RowSource, rng_states: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        self.store = store
        self._shuffles = {
            order: torch.Generator().set_state(state)
            for order, state in (rng_states or {"": torch.get_rng_state()}).items()
        }
        self.buffer = ShuffleBuffers(
            {order: store.shuffle_buffer(shuffle) for order, shuffle in self._shuffles.items()}
        )
        self._fills = store.fill(self.buffer)
        # Set while an LM batch is read: one that cannot be used is to be read again.
        self._state_before_reading: dict[str, torch.Tensor] | None = None

    def __next__(self) -> dict[str, GroupBatch]:
        while (batch := self.buffer.next_batch()) is None:
            self._state_before_reading = self.store.state_dict()
            try:
                next(self._fills)
            except GroupSAEError:
                raise
            except Exception as error:  # of the language model, its device or cached activations
                raise TrainingError(in_one_line(error)) from error
            self._state_before_reading = None
        return batch

    def close(self) -> None:
        """Ends it: the memory of its rows can be let go."""
        self._fills.close()

    def save(
        self,
        checkpoint: Path,
        ahead: list[dict[str, GroupBatch]],
        of: Iterable[LayerGroup] | None = None,
    ) -> None:
        """Writes all that decides which batches come next.

        Args:
            checkpoint: a folder, in which every group has one.
            ahead: batches that were taken from here and are not used yet.
            of: the groups whose rows are written; all where none are given.
        """
        state = self._state_before_reading
        if state is None:
            state = self.store.state_dict()
        else:
            self.buffer.cancel_reservation()
        has_place = bool(state)  # it is one process's to keep
        n_ahead = sum(len(next(iter(batch.values())).rows_BD) for batch in ahead)
        state = {
            **state,
            **{_SHUFFLE + order: shuffle.get_state() for order, shuffle in self._shuffles.items()},
            _N_SERVING: torch.tensor(n_ahead + self.buffer.n_serving),
        }
        if has_place:
            save_file(state, checkpoint / ACTIVATIONS_STORE_STATE_FILENAME)
        groups = self.buffer.groups if of is None else [group.name for group in of]
        for order, group in itertools.product(self._shuffles, groups):  # each is a copy of its rows
            name = rows_name(order, group)
            parts = [*(batch[name] for batch in ahead), self.buffer.rows_of(order, group)]
            rows = {
                _ROWS: torch.cat([part.rows_BD for part in parts]),
                _POSITIONS: torch.cat([part.position_B for part in parts]),
            }
            (checkpoint / name).mkdir(exist_ok=True, parents=True)
            save_file(rows, checkpoint / name / files.SHUFFLE_BUFFER)

    def load(self, checkpoint: Path) -> None:
        """Goes on where `save` was called, with the groups of this run."""
        state = load_file(checkpoint / ACTIVATIONS_STORE_STATE_FILENAME)
        self.store.load_state_dict(state)
        any_buffer = next(checkpoint.glob(f"*/{files.SHUFFLE_BUFFER}"))
        (n_rows,), _ = files.tensors_in(any_buffer)[_POSITIONS]  # of every group
        for order, shuffle in self._shuffles.items():
            shuffle.set_state(state[_SHUFFLE + order])
            rows: dict[str, GroupBatch] = {}
            for group in self.store.groups:
                name = rows_name(order, group.name)
                saved = load_file(checkpoint / name / files.SHUFFLE_BUFFER)
                found = GroupBatch(saved[_ROWS], saved[_POSITIONS])
                rows[group.name] = found.to(self.store.device)
            self.buffer.restore(order, rows, int(state[_N_SERVING]), n_rows)


class TrainingBatches(Iterator[dict[str, GroupBatch]]):
    """The batches of a stream, of which a thread makes `n_ahead` ahead; 0 for no thread."""

    def __init__(self, stream: BatchStream, n_ahead: int) -> None:
        self._stream = stream
        self._made = _Made(stream)
        self._prefetcher = PrefetchingIterator(self._made, prefetch=n_ahead) if n_ahead else None

    def __next__(self) -> dict[str, GroupBatch]:
        batch = next(self._prefetcher or self._made)
        self._made.unused.popleft()
        return batch

    @property
    def is_used_up(self) -> bool:
        """Whether the next one takes an LM batch first."""
        return not self._made.unused and not self._stream.buffer.n_serving

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keeps the thread off the dataset and the language model for the block."""
        with self._prefetcher.paused() if self._prefetcher else contextlib.nullcontext():
            yield

    def save(self, checkpoint: Path, of: Iterable[LayerGroup] | None = None) -> None:
        """Writes all that decides which batches come next, of some groups or of all."""
        with self.paused():
            self._stream.save(checkpoint, list(self._made.unused), of)

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
