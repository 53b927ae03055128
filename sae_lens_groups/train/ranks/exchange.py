"""Drawn rows on their way from the rank that captured them to the ranks that train their groups.

Shapes: N rows of one LM batch, D = d_in.
"""

from collections.abc import Mapping, Sequence

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
    outgoing: Mapping[int, OutgoingRows],
    n_rows: Sequence[int],
    senders: Sequence[int],
    placed: Sequence[Sequence[LayerGroup]],
    none: GroupBatch,
) -> list[dict[str, GroupBatch]]:
    """Of each LM batch of a round, in their order, the rows of the groups that are trained here.

    One group of every owner at a time, so that no more than that is in memory twice.

    Args:
        outgoing: what was captured here, by the place of its LM batch in the round.
        n_rows: how many rows each LM batch gives every group.
        senders: which rank has captured them.
        placed: each rank's groups.
        none: rows of no token, of the kind that all are.
    """
    own = placed[ranks.rank]
    own_outgoing = [outgoing[at] for at in sorted(outgoing)]
    by_sender = sorted(range(len(n_rows)), key=lambda at: senders[at])
    n_in_order = [n_rows[at] for at in by_sender]
    n_of_sender = [0] * len(placed)
    for n, sender in zip(n_rows, senders):
        n_of_sender[sender] += n
    arrived: list[dict[str, GroupBatch]] = [{} for _ in n_rows]
    for wave in range(max(map(len, placed))):
        names = [groups[wave].name if wave < len(groups) else None for groups in placed]
        # Shards of one SAE get the same rows.
        taken = {
            name: [one.take(name, none) for one in own_outgoing]
            for name in dict.fromkeys(names)
            if name
        }
        sent = [taken[name] if name else [] for name in names]
        n_sent = [sum(len(batch.rows_BD) for batch in of_rank) for of_rank in sent]
        n_received = n_of_sender if wave < len(own) else [0] * len(placed)
        batches = [none, *(batch for of_rank in sent for batch in of_rank)]
        rows_ND = ranks.exchanged(torch.cat([b.rows_BD for b in batches]), n_sent, n_received)
        position_N = ranks.exchanged(
            torch.cat([b.position_B for b in batches])[:, None], n_sent, n_received
        )
        if wave < len(own):
            received = zip(by_sender, rows_ND.split(n_in_order), position_N.split(n_in_order))
            for at, rows, position in received:
                arrived[at][own[wave].name] = GroupBatch(rows, position.squeeze(1).long())
    return arrived
