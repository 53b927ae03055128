"""Rounds of whole LM batches, one for each rank, whose rows every owner trains on in their order.

So each group sees the batches that one process would give it, however many ranks there are.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from sae_lens_groups.activations import (
    ROWS_READ,
    GroupActivationsStore,
    GroupBatch,
    RowSource,
    ShuffleBuffers,
)
from sae_lens_groups.errors import GroupSAEError, TrainingError, in_one_line
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.train.ranks.exchange import DTYPES, OutgoingRows, exchange
from sae_lens_groups.train.ranks.status import agreed, portable
from sae_lens_groups.train.ranks.world import Ranks, World


def source_of_rows(
    world: World, store: GroupActivationsStore, placed: Sequence[tuple[LayerGroup, ...]]
) -> RowSource:
    """What fills the shuffle buffer of a rank: its store, or with others theirs too."""
    return Rounds(world, store, placed) if isinstance(world, Ranks) else store


@dataclass
class _LMBatch:
    """One of a round."""

    n_kept: int
    """Tokens to draw layers for, of which those of massive activations are then left out."""
    place: int
    """Where the store was when it had read it."""
    state: dict[str, torch.Tensor]
    """Of the store once it is drawn from; on the first rank."""
    n_rows: int = 0
    rows: dict[str, GroupBatch] = field(default_factory=dict)
    """Of the groups that are trained here."""
    error: BaseException | None = None


class Rounds:
    """Fills the buffers of all ranks from one dataset, which the first of them reads.

    An error of an LM batch is raised where its turn has come, as in one process.
    """

    def __init__(
        self,
        ranks: Ranks,
        store: GroupActivationsStore,
        placed: Sequence[tuple[LayerGroup, ...]],
    ) -> None:
        self.groups = placed[ranks.rank]
        """Whose rows it gives."""
        self.device = store.device
        self.shuffle_buffer = store.shuffle_buffer
        self._ranks, self._store, self._placed = ranks, store, placed
        self._reading = self._tokens()
        self._reading_error: Exception | None = None
        self._state = self._state_here()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The store's behind the last LM batch that was written; nothing but on the first rank."""
        return self._state

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on where `state_dict` was called."""
        if self._ranks.is_first:
            self._store.load_state_dict(state)
        else:  # who reads nothing has nothing to read again
            self._store.load_counts(state)
        self._state = self._state_here()

    def fill(self, sink: ShuffleBuffers) -> Generator[None, None, None]:
        """Writes one LM batch after another into a buffer, as often as it is asked to."""
        try:
            while True:
                for lm_batch in self._round():
                    if lm_batch.error is not None:
                        raise agreed(lm_batch.error)
                    slot_N = sink.reserve(lm_batch.n_rows)
                    for group, batch in lm_batch.rows.items():
                        sink.write(group, slot_N, batch.rows_BD, batch.position_B)
                    self._state = lm_batch.state
                    yield
        finally:
            if self._state:  # those read ahead were not trained on
                self._store.rows.n_read = int(self._state[ROWS_READ])

    def _state_here(self) -> dict[str, torch.Tensor]:
        return self._store.state_dict() if self._ranks.is_first else {}

    def _round(self) -> list[_LMBatch]:
        ranks, store = self._ranks, self._store
        read: list[tuple[torch.Tensor, _LMBatch]] = []

        def header() -> list[int]:
            read.extend(self._read() if ranks.is_first else ())
            return [len(read), *(n for _, one in read for n in (one.n_kept, one.place))]

        n_read, *facts = ranks.counts(header)[0]
        lm_batches = [one for _, one in read]
        if not ranks.is_first:
            lm_batches = [_LMBatch(facts[2 * n], facts[2 * n + 1], {}) for n in range(n_read)]
        tokens = self._own_tokens([batch_tokens for batch_tokens, _ in read])
        outgoing, error = OutgoingRows(), None
        for at, lm_batch in enumerate(lm_batches):
            if at != ranks.rank:
                store.pass_over(lm_batch.n_kept)
            elif (error := self._capture(tokens, lm_batch, outgoing)) is not None:
                outgoing = OutgoingRows()
            if ranks.is_first:
                lm_batch.state |= store.state_of_draws()
        self._hand_over(lm_batches, outgoing, error)
        return lm_batches

    def _read(self) -> list[tuple[torch.Tensor, _LMBatch]]:
        """The next LM batches, as many as there are ranks, or as there are before an error."""
        found: list[tuple[torch.Tensor, _LMBatch]] = []
        try:
            while self._reading_error is None and len(found) < self._ranks.size:
                found.append(next(self._reading))
        except Exception as error:
            self._reading_error = error
        if not found:
            assert self._reading_error is not None
            raise _of_training(self._reading_error)
        return found

    def _tokens(self) -> Iterator[tuple[torch.Tensor, _LMBatch]]:
        store = self._store
        for tokens in store.token_batches():
            n_kept = len(store.kept_positions(tokens))
            yield tokens, _LMBatch(n_kept, store.place, store.state_dict())

    def _own_tokens(self, tokens: list[torch.Tensor]) -> torch.Tensor:
        """Of the tokens that the first rank has read those that this rank runs the model on."""
        store, ranks = self._store, self._ranks
        like = torch.zeros(store.shape_of_lm_batch, dtype=torch.int32)
        sent = [batch_tokens.to("cpu", torch.int32) for batch_tokens in tokens]
        sent += [like] * (ranks.size - len(sent))
        own = ranks.scattered(sent if ranks.is_first else None, like.clone())
        return own.long().to(store.device_of_tokens)

    def _capture(
        self, tokens: torch.Tensor, lm_batch: _LMBatch, outgoing: OutgoingRows
    ) -> BaseException | None:
        """Draws the rows of the own LM batch; what goes wrong is raised where its turn has come."""
        try:
            with self._store.standing_at(lm_batch.place):
                self._store.write_drawn(tokens, outgoing)
        except Exception as error:  # of the language model or its device
            return _of_training(error, self._ranks.here)
        return None

    def _hand_over(
        self, lm_batches: list[_LMBatch], outgoing: OutgoingRows, error: BaseException | None
    ) -> None:
        ranks, dtype = self._ranks, outgoing.dtype
        code = 0 if dtype is None else 1 + DTYPES.index(dtype)
        found = ranks.counts(lambda: [outgoing.n_rows, code, error is not None])
        if any(has_failed for _, _, has_failed, *_ in found):
            errors = ranks.gathered(lambda: None if error is None else portable(error))
            for lm_batch, of_rank in zip(lm_batches, errors):
                lm_batch.error = of_rank
        kind = DTYPES[max(1, *(code for _, code, *_ in found)) - 1]
        device = self._store.device
        none = GroupBatch(
            torch.empty(0, self._store.d_in, dtype=kind, device=device),
            torch.empty(0, dtype=torch.int32, device=device),
        )
        n_rows = [n for n, *_ in found]
        arrived = exchange(ranks, outgoing, n_rows, self._placed, none)
        for lm_batch, n, rows in zip(lm_batches, n_rows, arrived):
            lm_batch.n_rows, lm_batch.rows = n, rows


def _of_training(error: Exception, where: str = "") -> GroupSAEError:
    if isinstance(error, GroupSAEError):
        return error
    of_training = TrainingError(f"{in_one_line(error)}{where}")
    of_training.__cause__ = error
    return of_training
