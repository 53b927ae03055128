"""Tokens of massive activations, which real models have, are left out of whatever is measured or trained."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, LoggingConfig
from transformer_lens import HookedTransformer

from sae_lens_groups import (
    GroupSAETrainingRunner,
    SAESuite,
    cache_activations,
    evaluate_suite,
    measure_layer_distances,
)
from sae_lens_groups.activations import moments_of_pairs
from sae_lens_groups.errors import ConfigError
from sae_lens_groups.evaluate import evaluation_text, report_page

from .test_export import HAS_WHITENING
from .test_store import drawn, make_store
from .tiny import (
    CONTEXT_SIZE,
    D_VOCAB,
    N_LAYERS,
    SMALL_LM_BATCHES,
    TableModel,
    group_config,
    make_model,
    make_tokens,
    sae_config,
)

MASSIVE = 3  # the token
OFF: dict[str, Any] = {"max_activation_norm_multiple": 0}
EXCLUDED = {**OFF, "exclude_special_tokens": [MASSIVE]}
NORMALISED = {"sae": sae_config(normalize_activations="expected_average_only_in")}


@pytest.fixture(scope="module")
def massive_model() -> HookedTransformer:
    """One token is 1,000 times as large as the others, at all layers."""
    model = make_model()
    with torch.no_grad():
        model.embed.W_E[MASSIVE] *= 1000
    return model


@pytest.fixture(scope="module")
def sink_model() -> HookedTransformer:
    """The first position is, whatever its token."""
    model = make_model()
    with torch.no_grad():
        model.pos_embed.W_pos[0] += 1000
    return model


def run(model: HookedTransformer, layer_groups: str = "each", **changes: Any) -> SAESuite:
    cfg = group_config(layer_groups, **{**NORMALISED, **changes})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GroupSAETrainingRunner(cfg, make_tokens(400), model).run()


def assert_same_weights(first: SAESuite, second: SAESuite) -> None:
    assert first.keys() == second.keys()
    for name, sae in first.items():
        for parameter, weight in sae.state_dict().items():
            assert torch.equal(weight, second[name].state_dict()[parameter]), (name, parameter)


# --- what is left out ---


def test_training_is_the_same_as_without_these_tokens(massive_model: HookedTransformer) -> None:
    found = run(massive_model)
    assert_same_weights(found, run(massive_model, **EXCLUDED))
    scales = found.manifest.scaling_factors
    trained_on = run(massive_model, **OFF).manifest.scaling_factors
    for layer, scale in scales.items():  # of a mean norm that the token does not raise
        assert scale > 2 * trained_on[layer]  # type: ignore[operator]


@pytest.mark.skipif(not HAS_WHITENING, reason="this SAELens has no whitening")
def test_whitening_is_that_of_the_other_tokens(massive_model: HookedTransformer) -> None:
    whitened = {"sae": sae_config(normalize_activations="covariance_whitening")}
    found, expected = (run(massive_model, **whitened, **of) for of in ({}, EXCLUDED))
    assert_same_weights(found, expected)


def test_without_massive_activations_nothing_changes(model: HookedTransformer) -> None:
    assert_same_weights(run(model, "0-2,3"), run(model, "0-2,3", **OFF))


def test_the_first_position_is_left_out_whatever_its_token(sink_model: HookedTransformer) -> None:
    dataset = make_tokens()
    limits = dict.fromkeys(make_store(sink_model, dataset).places, 100.0)
    store = make_store(sink_model, dataset)
    limited = type(store).from_group_config(
        sink_model, group_config(**SMALL_LM_BATCHES), store.groups, dataset, limits
    )
    sliced = drawn(make_store(sink_model, dataset, "each", seqpos_slice=(1, None)))
    for name, batch in drawn(limited).items():
        assert len(batch.rows_BD) == 4 * (CONTEXT_SIZE - 1)
        assert batch.rows_BD.norm(dim=-1).max() < 100
        if name in sliced:
            assert torch.equal(batch.rows_BD, sliced[name].rows_BD)


def test_a_token_that_is_massive_at_one_layer_is_left_out_of_all() -> None:
    tables = torch.randn(N_LAYERS, D_VOCAB, 16, generator=torch.Generator().manual_seed(0))
    tables[1, MASSIVE] *= 1000
    model: Any = TableModel(tables)
    cfg = group_config(plan_tokens=2_000)
    data = {"override_dataset": make_tokens(), "override_model": model}
    without = measure_layer_distances(group_config(plan_tokens=2_000, **EXCLUDED), **data)
    with pytest.warns(
        UserWarning, match=r"massive activations in layer 1: .* left out .* of them, '\[3\]'$"
    ):
        with_it = measure_layer_distances(cfg, **data)
    assert with_it.n_tokens == without.n_tokens
    assert (with_it.matrix == without.matrix).all()
    limits = {cfg.hook_template.hook_name(1): 100.0}
    pair = [(0, 1)]
    found = moments_of_pairs(cfg, model, make_tokens(), pair, limits)[0, 1]
    expected = moments_of_pairs(
        group_config(plan_tokens=2_000, **EXCLUDED), model, make_tokens(), pair
    )[0, 1]
    assert torch.equal(found.xy_DD, expected.xy_DD)
    assert found.n_tokens == expected.n_tokens


@pytest.mark.parametrize("layer_groups", ["0-2,3", "each"])
@pytest.mark.parametrize("cache_rows", ["all", "drawn"])
def test_cached_activations_train_the_same(
    massive_model: HookedTransformer, layer_groups: str, cache_rows: str
) -> None:
    cached = {"cached_activations_path": "cache"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cache_activations(
            group_config(layer_groups, **NORMALISED, **cached),
            cache_rows=cache_rows,
            override_dataset=make_tokens(400),
            override_model=massive_model,
        )
    suite = run(massive_model, layer_groups, use_cached_activations=True, **cached)
    assert_same_weights(suite, run(massive_model, layer_groups))


def test_a_resumed_run_leaves_out_the_same(massive_model: HookedTransformer) -> None:
    whole = run(massive_model, "0-2,3", checkpoint_path="checkpoints", n_checkpoints=1)
    (state,) = Path("checkpoints").rglob("activations_store_state.safetensors")
    resumed = run(massive_model, "0-2,3", resume_from_checkpoint=str(state.parent))
    assert_same_weights(whole, resumed)


@pytest.mark.parametrize("multiple", [1, 0.5, -1, float("inf"), float("nan")])
def test_a_limit_without_a_meaning_is_refused(multiple: float) -> None:
    with pytest.raises(ConfigError, match="max_activation_norm_multiple is "):
        group_config(max_activation_norm_multiple=multiple)


# --- what is said ---


def test_massive_activations_are_named(
    massive_model: HookedTransformer, sink_model: HookedTransformer, model: HookedTransformer
) -> None:
    def said(model: HookedTransformer, **changes: Any) -> list[str]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            GroupSAETrainingRunner(group_config("each", **changes), make_tokens(), model)
        return [str(of.message) for of in found if "massive" in str(of.message)]

    (left_out,) = said(massive_model)
    assert "massive activations in layers 0-3: 1% of the tokens carry up to" in left_out
    assert "tokens beyond 10 times the median norm of any layer are left out" in left_out
    (trained_on,) = said(sink_model, **OFF)
    assert "set max_activation_norm_multiple to 10: 6.2% of them, the first position" in trained_on
    assert said(model) == []


def test_saes_say_what_they_were_not_trained_on(massive_model: HookedTransformer) -> None:
    run(massive_model, "0-2,3", output_path="suite")
    metadata = SAE.load_from_disk("suite/blocks.1.hook_resid_post").cfg.metadata
    norms = metadata.activation_norms
    assert metadata.max_activation_norm_multiple == 10
    assert metadata.max_activation_norm == 10 * norms["median"]
    assert norms["largest"] > 100 * norms["median"]
    assert norms["top_share"] > 0.3
    run(massive_model, "0-2,3", output_path="off", **OFF)
    metadata = SAE.load_from_disk("off/blocks.1.hook_resid_post").cfg.metadata
    assert metadata.max_activation_norm is None
    assert metadata.max_activation_norm_multiple == 0


def test_the_page_and_wandb_show_the_norms(
    massive_model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: dict[str, Any] = {}
    monkeypatch.setattr("wandb.init", lambda **given: started.update(given))
    monkeypatch.setattr("wandb.log", lambda *_, **__: None)
    monkeypatch.setattr("wandb.finish", lambda: None)
    suite = run(massive_model, "0-2,3", logger=LoggingConfig(log_to_wandb=True))
    norms = suite.layer(1).cfg.metadata.activation_norms
    assert started["config"]["activation_norms"]["1"] == norms
    step = "SAELens's own: d_sae is 48, less than 256; fast_step always takes the fast one"
    assert started["config"]["training_step"] == suite.manifest.training_step == step
    page = report_page(suite, scores(suite, massive_model))
    _, table = page.split("Activation norms</h2>")
    assert "Tokens beyond 10 times the median of any layer were left out of training." in table
    assert f"<td>1</td><td>{norms['median']:,.4g}</td>" in table


# --- scores ---


def scores(suite: SAESuite, model: HookedTransformer, **changes: Any) -> Any:
    return evaluate_suite(suite, model, make_tokens(64, seed=1), n_batches=2, **changes)


@pytest.mark.parametrize("of", [{}, OFF], ids=["left out", "trained on"])
def test_scores_are_those_of_ordinary_tokens(
    massive_model: HookedTransformer, of: dict[str, Any]
) -> None:
    suite = run(massive_model, "0-2,3", **of)
    found = scores(suite, massive_model)
    for sae in suite.values():
        sae.cfg.metadata.exclude_special_tokens = [MASSIVE]
    expected = scores(suite, massive_model)
    assert found.tokens.n_outliers > 0 == expected.tokens.n_outliers
    assert found.tokens.n_tokens == expected.tokens.n_tokens
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dead_features == theirs.dead_features
        for name, value in ours.metrics.items():
            if name != "explained_variance_with_outliers":
                assert value == theirs.metrics[name], name


def test_a_score_that_few_tokens_make_stands_beside_that_of_all_others(
    massive_model: HookedTransformer,
) -> None:
    found = scores(run(massive_model, "0-2,3", **OFF), massive_model)
    for layer in found:
        metrics = layer.metrics
        assert metrics["explained_variance_with_outliers"] > metrics["explained_variance"] + 0.2
    assert "EV with outliers" in evaluation_text(found)
    assert f"{found.tokens.n_outliers} of massive activations" in evaluation_text(found)


def test_without_outliers_the_table_is_as_it_was(model: HookedTransformer) -> None:
    found = scores(run(model, "0-2,3"), model)
    assert "outlier" not in evaluation_text(found)
    for layer in found:
        metrics = layer.metrics
        assert metrics["explained_variance_with_outliers"] == metrics["explained_variance"]


def test_scores_of_a_start_are_those_of_ordinary_tokens(massive_model: HookedTransformer) -> None:
    run(massive_model, "0-2,3", output_path="groups")
    found = run(massive_model, init_from="groups").manifest.transfer
    expected = run(massive_model, init_from="groups", **EXCLUDED).manifest.transfer
    assert found is not None
    assert expected is not None
    assert found.zero_shot == expected.zero_shot
    assert found.final == expected.final


def test_positions_that_training_left_out_do_not_count(sink_model: HookedTransformer) -> None:
    suite = run(sink_model, "0-2,3", seqpos_slice=(1, None))
    found = scores(suite, sink_model)
    assert found.tokens.n_outliers == 0
    assert found.tokens.n_tokens == 2 * 16 * (CONTEXT_SIZE - 1)


def test_layers_of_unlike_norms_are_told_before_training() -> None:
    """Of a group that takes them as they are: the SAE would learn the largest."""
    tables = torch.randn(N_LAYERS, D_VOCAB, 16, generator=torch.Generator().manual_seed(0))
    tables *= torch.tensor([1.0, 1.5, 4.0, 30.0])[:, None, None]
    data: dict[str, Any] = {"override_dataset": make_tokens(), "override_model": TableModel(tables)}
    with pytest.warns(
        UserWarning,
        match=r"^the layers of layers_1-3 \(5\.\d+ to 11\d\) .* set normalize_activations to",
    ):
        GroupSAETrainingRunner(group_config("0,1-3"), **data)
    for settings in ({"layer_groups": "0-1,2,3"}, {"layer_groups": "0,1-3", **NORMALISED}):
        GroupSAETrainingRunner(group_config(**settings), **data)
