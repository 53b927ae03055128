"""Layer distances against their definitions, worked out in float64 on stored activations."""

import gc
import math
from collections.abc import Callable
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformer_lens import HookedTransformer

from sae_lens_groups import hookimpl, measure_layer_distances
from sae_lens_groups.errors import (
    DatasetError,
    HookNameError,
    NonFiniteActivationsError,
    PlanError,
    UnknownNameError,
)
from sae_lens_groups.layers import HookTemplate
from sae_lens_groups.plan.distances import LayerDistances
from sae_lens_groups.plan.metrics import DistanceMetric, mean_over_tokens
from sae_lens_groups.plugins import plugin_manager

from .tiny import CONTEXT_SIZE, D_IN, SMALL_LM_BATCHES, TableModel, group_config, make_tokens

METRICS = ("angular", "cosine", "cka")
Batches = list[np.ndarray]  # per LM batch (L, B, D)


# --- the definitions ---


def angular(batches: Batches, n_tokens: int) -> np.ndarray:
    """Mean angle of centred activations over pi; a tenth of the tokens gives the means alone."""
    n_for_means = next(
        n for n in range(len(batches)) if sum(b.shape[1] for b in batches[:n]) >= n_tokens / 10
    )
    return centred_angular(batches[:n_for_means], batches[n_for_means:])


def centred_angular(for_means: Batches, batches: Batches) -> np.ndarray:
    mean = np.concatenate(for_means, axis=1).mean(axis=1, keepdims=True)
    rows = np.concatenate(batches, axis=1) - mean
    return pairwise_mean(rows, lambda cosine: np.arccos(np.clip(cosine, -1, 1)) / math.pi)


def cosine(batches: Batches, n_tokens: int) -> np.ndarray:  # noqa: ARG001
    return pairwise_mean(np.concatenate(batches, axis=1), lambda cosine: 1 - cosine)


def pairwise_mean(rows: np.ndarray, distance: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    found = np.zeros((len(rows), len(rows)))
    for i, j in combinations(range(len(rows)), 2):
        norms = np.linalg.norm(rows[i], axis=1) * np.linalg.norm(rows[j], axis=1)
        found[i, j] = found[j, i] = distance((rows[i] * rows[j]).sum(axis=1) / norms).mean()
    return found


def cka(batches: Batches, n_tokens: int) -> np.ndarray:  # noqa: ARG001
    """One minus the ratio of mean HSICs over strided blocks of at least 256 tokens."""
    blocks = [
        batch[:, start :: max(1, batch.shape[1] // 256)]
        for batch in batches
        for start in range(max(1, batch.shape[1] // 256))
    ]
    n_layers = len(batches[0])
    hsic = np.zeros((n_layers, n_layers))
    for block in blocks:
        kernels = [rows @ rows.T for rows in block]
        for i in range(n_layers):
            for j in range(n_layers):
                hsic[i, j] += unbiased_hsic(kernels[i], kernels[j])
    return 1 - hsic / np.sqrt(np.outer(hsic.diagonal(), hsic.diagonal()))


def unbiased_hsic(kernel: np.ndarray, other: np.ndarray) -> float:
    """HSIC_1 of Song et al. 2012, equation 5, written as there."""
    n = len(kernel)
    kernel, other = kernel * (1 - np.eye(n)), other * (1 - np.eye(n))
    one = np.ones(n)
    return (
        (kernel * other).sum()  # the trace of their product, as both are symmetric
        + (one @ kernel @ one) * (one @ other @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * ((one @ kernel) @ (other @ one))
    ) / (n * (n - 3))


DEFINITIONS = {"angular": angular, "cosine": cosine, "cka": cka}


def stored_activations(
    model: HookedTransformer,
    tokens: Dataset,
    prompts: int,
    excluded: list[int],
    n_tokens: int,
    seqpos_slice: tuple[int | None, ...] = (None,),
) -> Batches:
    """Per LM batch, (L, B, D) in float64: every layer's activations, without excluded tokens."""
    batches: Batches = []
    rows = torch.tensor(tokens.with_format(None)["tokens"])  # whatever others made of it
    for start in range(0, len(rows) - prompts + 1, prompts):
        batch = rows[start : start + prompts]
        _, cache = model.run_with_cache(batch)
        layers = [
            cache[f"blocks.{n}.hook_resid_post"][:, slice(*seqpos_slice)].flatten(0, 1)
            for n in range(model.cfg.n_layers)
        ]
        kept = ~torch.isin(
            batch[:, slice(*seqpos_slice)].flatten(), torch.tensor(excluded, dtype=torch.long)
        )
        batches.append(torch.stack(layers)[:, kept].double().numpy())
        if sum(b.shape[1] for b in batches) >= n_tokens:
            break
    return batches


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("prompts", "n_tokens", "excluded", "seqpos_slice"),
    [
        # A block for each LM batch.
        pytest.param(4, 4100, [], (None,), marks=pytest.mark.slow),
        # Two blocks, of rows from all over the LM batch.
        pytest.param(40, 41_000, [3, 7, 11], (None,), marks=pytest.mark.slow),
        (5, 5000, [0], (2, -2)),
    ],
)
def test_distances_equal_their_definition_on_stored_activations(
    model: HookedTransformer,
    metric: str,
    prompts: int,
    n_tokens: int,
    excluded: list[int],
    seqpos_slice: tuple[int | None, ...],
) -> None:
    cfg = group_config(
        store_batch_size_prompts=prompts,
        exclude_special_tokens=excluded,
        seqpos_slice=seqpos_slice,
    )
    tokens = make_tokens(n_prompts=3000)
    found = measure_layer_distances(
        cfg, metric=metric, n_tokens=n_tokens, override_dataset=tokens, override_model=model
    )
    batches = stored_activations(model, tokens, prompts, excluded, n_tokens, seqpos_slice)
    assert found.n_tokens == sum(batch.shape[1] for batch in batches) >= n_tokens
    expected = DEFINITIONS[metric](batches, n_tokens)
    np.testing.assert_allclose(found.matrix, expected, atol=1e-6, rtol=0)
    assert found.matrix.dtype == np.float64
    assert 0.01 < found.matrix[0, 3] < 1


@pytest.mark.parametrize("metric", METRICS)
def test_standard_errors_are_the_jackknifes_over_lm_batches(
    model: HookedTransformer, tokens: Dataset, metric: str
) -> None:
    # 3200 tokens are 200 prompts of 16; LM batches of 3 of them make at least 64.
    found = measure_layer_distances(
        group_config(store_batch_size_prompts=20),
        metric=metric,
        n_tokens=3200,
        override_dataset=tokens,
        override_model=model,
    )
    batches = stored_activations(model, tokens, 3, [], 3200)
    n_for_means = math.ceil(320 / 48) if metric == "angular" else 0
    for_means, measured = batches[:n_for_means], batches[n_for_means:]
    definition = DEFINITIONS[metric]
    # Cluster c holds the LM batches c, c + 32, c + 64 behind those for the means.
    without = [
        definition(for_means + [b for n, b in enumerate(measured) if n % 32 != c], 3200)
        for c in range(32)
    ]
    expected = jackknife_variance(without)
    if metric == "angular":
        parts = range(n_for_means)
        without = [
            centred_angular(for_means[:part] + for_means[part + 1 :], measured) for part in parts
        ]
        expected += jackknife_variance(without)
    # Where a tensor lies in memory can change the last bits of the language model.
    np.testing.assert_allclose(found.standard_errors, np.sqrt(expected), atol=1e-7)


def jackknife_variance(without: list[np.ndarray]) -> np.ndarray:
    deviations = np.array(without) - np.mean(without, axis=0)
    return (len(without) - 1) / len(without) * (deviations**2).sum(axis=0)


# --- activations of our choosing ---


def distances_of(
    tables: torch.Tensor,
    metric: str,
    *,
    tokens: Dataset | None = None,
    n_tokens: int = 3000,
    **settings: Any,
) -> LayerDistances:
    return measure_layer_distances(
        group_config(**{"store_batch_size_prompts": 20, **settings}),
        metric=metric,
        n_tokens=n_tokens,
        override_dataset=_tokens_below(tables.shape[1]) if tokens is None else tokens,
        override_model=TableModel(tables),
    )


@cache
def _tokens_below(d_vocab: int) -> Dataset:
    return make_tokens(highest=d_vocab)


def random_tables(seed: int, n_layers: int = 3, d_vocab: int = 50) -> torch.Tensor:
    """Layers that drift apart: each is the one below plus noise. (L, d_vocab, D)"""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(n_layers, d_vocab, D_IN, generator=generator, dtype=torch.float64)
    return steps.cumsum(dim=0) + torch.randn(n_layers, 1, D_IN, generator=generator).double()


def rotations(seed: int, n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(n, D_IN, D_IN, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(random)[0]


few = settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
seeds = st.integers(0, 10_000)
scales = st.lists(st.floats(0.01, 100), min_size=3, max_size=3)


@few
@given(seed=seeds, metric=st.sampled_from(METRICS))
def test_distances_are_symmetric_and_zero_on_the_diagonal(seed: int, metric: str) -> None:
    found = distances_of(random_tables(seed), metric)
    for matrix in (found.matrix, found.standard_errors):
        assert np.array_equal(matrix, matrix.T)
        assert not matrix.diagonal().any()
    assert (found.matrix[~np.eye(3, dtype=bool)] > 0.01).all()


@few
@given(seed=seeds, metric=st.sampled_from(METRICS), scale=scales)
def test_a_layers_scale_does_not_matter(seed: int, metric: str, scale: list[float]) -> None:
    tables = random_tables(seed)
    scaled = tables * torch.tensor(scale, dtype=torch.float64)[:, None, None]
    expected, found = distances_of(tables, metric), distances_of(scaled, metric)
    np.testing.assert_allclose(found.matrix, expected.matrix, atol=1e-9)


@few
@given(seed=seeds, metric=st.sampled_from(METRICS))
def test_a_rotation_of_all_layers_does_not_matter(seed: int, metric: str) -> None:
    tables = random_tables(seed)
    expected = distances_of(tables, metric)
    found = distances_of(tables @ rotations(seed, 1), metric)
    np.testing.assert_allclose(found.matrix, expected.matrix, atol=1e-9)


@pytest.mark.slow
@few
@given(seed=seeds)
def test_a_rotation_of_each_layer_matters_to_all_but_cka(seed: int) -> None:
    tables = random_tables(seed)
    for metric in METRICS:
        expected = distances_of(tables, metric).matrix
        found = distances_of(tables @ rotations(seed, 3), metric).matrix
        assert np.allclose(found, expected, atol=1e-9) == (metric == "cka"), metric


@pytest.mark.slow
@few
@given(seed=seeds)
def test_a_layers_mean_matters_to_cosine_alone(seed: int) -> None:
    tables = random_tables(seed)
    shift = 3 * rotations(seed, 3)[:, :1]
    for metric in METRICS:
        expected = distances_of(tables, metric).matrix
        found = distances_of(tables + shift, metric).matrix
        assert np.allclose(found, expected, atol=1e-9) == (metric != "cosine"), metric


@pytest.mark.parametrize(
    ("metric", "same", "opposite"), [("angular", 0, 1), ("cosine", 0, 2), ("cka", 0, 0)]
)
def test_the_same_and_the_opposite_layer(metric: str, same: float, opposite: float) -> None:
    table = random_tables(0, n_layers=1)
    # Exactly centred for angular: the means of a part of the tokens are not those of the rest.
    found = distances_of(torch.cat([table, 3 * table, -table]), metric, tokens=one_of_each(50))
    expected = [[0, same, opposite], [same, 0, opposite], [opposite, opposite, 0]]
    np.testing.assert_allclose(found.matrix, expected, atol=1e-7)


def one_of_each(d_vocab: int) -> Dataset:
    """Prompts whose every LM batch of 50 prompts holds each token equally often."""
    tokens = torch.arange(50 * CONTEXT_SIZE) % d_vocab
    return Dataset.from_dict({"tokens": tokens.view(50, CONTEXT_SIZE).repeat(4, 1).tolist()})


def test_unrelated_layers_lie_at_a_right_angle_and_have_no_cka() -> None:
    generator = torch.Generator().manual_seed(0)
    tables = torch.randn(2, 3200, D_IN, generator=generator)
    every_token_once = Dataset.from_dict({"tokens": torch.arange(3200).view(200, 16).tolist()})
    for metric, expected in (("angular", 0.5), ("cosine", 1.0), ("cka", 1.0)):
        found = distances_of(tables, metric, tokens=every_token_once, n_tokens=3200)
        error = found.standard_errors[0, 1]
        # The biased estimator of CKA would be off by far more than that: 16 dimensions, 320 tokens.
        assert abs(found.matrix[0, 1] - expected) < 4 * error
        assert 0 < error < 0.02


def test_the_standard_error_is_that_of_independent_tokens_where_they_are() -> None:
    tables = torch.randn(2, 3200, D_IN, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(3200, generator=torch.Generator().manual_seed(2))
    found = distances_of(
        tables,
        "cosine",
        tokens=Dataset.from_dict({"tokens": order.view(200, 16).tolist()}),
        n_tokens=3200,
        store_batch_size_prompts=4,
    )
    cosines = torch.nn.functional.cosine_similarity(tables[0], tables[1], dim=1)
    independent = cosines.std().item() / math.sqrt(3200)
    assert 0.6 < found.standard_errors[0, 1] / independent < 1.6


def test_the_standard_error_grows_where_the_tokens_of_an_lm_batch_are_alike() -> None:
    tables = torch.randn(2, 50, D_IN, generator=torch.Generator().manual_seed(1))
    alike = Dataset.from_dict({"tokens": [[n // 4] * CONTEXT_SIZE for n in range(200)]})
    found = distances_of(tables, "cosine", tokens=alike, n_tokens=3200, store_batch_size_prompts=4)
    cosines = torch.nn.functional.cosine_similarity(tables[0], tables[1], dim=1)
    assert found.standard_errors[0, 1] > 3 * cosines.std().item() / math.sqrt(3200)


@pytest.mark.slow
def test_the_standard_error_is_how_far_repeated_measurements_lie_apart() -> None:
    """Prompts are of one of two topics, so the means, of a tenth of the tokens, are far off."""
    tables = random_tables(0, n_layers=4)
    tables += 10 * random_rows(1)
    tables[:, RARE_TOPIC:] += 2 * random_rows(2)
    found = [
        distances_of(tables, "angular", tokens=prompts_of_topics(seed), n_tokens=3000)
        for seed in range(16)
    ]
    pairs = np.triu_indices(len(tables), 1)
    spread = np.std([one.matrix[pairs] for one in found], axis=0, ddof=1)
    claimed = np.sqrt(np.mean([one.standard_errors[pairs] ** 2 for one in found], axis=0))
    assert 0.7 < (spread / claimed).mean() < 1.5


RARE_TOPIC = 40


def random_rows(seed: int) -> torch.Tensor:
    """A row for each of four layers."""
    return torch.randn(4, 1, D_IN, generator=torch.Generator().manual_seed(seed))


def prompts_of_topics(seed: int) -> Dataset:
    """Tokens of a prompt are below 40, or in one prompt in five from there on."""
    generator = torch.Generator().manual_seed(seed)
    usual = torch.randint(0, RARE_TOPIC, (200, CONTEXT_SIZE), generator=generator)
    rare = torch.randint(RARE_TOPIC, 50, (200, CONTEXT_SIZE), generator=generator)
    is_rare = torch.rand(200, 1, generator=generator) < 0.2
    return Dataset.from_dict({"tokens": torch.where(is_rare, rare, usual).tolist()})


@pytest.mark.usefixtures("only_new_objects")
def test_memory_does_not_grow_with_tokens() -> None:
    class Watched(TableModel):
        held: list[int]

        def forward(self, tokens: torch.Tensor, **_: Any) -> torch.Tensor:
            tensors = [o for o in gc.get_objects() if isinstance(o, torch.Tensor)]
            self.held.append(sum(t.numel() * t.element_size() for t in tensors))
            return super().forward(tokens)

    model = Watched(random_tables(0))
    model.held = []
    measure_layer_distances(
        group_config(store_batch_size_prompts=2),
        n_tokens=2 * 16 * 95,
        override_dataset=make_tokens(highest=50),
        override_model=model,
    )
    held = model.held[-95:]  # before them, a look at the hooks and norms
    # From the tenth batch on, sums of up to 32 clusters gather; then nothing more.
    assert max(held[60:]) <= max(held[45:60])


# --- other ways in, and mistakes ---


def test_a_saelens_config_will_do(model: HookedTransformer, tokens: Dataset) -> None:
    from sae_lens import LanguageModelSAERunnerConfig

    from .tiny import settings as run_settings

    theirs = LanguageModelSAERunnerConfig(**run_settings())
    expected, found = (
        measure_layer_distances(cfg, n_tokens=640, override_dataset=tokens, override_model=model)
        for cfg in (group_config(), theirs)
    )
    assert np.array_equal(expected.matrix, found.matrix)
    assert found.hook_template == HookTemplate("blocks.", ".hook_resid_post")


def test_a_short_dataset_is_measured_to_its_end(model: HookedTransformer) -> None:
    found = measure_layer_distances(
        group_config(), n_tokens=600, override_dataset=make_tokens(30), override_model=model
    )
    assert found.n_tokens == 30 * CONTEXT_SIZE


def test_another_packages_metric_is_measured() -> None:
    class Plugin:
        @hookimpl
        def register_layer_distances(self, register: Callable[[str, DistanceMetric], None]) -> None:
            def norms_apart(acts_LND: torch.Tensor) -> torch.Tensor:
                norm_LN = acts_LND.norm(dim=2)
                return (norm_LN[:, None] - norm_LN[None]).abs().sum(dim=2)

            register("norms", DistanceMetric(sums=norms_apart, distances=mean_over_tokens))

    plugin = Plugin()
    plugin_manager().register(plugin, name="some-package")
    try:
        tables = torch.ones(2, 50, D_IN)
        tables[1] *= 3
        assert distances_of(tables, "norms").matrix[0, 1] == pytest.approx(2 * math.sqrt(D_IN))
    finally:
        plugin_manager().unregister(plugin)


def test_an_unknown_metric_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="known names: angular, cka, cosine"):
        distances_of(random_tables(0), "euclidean")


def test_nan_names_the_layer() -> None:
    tables = random_tables(0)
    tables[1, 7, 3] = math.nan
    for metric in METRICS:
        with pytest.raises(NonFiniteActivationsError, match=r"at blocks\.1\.hook_resid_post hold"):
            distances_of(tables, metric)


@pytest.mark.parametrize(
    ("n_tokens", "message"),
    [
        (200_000, "the dataset ends after 192 of plan_tokens=200,000 tokens, too early"),
        (20, "plan_tokens=20 are 1 LM batches besides those for the means, too few"),
    ],
)
def test_too_few_tokens_for_a_standard_error_say_so(
    model: HookedTransformer, n_tokens: int, message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        measure_layer_distances(
            group_config(**SMALL_LM_BATCHES),
            n_tokens=n_tokens,
            override_dataset=make_tokens(12),
            override_model=model,
        )


def test_a_hook_that_the_model_lacks_is_named(model: HookedTransformer, tokens: Dataset) -> None:
    with pytest.raises(HookNameError, match="its hooks at layer 0 are: "):
        measure_layer_distances(
            group_config(hook_name="blocks.0.hook_nothing"),
            override_dataset=tokens,
            override_model=model,
        )


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((2, 3)), r"matrix has the shape \(2, 3\); it must be layers x layers"),
        (np.zeros((1, 1)), "has 1 layer; distances, and groups, need at least 2 layers"),
        (np.array([[0, np.nan], [np.nan, 0]]), "matrix holds NaN or infinite values"),
        (np.array([[0, -0.1], [-0.1, 0]]), "matrix holds negative values; the lowest is -0.1"),
        (np.array([[0, 0.1], [0.2, 0]]), "matrix is not symmetric"),
        (np.array([[0.1, 0.1], [0.1, 0]]), "matrix is not zero on its diagonal"),
    ],
)
def test_a_matrix_that_is_none_of_distances_is_refused(matrix: np.ndarray, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        LayerDistances(
            metric="angular",
            matrix=matrix,
            standard_errors=np.zeros_like(matrix),
            n_tokens=1000,
            model_name="tiny",
            hook_template=HookTemplate("blocks.", ".hook_resid_post"),
        )
