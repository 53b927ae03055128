"""The training batches of a run, one after another, and where they stand."""

from collections.abc import Iterator
from pathlib import Path

import torch
from sae_lens.constants import ACTIVATIONS_STORE_STATE_FILENAME
from safetensors.torch import load_file, save_file

from sae_lens_groups import files
from sae_lens_groups.shuffle_buffer import GroupBatch
from sae_lens_groups.store import GroupActivationsStore

_SHUFFLE, _N_SERVING = "shuffle", "n_serving"
_ROWS, _POSITIONS = "rows", "positions"


class BatchStream(Iterator[dict[str, GroupBatch]]):
    """Endless shuffled training batches of `train_batch_size_tokens` rows, by group name.

    Mixed as SAELens mixes them, all groups by the same permutation. What follows depends on
    nothing but what `save` writes.

    Args:
        store: gives the rows.
        rng_state: where the permutations start, as `torch.get_rng_state` gives it; torch's own
            state where it is None. They have a generator of their own, so that what else draws
            random numbers in the process changes nothing.

    Raises:
        NonFiniteActivationsError: from `next`; a drawn row holds NaN or infinity. No such row is
            served.
    """

    def __init__(self, store: GroupActivationsStore, rng_state: torch.Tensor | None = None) -> None:
        self.store = store
        self._shuffle = torch.Generator()
        self._shuffle.set_state(torch.get_rng_state() if rng_state is None else rng_state)
        self.buffer = store.shuffle_buffer(self._shuffle)
        self._fills = store.fill(self.buffer)
        # Set while an LM batch is read: one that cannot be used is to be read again.
        self._state_before_reading: dict[str, torch.Tensor] | None = None

    def __next__(self) -> dict[str, GroupBatch]:
        while (batch := self.buffer.next_batch()) is None:
            self._state_before_reading = self.store.state_dict()
            next(self._fills)
            self._state_before_reading = None
        return batch

    def close(self) -> None:
        """Ends it: the memory of its rows can be let go."""
        self._fills.close()

    def save(self, checkpoint: Path, ahead: list[dict[str, GroupBatch]]) -> None:
        """Writes all that decides which batches come next.

        Args:
            checkpoint: a folder with a folder for every group.
            ahead: batches that were taken from here and are not used yet.
        """
        state = self._state_before_reading
        if state is None:
            state = self.store.state_dict()
        else:
            self.buffer.cancel_reservation()
        n_ahead = sum(len(next(iter(batch.values())).rows_BD) for batch in ahead)
        state = {
            **state,
            _SHUFFLE: self._shuffle.get_state(),
            _N_SERVING: torch.tensor(n_ahead + self.buffer.n_serving),
        }
        save_file(state, checkpoint / ACTIVATIONS_STORE_STATE_FILENAME)
        for group in self.buffer.groups:  # one after the other, as each is a copy of its rows
            parts = [*(batch[group] for batch in ahead), self.buffer.rows_of(group)]
            rows = {
                _ROWS: torch.cat([part.rows_BD for part in parts]),
                _POSITIONS: torch.cat([part.position_B for part in parts]),
            }
            save_file(rows, checkpoint / group / files.SHUFFLE_BUFFER)

    def load(self, checkpoint: Path) -> None:
        """Goes on where `save` was called, with the groups of this run."""
        state = load_file(checkpoint / ACTIVATIONS_STORE_STATE_FILENAME)
        self._shuffle.set_state(state[_SHUFFLE])
        self.store.load_state_dict(state)
        groups = [group.name for group in self.store.groups]
        saved = {group: load_file(checkpoint / group / files.SHUFFLE_BUFFER) for group in groups}
        rows = {
            group: GroupBatch(tensors[_ROWS], tensors[_POSITIONS]).to(self.store.device)
            for group, tensors in saved.items()
        }
        self.buffer.restore(rows, int(state[_N_SERVING]))
