"""Drawn rows on their way from the rank that captured them to the ranks that train their groups.

Shapes: N rows of one LM batch, D = d_in.
"""

from collections.abc import Sequence

import torch

from sae_lens_groups.activations import GroupBatch
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.train.ranks.world import Ranks

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class OutgoingRows:
    """What an LM batch's rows are written to, in place of a shuffle buffer."""

    def __init__(self) -> None:
        self._rows: dict[str, GroupBatch] = {}
        self._is_kept_N = torch.empty(0, dtype=torch.bool)

    def reserve(self, n_rows: int) -> torch.Tensor:
        """The slots (N,) that the rows are to be written to, by every group."""
        self._is_kept_N = torch.ones(n_rows, dtype=torch.bool)
        return torch.arange(n_rows)

    def write(self, group: str, slot_N: torch.Tensor, rows_ND: torch.Tensor, position: int) -> None:
        """Puts rows of one of a group's layers into reserved slots."""
        n_rows = len(self._is_kept_N)
        if group not in self._rows:
            self._rows[group] = GroupBatch(
                rows_ND.new_empty(n_rows, rows_ND.shape[1]),
                torch.zeros(n_rows, dtype=torch.int32, device=rows_ND.device),
            )
        slot_N = slot_N.to(rows_ND.device)
        self._rows[group].rows_BD[slot_N] = rows_ND
        self._rows[group].position_B[slot_N] = position

    def release(self, slot_N: torch.Tensor) -> None:
        """Leaves these rows out after all."""
        self._is_kept_N[slot_N] = False

    @property
    def n_rows(self) -> int:
        """How many each group gets."""
        return int(self._is_kept_N.sum())

    @property
    def dtype(self) -> torch.dtype | None:
        """Of the rows; None where there are none."""
        return next((batch.rows_BD.dtype for batch in self._rows.values()), None)

    def take(self, group: str, like: GroupBatch) -> GroupBatch:
        """A group's rows, which are let go; `like` where there are none."""
        batch = self._rows.pop(group, None)
        if batch is None:
            return like
        if self._is_kept_N.all():
            return batch
        kept_N = self._is_kept_N.to(batch.rows_BD.device)
        return GroupBatch(batch.rows_BD[kept_N], batch.position_B[kept_N])


def exchange(
    ranks: Ranks,
    outgoing: OutgoingRows,
    n_rows: Sequence[int],
    placed: Sequence[Sequence[LayerGroup]],
    none: GroupBatch,
) -> list[dict[str, GroupBatch]]:
    """Of each rank's LM batch, in their order, the rows of the groups that are trained here.

    One group of every owner at a time, so that no more than that is in memory twice.

    Args:
        n_rows: how many rows each rank's LM batch gives every group.
        placed: each rank's groups.
        none: rows of no token, of the kind that all are.
    """
    own = placed[ranks.rank]
    arrived: list[dict[str, GroupBatch]] = [{} for _ in n_rows]
    for wave in range(max(map(len, placed))):
        sent = [groups[wave].name if wave < len(groups) else None for groups in placed]
        # Shards of one SAE get the same rows.
        taken = {name: outgoing.take(name, none) for name in dict.fromkeys(sent) if name}
        batches = [none if name is None else taken[name] for name in sent]
        n_sent = [len(batch.rows_BD) for batch in batches]
        n_received = list(n_rows) if wave < len(own) else [0] * len(n_rows)
        rows_ND = ranks.exchanged(torch.cat([b.rows_BD for b in batches]), n_sent, n_received)
        position_N = ranks.exchanged(
            torch.cat([b.position_B for b in batches])[:, None], n_sent, n_received
        )
        if wave < len(own):
            received = zip(arrived, rows_ND.split(n_received), position_N.split(n_received))
            for of_rank, rows, position in received:
                of_rank[own[wave].name] = GroupBatch(rows, position.squeeze(1).long())
    return arrived
