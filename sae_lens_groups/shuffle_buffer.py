"""The shuffle buffer: memory that is allocated once, and one order for the rows of all groups.

Shapes: N rows of one LM batch, B rows of a training batch, D = d_in.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch


class GroupBatch(NamedTuple):
    """A training batch of one group."""

    rows_BD: torch.Tensor
    """Raw activations, contiguous."""
    position_B: torch.Tensor
    """The position in the group of the layer that each row comes from."""

    def to(self, device: torch.device | str) -> "GroupBatch":
        """The same batch on a device."""
        return GroupBatch(self.rows_BD.to(device), self.position_B.to(device))


class ShuffleBuffer:
    """Mixes rows as SAELens's `mixing_buffer` does, bit for bit, and moves each row only twice.

    SAELens joins, permutes and splits all rows it holds, each time a copy. Here a row stays in the
    slot that it was written to until it is served, and only the order of the slots is permuted.

    Args:
        buffer_size: rows from which on batches are served; SAELens's n_batches_in_buffer * context.
        max_new_rows: the most rows that come between two servings.
        batch_size: rows of a training batch.
        mix_fraction: the part of `buffer_size` that is kept for mixing; 0 keeps the rows' order.
    """

    def __init__(
        self, buffer_size: int, max_new_rows: int, batch_size: int, mix_fraction: float, d_in: int
    ) -> None:
        self.buffer_size = buffer_size
        self.batch_size = batch_size
        self.mix_fraction = mix_fraction
        self.d_in = d_in
        # What is held before new rows come: too little to serve, or what the last serving left.
        n_left = max(buffer_size, int(buffer_size * mix_fraction) + batch_size) - 1
        self.n_slots = n_left + max_new_rows
        self._order = torch.empty(0, dtype=torch.long)  # the slots in use, in serving order
        self._free = torch.arange(self.n_slots)
        self._batches: dict[str, GroupBatch] = {}  # (n_slots, D) and (n_slots,) of each group

    def reserve(self, n_rows: int) -> torch.Tensor:
        """The slots (N,) that the next rows are to be written to, by every group."""
        slot_N, self._free = self._free[:n_rows], self._free[n_rows:]
        self._order = torch.cat([self._order, slot_N])
        return slot_N

    def write(self, group: str, slot_N: torch.Tensor, rows_ND: torch.Tensor, position: int) -> None:
        """Puts rows of one of a group's layers into reserved slots."""
        if group not in self._batches:
            self._batches[group] = GroupBatch(
                rows_ND.new_empty(self.n_slots, self.d_in),
                torch.zeros(self.n_slots, dtype=torch.long, device=rows_ND.device),
            )
        rows, positions = self._batches[group]
        slot_N = slot_N.to(rows.device)
        rows.index_copy_(0, slot_N, rows_ND)
        positions.index_fill_(0, slot_N, position)

    def batches(self) -> Iterator[dict[str, GroupBatch]]:
        """The training batches that can be served now, group by group in the same order."""
        n_held = len(self._order)
        n_batches = n_batches_to_serve(n_held, self.buffer_size, self.batch_size, self.mix_fraction)
        if n_batches == 0:
            return
        if self.mix_fraction > 0:
            self._order = self._order[torch.randperm(n_held)]
        served = self._order[: n_batches * self.batch_size]
        self._order = self._order[len(served) :]
        for slot_B in served.split(self.batch_size):
            yield {group: self._read(group, slot_B) for group in self._batches}
        self._free = torch.cat([self._free, served])

    def _read(self, group: str, slot_B: torch.Tensor) -> GroupBatch:
        rows, positions = self._batches[group]
        slot_B = slot_B.to(rows.device)
        return GroupBatch(rows.index_select(0, slot_B), positions.index_select(0, slot_B))


def n_batches_to_serve(n_held: int, buffer_size: int, batch_size: int, mix_fraction: float) -> int:
    """Training batches that a buffer serves when it holds so many rows, by SAELens's mixing law."""
    if n_held < buffer_size:
        return 0
    return max(1, (n_held - int(buffer_size * mix_fraction)) // batch_size)
