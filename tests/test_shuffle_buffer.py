"""The shuffle buffer mixes as SAELens does, with every row in one place."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sae_lens.training.mixing_buffer import mixing_buffer

from sae_lens_groups.activations.shuffle_buffer import ShuffleBuffer

D_IN = 2


def numbered_rows(lengths: list[int]) -> Iterator[torch.Tensor]:
    """LM batches of these lengths, whose rows hold their own number in the stream."""
    first = 0
    for length in lengths:
        yield torch.arange(first, first + length).float()[:, None].expand(-1, D_IN)
        first += length


def served_by_saelens(
    lengths: list[int], buffer_size: int, batch_size: int, mix_fraction: float
) -> list[list[float]]:
    """The batches that SAELens serves before its stream ends, by the numbers of their rows."""
    endless = [*lengths, *([buffer_size] * 3)]
    torch.manual_seed(1)
    batches = mixing_buffer(buffer_size, batch_size, numbered_rows(endless), mix_fraction)
    return [batch[:, 0].tolist() for batch in batches]


def served_by_ours(
    lengths: list[int], buffer_size: int, batch_size: int, mix_fraction: float
) -> dict[str, list[list[float]]]:
    """The same, of two groups of which the second holds the first one's rows plus a half."""
    buffer = ShuffleBuffer(buffer_size, max(lengths), batch_size, mix_fraction, D_IN)
    served: dict[str, list[list[float]]] = {"a": [], "b": []}
    torch.manual_seed(1)
    for rows_ND in numbered_rows(lengths):
        slot_N = buffer.reserve(len(rows_ND))
        half = len(rows_ND) // 2
        buffer.write("a", slot_N, rows_ND, 0)
        buffer.write("b", slot_N[:half], rows_ND[:half] + 0.5, 0)
        buffer.write("b", slot_N[half:], rows_ND[half:] + 0.5, 3)
        for batch in iter(buffer.next_batch, None):
            assert all(group.rows_BD.is_contiguous() for group in batch.values())
            for name, group in batch.items():
                served[name].append(group.rows_BD[:, 0].tolist())
    return served


@pytest.mark.seam
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=12),
    st.integers(4, 40),
    st.integers(1, 4),
    st.sampled_from([0, 0.1, 0.5, 0.9, 1]),
)
def test_batches_are_saelens_own(
    lengths: list[int], buffer_size: int, batch_size: int, mix_fraction: float
) -> None:
    ours = served_by_ours(lengths, buffer_size, batch_size, mix_fraction)
    theirs = served_by_saelens(lengths, buffer_size, batch_size, mix_fraction)
    assert ours["a"] == theirs[: len(ours["a"])]
    assert [[number - 0.5 for number in batch] for batch in ours["b"]] == ours["a"]
    n_held = sum(lengths)
    if n_held >= buffer_size:
        assert ours["a"]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(4, 40))
def test_no_row_is_lost_or_served_twice(lengths: list[int], buffer_size: int) -> None:
    served = served_by_ours(lengths, buffer_size, batch_size=3, mix_fraction=0.5)["a"]
    numbers = [number for batch in served for number in batch]
    assert len(numbers) == len(set(numbers))
    assert set(numbers) <= set(range(sum(lengths)))


def test_a_row_keeps_the_position_of_its_layer() -> None:
    buffer = ShuffleBuffer(8, 4, batch_size=2, mix_fraction=0.5, d_in=D_IN)
    n_served = 0
    for _ in range(20):
        slot_N = buffer.reserve(4)
        for position in (0, 2):
            rows_ND = torch.full((2, D_IN), float(position))
            buffer.write("a", slot_N[position : position + 2], rows_ND, position)
        for batch in iter(buffer.next_batch, None):
            assert torch.equal(batch["a"].rows_BD[:, 0], batch["a"].position_B.float())
            n_served += 1
    assert n_served == 38  # 80 rows, of which 4 stay for mixing


def test_served_batches_stay_as_they_are() -> None:
    """A prefetching thread keeps batches while later rows take over their slots."""
    buffer = ShuffleBuffer(4, 4, batch_size=4, mix_fraction=0, d_in=D_IN)
    buffer.write("a", buffer.reserve(4), torch.zeros(4, D_IN), 0)
    (first,) = iter(buffer.next_batch, None)
    buffer.write("a", buffer.reserve(4), torch.ones(4, D_IN), 1)
    list(iter(buffer.next_batch, None))
    assert first["a"].rows_BD.eq(0).all()
    assert first["a"].position_B.eq(0).all()
