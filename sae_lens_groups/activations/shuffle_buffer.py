"""The shuffle buffer: memory that is allocated once, and one order for the rows of all groups.

Shapes: N rows of one LM batch, B rows of a training batch, D = d_in.
"""

from collections.abc import Mapping
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
        generator: what permutes them; torch's own where it is None.
    """

    def __init__(
        self,
        buffer_size: int,
        max_new_rows: int,
        batch_size: int,
        mix_fraction: float,
        d_in: int,
        generator: torch.Generator | None = None,
    ) -> None:
        self.buffer_size = buffer_size
        self.batch_size = batch_size
        self.mix_fraction = mix_fraction
        self.d_in = d_in
        self.generator = generator
        # What is held before new rows come: too little to serve, or what the last serving left.
        self._n_left = max(buffer_size, int(buffer_size * mix_fraction) + batch_size) - 1
        self.n_slots = self._n_left + max_new_rows
        self._serving = torch.empty(0, dtype=torch.long)  # the slots of the batches that come next
        self._order = torch.empty(0, dtype=torch.long)  # the other slots in use
        self._free = torch.arange(self.n_slots)
        self._reserved = torch.empty(0, dtype=torch.long)  # since batches were last chosen
        self._batches: dict[str, GroupBatch] = {}  # (n_slots, D) and (n_slots,) of each group

    def reserve(self, n_rows: int) -> torch.Tensor:
        """The slots (N,) that the next rows are to be written to, by every group."""
        self._reserved, self._free = self._free[:n_rows], self._free[n_rows:]
        self._order = torch.cat([self._order, self._reserved])
        return self._reserved

    def write(
        self,
        group: str,
        slot_N: torch.Tensor,
        rows_ND: torch.Tensor,
        position: int | torch.Tensor,
    ) -> None:
        """Puts rows of one of a group's layers, or of several (N,), into reserved slots."""
        if group not in self._batches:
            self._allocate(group, rows_ND)
        rows, positions = self._batches[group]
        slot_N = slot_N.to(rows.device)
        rows.index_copy_(0, slot_N, rows_ND)
        positions[slot_N] = position

    def release(self, slot_N: torch.Tensor) -> None:
        """Gives back slots of the last reservation; the other rows keep their order."""
        n_filled = len(self._order) - len(self._reserved)
        self._reserved = self._reserved[~torch.isin(self._reserved, slot_N)]
        self._order = torch.cat([self._order[:n_filled], self._reserved])
        self._free = torch.cat([slot_N, self._free])

    def cancel_reservation(self) -> None:
        """Gives back the slots that were reserved last, which could not be filled."""
        self.release(self._reserved)

    def next_batch(self) -> dict[str, GroupBatch] | None:
        """The next training batch of each group, in the same order of rows for all.

        None where new rows have to come first.
        """
        if not len(self._serving):
            self._choose()
        if not len(self._serving):
            return None
        slot_B, self._serving = self._serving[: self.batch_size], self._serving[self.batch_size :]
        batch = {group: self._read(group, slot_B) for group in self._batches}
        self._free = torch.cat([self._free, slot_B])
        return batch

    def _choose(self) -> None:
        """Chooses the rows of the next batches, once after new rows came, where there are enough."""
        if not len(self._reserved):
            return
        self._reserved = self._reserved[:0]
        n_held = len(self._order)
        n_batches = n_batches_to_serve(n_held, self.buffer_size, self.batch_size, self.mix_fraction)
        if n_batches == 0:
            return
        if self.mix_fraction > 0:
            self._order = self._order[torch.randperm(n_held, generator=self.generator)]
        n_served = n_batches * self.batch_size
        self._serving, self._order = self._order[:n_served], self._order[n_served:]

    @property
    def groups(self) -> list[str]:
        """Whose rows it holds."""
        return list(self._batches)

    @property
    def n_serving(self) -> int:
        """Rows that are chosen for the next batches."""
        return len(self._serving)

    def rows_of(self, group: str) -> GroupBatch:
        """All rows that a group still has to be served: first the chosen ones, then the others."""
        return self._read(group, torch.cat([self._serving, self._order]))

    def restore(self, rows: dict[str, GroupBatch], n_serving: int, n_rows: int) -> None:
        """Takes over what `rows_of` gave for each group, in place of what it holds.

        Each gave `n_rows`. Rows of a larger buffer that this one has no room for are left out.
        """
        n_serving -= n_serving % self.batch_size  # of a run with other batches
        if n_rows - n_serving > self._n_left:
            n_serving = min(
                n_serving, (self.n_slots - self._n_left) // self.batch_size * self.batch_size
            )
            n_rows = n_serving + self._n_left
        self.n_slots = max(self.n_slots, n_rows)
        slots = torch.arange(self.n_slots)
        self._serving, self._order = slots[:n_serving], slots[n_serving:n_rows]
        self._free = slots[n_rows:]
        self._batches = {}
        for group, batch in rows.items():
            self._allocate(group, batch.rows_BD)
            self._batches[group].rows_BD[:n_rows] = batch.rows_BD[:n_rows]
            self._batches[group].position_B[:n_rows] = batch.position_B[:n_rows]

    def _allocate(self, group: str, like: torch.Tensor) -> None:
        """Memory for a group's rows, of the dtype and on the device of `like`."""
        self._batches[group] = GroupBatch(
            like.new_empty(self.n_slots, self.d_in),
            torch.zeros(self.n_slots, dtype=torch.long, device=like.device),
        )

    def _read(self, group: str, slot_B: torch.Tensor) -> GroupBatch:
        rows, positions = self._batches[group]
        slot_B = slot_B.to(rows.device)
        return GroupBatch(rows.index_select(0, slot_B), positions.index_select(0, slot_B))


class ShuffleBuffers:
    """The same rows in several orders: a buffer for each, which every row is written to.

    All serve at the same time, as when they do depends on the number of rows alone.

    Args:
        of_order: by the names of the orders. The first one's is empty.
    """

    def __init__(self, of_order: Mapping[str, ShuffleBuffer]) -> None:
        self._of_order = dict(of_order)
        self._reserved: dict[str, torch.Tensor] = {}

    def reserve(self, n_rows: int) -> torch.Tensor:
        """Stands for the slots (N,) of each buffer that the next rows are to be written to."""
        self._reserved = {order: one.reserve(n_rows) for order, one in self._of_order.items()}
        return torch.arange(n_rows)

    def write(
        self,
        group: str,
        slot_N: torch.Tensor,
        rows_ND: torch.Tensor,
        position: int | torch.Tensor,
    ) -> None:
        """Puts rows of one of a group's layers, or of several (N,), into reserved slots."""
        for order, buffer in self._of_order.items():
            buffer.write(group, self._reserved[order][slot_N], rows_ND, position)

    def release(self, slot_N: torch.Tensor) -> None:
        """Gives back slots of the last reservation; the other rows keep their order."""
        for order, buffer in self._of_order.items():
            buffer.release(self._reserved[order][slot_N])

    def cancel_reservation(self) -> None:
        """Gives back the slots that were reserved last, which could not be filled."""
        for buffer in self._of_order.values():
            buffer.cancel_reservation()

    def next_batch(self) -> dict[str, GroupBatch] | None:
        """The next training batch of each group in each order, by `rows_name`.

        None where new rows have to come first.
        """
        found: dict[str, GroupBatch] = {}
        for order, buffer in self._of_order.items():
            if (batch := buffer.next_batch()) is None:
                return None
            found |= {rows_name(order, group): rows for group, rows in batch.items()}
        return found

    @property
    def groups(self) -> list[str]:
        """Whose rows it holds."""
        return self._of_order[""].groups

    @property
    def n_serving(self) -> int:
        """Rows that are chosen for the next batches."""
        return self._of_order[""].n_serving

    def rows_of(self, order: str, group: str) -> GroupBatch:
        """All rows that a group still has to be served, as `ShuffleBuffer.rows_of`."""
        return self._of_order[order].rows_of(group)

    def restore(self, order: str, rows: dict[str, GroupBatch], n_serving: int, n_rows: int) -> None:
        """Takes over what `rows_of` gave for each group, as `ShuffleBuffer.restore`."""
        self._of_order[order].restore(rows, n_serving, n_rows)


def rows_name(order: str, group: str) -> str:
    """What the rows of a group in one of the orders are called."""
    return f"{order}/{group}" if order else group


def n_batches_to_serve(n_held: int, buffer_size: int, batch_size: int, mix_fraction: float) -> int:
    """Training batches that a buffer serves when it holds so many rows, by SAELens's mixing law."""
    if n_held < buffer_size:
        return 0
    return max(1, (n_held - int(buffer_size * mix_fraction)) // batch_size)
