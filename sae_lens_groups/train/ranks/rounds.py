"""Rounds of whole LM batches, as many as ranks, whose rows every owner trains on in their order.

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
from sae_lens_groups.train.ranks.passes import Pass
from sae_lens_groups.train.ranks.status import agreed, portable
from sae_lens_groups.train.ranks.world import Ranks, World


def source_of_rows(
    world: World,
    store: GroupActivationsStore,
    placed: Sequence[tuple[LayerGroup, ...]],
    passes: Sequence[Pass] = (),
) -> RowSource:
    """What fills the shuffle buffer of a rank: its store, or with others theirs too."""
    return Rounds(world, store, placed, passes) if isinstance(world, Ranks) else store


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


@dataclass
class _Round:
    """LM batches on their way from the dataset to the owners of their rows."""

    lm_batches: list[_LMBatch]
    tokens: Iterator[torch.Tensor]
    """Of those that this rank runs the model on."""
    n_drawn: int = 0
    """How many are drawn from, here or on another rank."""
    outgoing: dict[int, OutgoingRows] = field(default_factory=dict)
    """Rows that were captured here, by the place of their LM batch in the round."""
    errors: dict[int, BaseException] = field(default_factory=dict)


class Rounds:
    """Fills the buffers of all ranks from one dataset, which the first of them reads.

    An error of an LM batch is raised where its turn has come, as in one process.

    Args:
        ranks: all of them.
        store: runs the language model, and on the first rank reads the dataset.
        placed: each rank's groups.
        passes: who runs the model when, where they share it unequally: a round is then read, and
            its passes made, while the round before is trained on.
    """

    def __init__(
        self,
        ranks: Ranks,
        store: GroupActivationsStore,
        placed: Sequence[tuple[LayerGroup, ...]],
        passes: Sequence[Pass] = (),
    ) -> None:
        self.groups = placed[ranks.rank]
        """Whose rows it gives."""
        self.device = store.device
        self.shuffle_buffer = store.shuffle_buffer
        self._ranks, self._store, self._placed = ranks, store, placed
        self._is_ahead = bool(passes)
        self._passes = passes or [Pass(0, rank) for rank in range(ranks.size)]
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
            coming = self._read_round()
            while True:
                lm_batches = self._handed_over(coming)
                if self._is_ahead:
                    coming = self._read_round()
                for place, lm_batch in enumerate(lm_batches):
                    if lm_batch.error is not None:
                        raise agreed(lm_batch.error)
                    slot_N = sink.reserve(lm_batch.n_rows)
                    for group, batch in lm_batch.rows.items():
                        sink.write(group, slot_N, batch.rows_BD, batch.position_B)
                    lm_batch.rows = {}
                    self._state = lm_batch.state
                    if self._is_ahead:
                        self._run_model(coming, until=place)
                    yield
                if not self._is_ahead:
                    coming = self._read_round()
        finally:
            if self._state:  # those read ahead were not trained on
                self._store.rows.n_read = int(self._state[ROWS_READ])

    def _state_here(self) -> dict[str, torch.Tensor]:
        return self._store.state_dict() if self._ranks.is_first else {}

    def _read_round(self) -> _Round:
        ranks = self._ranks
        read: list[tuple[torch.Tensor, _LMBatch]] = []

        def header() -> list[int]:
            read.extend(self._read() if ranks.is_first else ())
            return [len(read), *(n for _, one in read for n in (one.n_kept, one.place))]

        n_read, *facts = ranks.counts(header)[0]
        lm_batches = [one for _, one in read]
        if not ranks.is_first:
            lm_batches = [_LMBatch(facts[2 * n], facts[2 * n + 1], {}) for n in range(n_read)]
        return _Round(lm_batches, self._own_tokens([of for of, _ in read]) if n_read else iter(()))

    def _read(self) -> list[tuple[torch.Tensor, _LMBatch]]:
        """The next LM batches, as many as there are ranks, or as there are before an error."""
        found: list[tuple[torch.Tensor, _LMBatch]] = []
        try:
            while self._reading_error is None and len(found) < self._ranks.size:
                found.append(next(self._reading))
        except Exception as error:
            self._reading_error = error
        return found

    def _raise_reading_error(self) -> None:
        if self._reading_error is not None:
            raise _of_training(self._reading_error)

    def _tokens(self) -> Iterator[tuple[torch.Tensor, _LMBatch]]:
        store = self._store
        for tokens in store.token_batches():
            n_kept = len(store.kept_positions(tokens))
            yield tokens, _LMBatch(n_kept, store.place, store.state_dict())

    def _own_tokens(self, read: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Of the LM batches that the first rank has read those that this rank runs the model on."""
        store, ranks = self._store, self._ranks
        shares = [
            [n for n, one in enumerate(self._passes) if one.rank == rank]
            for rank in range(ranks.size)
        ]
        like = torch.zeros(max(map(len, shares)), *store.shape_of_lm_batch, dtype=torch.int32)
        sent = [like.clone() for _ in shares] if ranks.is_first else None
        for part, share in zip(sent or (), shares):
            for at, n in enumerate(share):
                if n < len(read):
                    part[at] = read[n]
        own = ranks.scattered(sent, like)[: len(shares[ranks.rank])]
        return iter(own.long().to(store.device_of_tokens))

    def _run_model(self, coming: _Round, until: int) -> None:
        """Runs it on those LM batches whose time has come, and draws for them on every rank."""
        of_round = list(zip(coming.lm_batches, self._passes))
        for at, (lm_batch, due) in enumerate(of_round[coming.n_drawn :], coming.n_drawn):
            if due.interval > until:
                return
            if due.rank == self._ranks.rank:
                self._capture(next(coming.tokens), at, coming)
            else:
                self._store.pass_over(lm_batch.n_kept)
            if self._ranks.is_first:
                lm_batch.state |= self._store.state_of_draws()
            coming.n_drawn = at + 1

    def _capture(self, tokens: torch.Tensor, at: int, coming: _Round) -> None:
        """Draws the rows of an own LM batch; what goes wrong is raised where its turn has come."""
        outgoing = OutgoingRows()
        try:
            with self._store.standing_at(coming.lm_batches[at].place):
                self._store.write_drawn(tokens, outgoing)
            coming.outgoing[at] = outgoing
        except Exception as error:  # of the language model or its device
            coming.errors[at] = _of_training(error, self._ranks.here)

    def _handed_over(self, coming: _Round) -> list[_LMBatch]:
        """A round's LM batches, each with the rows of the groups that are trained here."""
        ranks, lm_batches = self._ranks, coming.lm_batches
        if not lm_batches:
            ranks.agreed(self._raise_reading_error)
        self._run_model(coming, until=len(lm_batches))
        code = max((_code_of(one.dtype) for one in coming.outgoing.values()), default=0)
        places = range(len(lm_batches))
        n_own = [coming.outgoing[at].n_rows if at in coming.outgoing else 0 for at in places]
        found = ranks.counts(lambda: [code, bool(coming.errors), *n_own])
        if any(has_failed for _, has_failed, *_ in found):
            errors = ranks.merged(
                lambda: {at: portable(error) for at, error in coming.errors.items()}
            )
            for at, error in errors.items():
                lm_batches[at].error = error
        kind = DTYPES[max(1, *(code for code, *_ in found)) - 1]
        device = self._store.device
        none = GroupBatch(
            torch.empty(0, self._store.d_in, dtype=kind, device=device),
            torch.empty(0, dtype=torch.int32, device=device),
        )
        n_rows = [sum(of_rank[2 + at] for of_rank in found) for at in places]
        senders = [one.rank for one, _ in zip(self._passes, lm_batches)]
        arrived = exchange(ranks, coming.outgoing, n_rows, senders, self._placed, none)
        for lm_batch, n, rows in zip(lm_batches, n_rows, arrived):
            lm_batch.n_rows, lm_batch.rows = n, rows
        return lm_batches


def _code_of(dtype: torch.dtype | None) -> int:
    return 0 if dtype is None else 1 + DTYPES.index(dtype)


def _of_training(error: Exception, where: str = "") -> GroupSAEError:
    if isinstance(error, GroupSAEError):
        return error
    of_training = TrainingError(f"{in_one_line(error)}{where}")
    of_training.__cause__ = error
    return of_training
