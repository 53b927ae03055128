"""Pre-activations are what SAELens computes, of which only those in question are."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_groups.train.fast_step import ActiveLatents, PreActivations, Scratch

DTYPES = st.sampled_from([torch.float32, torch.bfloat16])
SEEDS = st.integers(0, 2**32)


def made(
    product_BF: torch.Tensor, bias_F: torch.Tensor, factor_F: torch.Tensor | None = None
) -> PreActivations:
    return PreActivations(product_BF.clone(), bias_F, factor_F, Scratch())


def exact(n_rows: int, width: int, dtype: torch.dtype, seed: int) -> list[torch.Tensor]:
    """Product, bias and factor, whose every result is exact, and many of them equal."""
    generator = torch.Generator().manual_seed(seed)
    product_BF = torch.randint(-9, 10, (n_rows, width), generator=generator).to(dtype)
    product_BF[torch.rand(n_rows, width, generator=generator) < 0.1] *= 0.0  # some of them -0
    bias_F = torch.randint(-3, 4, (width,), generator=generator).float()
    factor_F = torch.randint(0, 5, (width,), generator=generator) / 2
    return [product_BF, bias_F, factor_F]


def brute_force(
    product_BF: torch.Tensor, bias_F: torch.Tensor, factor_F: torch.Tensor | None
) -> torch.Tensor:
    return product_BF.double() * (1 if factor_F is None else factor_F.double()) + bias_F.double()


def as_list(active: ActiveLatents) -> list[tuple[int, int, float]]:
    parts = (active.row_N, active.feature_N, active.value_N)
    return list(zip(*(part.tolist() for part in parts), strict=True))


@given(st.integers(1, 20), st.integers(1, 70), DTYPES, SEEDS, st.booleans(), st.booleans())
def test_those_above_are_found_to_the_last_bit(
    n_rows: int, width: int, dtype: torch.dtype, seed: int, has_factor: bool, is_of_feature: bool
) -> None:
    """For bounds of every sign, many of which are a value, and 0 of either sign."""
    product_BF, bias_F, factor_F = exact(n_rows, width, dtype, seed)
    parts = (product_BF, bias_F, factor_F if has_factor else None)
    generator = torch.Generator().manual_seed(seed + 1)
    lowest = torch.randint(-8, 9, (width,) if is_of_feature else (), generator=generator) / 2
    expected_BF = brute_force(*parts)
    assert as_list(made(*parts).above(lowest)) == [
        (row, feature, expected_BF[row, feature].item())
        for row, feature in (expected_BF > lowest).nonzero().tolist()
    ]


@given(st.integers(1, 20), st.integers(1, 70), DTYPES, SEEDS, st.floats(-3, 3))
def test_those_above_are_found_at_any_scale(
    n_rows: int, width: int, dtype: torch.dtype, seed: int, exponent: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    product_BF = torch.randn(n_rows, width, generator=generator).mul(10**exponent).to(dtype)
    bias_F, lowest_F = torch.randn(2, width, generator=generator)
    factor_F = torch.rand(width, generator=generator) * 3
    expected_BF = brute_force(product_BF, bias_F, factor_F)
    found = made(product_BF, bias_F, factor_F).above(lowest_F)
    found_BF = torch.zeros(n_rows, width).index_put((found.row_N, found.feature_N), found.value_N)
    is_clear_BF = (expected_BF - lowest_F).abs() > 1e-5 * (expected_BF.abs() + bias_F.abs())
    is_found_BF = torch.zeros(n_rows, width, dtype=torch.bool)
    is_found_BF[found.row_N, found.feature_N] = True
    assert torch.equal(is_found_BF[is_clear_BF], (expected_BF > lowest_F)[is_clear_BF])
    torch.testing.assert_close(found_BF, expected_BF.float() * is_found_BF, rtol=1e-5, atol=1e-5)


@given(st.integers(1, 200), DTYPES, SEEDS, st.floats(-3, 3), st.booleans())
def test_those_barely_above_are_found(
    width: int, dtype: torch.dtype, seed: int, exponent: float, has_factor: bool
) -> None:
    """The bound is divided and subtracted from, and rounded each time."""
    generator = torch.Generator().manual_seed(seed)
    product_BF = torch.randn(1, width, generator=generator).mul(10**exponent).to(dtype)
    parts = (
        product_BF,
        torch.randn(width, generator=generator),
        torch.rand(width, generator=generator) if has_factor else None,
    )
    (value_F,) = made(*parts).whole()
    found = made(*parts).above(value_F.nextafter(torch.tensor(-torch.inf)))
    assert found.feature_N.tolist() == list(range(width))
    assert len(made(*parts).above(value_F).value_N) == 0


@given(st.integers(1, 20), st.integers(1, 70), DTYPES, SEEDS, st.booleans(), st.data())
def test_the_largest_are_the_first_of_equal_ones(
    n_rows: int, width: int, dtype: torch.dtype, seed: int, has_factor: bool, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, n_rows * width))
    product_BF, bias_F, factor_F = exact(n_rows, width, dtype, seed)
    parts = (product_BF, bias_F, factor_F if has_factor else None)
    values = brute_force(*parts).view(-1)
    first = torch.sort(values, descending=True, stable=True).indices[:n]
    expected = first[values[first] > 0].sort().values.tolist()
    assert as_list(made(*parts).largest(n)) == [
        (place // width, place % width, values[place].item()) for place in expected
    ]


@given(st.integers(1, 8), st.integers(1, 40), DTYPES, SEEDS, st.booleans())
def test_all_or_some_features_of_them_are_the_same(
    n_rows: int, width: int, dtype: torch.dtype, seed: int, has_factor: bool
) -> None:
    product_BF, bias_F, factor_F = exact(n_rows, width, dtype, seed)
    hidden = made(product_BF, bias_F, factor_F if has_factor else None)
    expected_BF = brute_force(product_BF, bias_F, factor_F if has_factor else None)
    index_C = torch.randperm(width, generator=torch.Generator().manual_seed(seed))[: width // 2]
    for _ in range(2):
        assert torch.equal(hidden.columns(index_C).double(), expected_BF[:, index_C])
        assert torch.equal(hidden.whole().double(), expected_BF)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_is_not_found(dtype: torch.dtype) -> None:
    """A run that diverges goes on to where that is asked for."""
    product_BF = torch.tensor([[1, torch.nan, torch.inf, -torch.inf, -torch.nan, 3]], dtype=dtype)
    above = made(product_BF, torch.zeros(6)).above(torch.tensor(-2.0))
    assert as_list(above) == [(0, 0, 1.0), (0, 2, torch.inf), (0, 5, 3.0)]


def places_of_largest(values: torch.Tensor, n: int) -> list[int]:
    active = made(values[None], torch.zeros_like(values)).largest(n)
    assert torch.equal(active.value_N, values[active.feature_N])
    return active.feature_N.tolist()


@given(st.integers(1, 3000), st.integers(0, 2**32), st.floats(-3, 3), st.data())
def test_the_largest_of_all_are_the_largest(
    n_values: int, seed: int, shift: float, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, n_values))
    values = torch.randn(n_values, generator=torch.Generator().manual_seed(seed)) + shift
    found = places_of_largest(values, n)
    assert found == sorted(found)
    expected = torch.topk(values, n).indices
    assert set(found) == set(expected[values[expected] > 0].tolist())


def test_the_largest_of_all_when_a_sample_misleads() -> None:
    """Only one lies above the bound that it suggests, as most values are equal."""
    values = torch.full((2**20,), 0.5)
    values[1::4] = torch.rand(2**18) * 0.1
    values[2] = 1.0
    assert set(places_of_largest(values, 3 * 2**18)) == set(
        torch.topk(values, 3 * 2**18).indices.tolist()
    )
