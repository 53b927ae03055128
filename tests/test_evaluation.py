"""`evaluate_suite`: SAELens's numbers from one sweep, differences, features, files, mistakes."""

import copy
import itertools
import json
import math
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import sae_lens.evals
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from sae_lens import SAE, ActivationsStore
from sae_lens.evals import EvalConfig, get_eval_everything_config, process_results, run_evals
from sae_lens.load_model import load_model
from sae_lens.training.activation_scaler import ActivationScaler
from scipy.stats import norm, t
from transformer_lens import HookedRootModule, HookedTransformer

from sae_lens_groups import (
    GroupSAETrainingRunner,
    LayerGroup,
    SAESuite,
    evaluate_suite,
    report_page,
)
from sae_lens_groups.demo.model import MODEL_CLASS_NAME, MODEL_FOLDER, stdlib_tokens
from sae_lens_groups.errors import ConfigError, DatasetError, HookNameError, SuiteError
from sae_lens_groups.evaluate import evaluation_text
from sae_lens_groups.evaluate.baseline import open_baseline
from sae_lens_groups.evaluate.bootstrap import Estimate, Resamplings
from sae_lens_groups.evaluate.features import FeatureLayers
from sae_lens_groups.evaluate.matching import match_features
from sae_lens_groups.evaluate.metrics import (
    METRICS,
    SECTIONS,
    metrics_of,
    resampled_metrics,
)
from sae_lens_groups.evaluate.sums import SequenceSums
from sae_lens_groups.scaling.fold import layer_sae
from tests.tiny import (
    CONTEXT_SIZE,
    D_IN,
    N_LAYERS,
    group_config,
    make_model,
    make_tokens,
    sae_config,
)

N_BATCHES, N_PROMPTS = 2, 4
NEWER_DEFINITIONS = ("explained_variance", "mse")
"""Metrics that SAELens 6.44 still defined otherwise."""


def train(model: HookedRootModule, layer_groups: str = "0-2,3", **changes: Any) -> SAESuite:
    changes = {
        "sae": sae_config(normalize_activations="expected_average_only_in"),
        "training_tokens": 32 * 10,
        **changes,
    }
    dataset = changes.pop("dataset", make_tokens())
    cfg = group_config(layer_groups, **changes)
    return GroupSAETrainingRunner(cfg, override_dataset=dataset, override_model=model).run()


@pytest.fixture(scope="module")
def suite(model: HookedTransformer, tmp_path_factory: pytest.TempPathFactory) -> SAESuite:
    return train(model, output_path=str(tmp_path_factory.mktemp("suites") / "suite"))


@pytest.fixture(scope="module")
def held_out() -> Dataset:
    return make_tokens(seed=1)


def evaluate(suite: SAESuite, model: HookedRootModule, dataset: Dataset, **changes: Any) -> Any:
    changes = {"n_batches": N_BATCHES, "batch_size_prompts": N_PROMPTS, **changes}
    return evaluate_suite(suite, model, dataset, **changes)


# --- the numbers are SAELens's ---


def from_run_evals(
    sae: SAE[Any], model: HookedRootModule, dataset: Dataset, excluded: bool | list[int]
) -> dict[str, float]:
    """SAELens's own numbers; each of its two groups of metrics from the dataset's first tokens."""
    parts = (
        EvalConfig(compute_kl=True, compute_ce_loss=True),
        EvalConfig(
            compute_l2_norms=True, compute_sparsity_metrics=True, compute_variance_metrics=True
        ),
    )
    found: dict[str, float] = {}
    for config in parts:
        config.n_eval_reconstruction_batches = config.n_eval_sparsity_variance_batches = N_BATCHES
        store = ActivationsStore.from_sae(model, sae, dataset, store_batch_size_prompts=N_PROMPTS)
        metrics, _ = run_evals(
            sae, store, model, ActivationScaler(), config, exclude_special_tokens=excluded
        )
        found |= {
            name: metrics[part][name]
            for part in metrics.keys() & SECTIONS
            for name in metrics[part]
        }
    return found


def assert_equal_metrics(
    found: dict[str, float], expected: dict[str, float], *left_out: str
) -> None:
    # No token of these models is an outlier.
    expected = expected | {"explained_variance_with_outliers": expected["explained_variance"]}
    assert set(found) == set(expected) == set(METRICS)
    if not hasattr(sae_lens.evals, "ExplainedVarianceCalculator"):
        left_out += (*NEWER_DEFINITIONS, "explained_variance_with_outliers")
    for name in set(METRICS) - set(left_out):
        assert found[name] == pytest.approx(expected[name], rel=1e-6, abs=1e-6), name


@pytest.fixture(scope="module", params=["AutoModelForCausalLM", "HookedTransformer"])
def demo_model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[HookedRootModule, str]]:
    """The demo model, in both of SAELens's model classes, and the hook of its layer 1."""
    if request.param == MODEL_CLASS_NAME:
        yield load_model(MODEL_CLASS_NAME, str(MODEL_FOLDER)), "gpt_neox.layers.1"
        return
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(MODEL_FOLDER, folder / "EleutherAI" / "pythia-14m")  # a GPT-NeoX it knows
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield load_model("HookedTransformer", "EleutherAI/pythia-14m"), "blocks.1.hook_resid_post"
    finally:
        os.chdir(before)


@pytest.mark.seam
@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "gated"])
def test_every_number_is_that_of_run_evals(
    demo_model: tuple[HookedRootModule, str], architecture: str
) -> None:
    """On a language model that has learned something, with special tokens left out."""
    model, hook_name = demo_model
    tokens = torch.tensor(stdlib_tokens("held_out", 32).select(range(400))["tokens"][:])
    tokens[::3, 5] = cast("Any", model.tokenizer).eos_token_id
    text = Dataset.from_dict({"tokens": tokens.tolist()})
    suite = train(
        model,
        "1-2,11",
        hook_name=hook_name,
        sae=sae_config(architecture, d_in=96, normalize_activations="expected_average_only_in"),
        context_size=32,
        exclude_special_tokens=True,
        dataset=text.select(range(200)),
    )
    text = text.select(range(200, 400))
    scores = evaluate(suite, model, text)
    for score in scores:
        expected = from_run_evals(suite[score.hook_name], model, text, excluded=True)
        assert_equal_metrics(dict(score.metrics), expected)


@pytest.mark.seam
@pytest.mark.parametrize(
    ("hook_name", "head_index"),
    [
        ("blocks.1.hook_resid_pre", None),
        ("blocks.1.hook_mlp_out", None),
        ("blocks.1.attn.hook_z", None),
        ("blocks.1.attn.hook_q", 1),
    ],
)
def test_every_kind_of_hook_gives_the_numbers_of_run_evals(
    model: HookedTransformer, held_out: Dataset, hook_name: str, head_index: int | None
) -> None:
    d_in = D_IN if head_index is None else 8
    suite = train(model, hook_name=hook_name, hook_head_index=head_index, sae=sae_config(d_in=d_in))
    for score in evaluate(suite, model, held_out):
        expected = from_run_evals(suite[score.hook_name], model, held_out, excluded=False)
        # Ratios of differences that a random model hardly has.
        assert_equal_metrics(dict(score.metrics), expected, "ce_loss_score", "kl_div_score")


def test_a_model_that_cannot_be_entered_gives_the_same_numbers(
    suite: SAESuite, model: HookedTransformer, held_out: Dataset
) -> None:
    class Unknown(HookedTransformer):
        """Nobody knows what a subclass computes, so its passes start at the tokens."""

    unknown = Unknown(model.cfg)
    unknown.load_state_dict(model.state_dict())
    for entered, whole in zip(evaluate(suite, model, held_out), evaluate(suite, unknown, held_out)):
        for name in set(METRICS) - {"ce_loss_score"}:
            assert whole.metrics[name] == pytest.approx(entered.metrics[name], rel=1e-5, abs=1e-6)


def test_a_model_in_bfloat16_gives_nearly_the_same_numbers(
    suite: SAESuite, model: HookedTransformer, held_out: Dataset
) -> None:
    coarse = make_model().to(torch.bfloat16)
    for score, exact in zip(evaluate(suite, coarse, held_out), evaluate(suite, model, held_out)):
        for name in ("explained_variance", "cossim", "l2_norm_in", "ce_loss_without_sae"):
            assert score.metrics[name] == pytest.approx(exact.metrics[name], rel=0.02), name


@pytest.mark.parametrize(("with_baseline", "passes_per_layer"), [(False, 2), (True, 3)])
def test_a_sweep_takes_one_clean_pass_and_two_per_layer(
    with_baseline: bool, passes_per_layer: int
) -> None:
    """With a baseline three: both reconstructions, and the ablation that they share."""
    model = load_model(MODEL_CLASS_NAME, str(MODEL_FOLDER))
    text = stdlib_tokens("held_out", 16).select(range(300))
    settings = {"sae": sae_config(d_in=96), "hook_name": "gpt_neox.layers.0", "dataset": text}
    suite = train(model, "0-1,2", **settings)
    baseline = train(model, "each", **settings) if with_baseline else None
    n_prompts: list[int] = []
    embedding: torch.nn.Module = cast("Any", model).model.gpt_neox.embed_in
    embedding.register_forward_hook(lambda _, inputs, output: n_prompts.append(len(output)))  # noqa: ARG005
    evaluate(suite, model, text, baseline=baseline)
    # Beside them one token, which shows the width, and a prompt per suite, whose FLOPs are counted.
    assert n_prompts.count(N_PROMPTS) == N_BATCHES * (1 + passes_per_layer * len(suite))
    assert len(n_prompts) == n_prompts.count(N_PROMPTS) + 2 + with_baseline


def test_a_hooked_transformer_is_entered_at_the_layer(
    suite: SAESuite, model: HookedTransformer, held_out: Dataset
) -> None:
    """Each block runs for the clean pass and, on all prompts, for the layers below it."""
    n_prompts: list[list[int]] = [[] for _ in range(N_LAYERS)]
    handles = [
        block.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append(len(output)))  # noqa: ARG005
        for block, seen in zip(model.blocks, n_prompts)
    ]
    evaluate(suite, model, held_out)
    for handle in handles:
        handle.remove()
    for layer, seen in enumerate(n_prompts):
        assert seen.count(N_PROMPTS) == N_BATCHES * (1 + layer)


def test_a_list_of_excluded_tokens_counts_without_a_tokenizer(
    model: HookedTransformer, held_out: Dataset
) -> None:
    excluded = [0, 1, 2, 3, 4, 5]
    suite = train(model, exclude_special_tokens=excluded)
    for score in evaluate(suite, model, held_out):
        expected = from_run_evals(suite[score.hook_name], model, held_out, excluded)
        assert_equal_metrics(dict(score.metrics), expected, "ce_loss_score", "kl_div_score")


# --- what training cost ---


def test_the_cost_counts_what_training_ran(
    model: HookedTransformer, held_out: Dataset, tmp_path: Path
) -> None:
    """Passes end at the last hook of a run, and each run of its own takes one."""
    low, whole = train(model, "0-1"), train(model, "each")
    shallow, deep = (evaluate(suite, model, held_out).costs[0] for suite in (low, whole))
    assert shallow.lm_passes == pytest.approx(deep.lm_passes / 2, rel=1e-9)  # 2 of 4 layers
    assert (shallow.n_saes, deep.n_saes) == (1, 4)
    assert deep.sae_steps == 4 * shallow.sae_steps
    assert deep.flops == deep.training_tokens * (deep.lm_passes + deep.sae_steps)

    for name, sae in whole.items():
        sae.save_model(tmp_path / "separate" / name)
        (tmp_path / "separate" / name / "runner_cfg.json").write_text(json.dumps(whole.runner_cfg))
    separate = evaluate(whole, model, held_out, baseline=open_baseline(tmp_path / "separate"))
    assert separate.costs[1].lm_passes == pytest.approx(deep.lm_passes * (1 + 2 + 3 + 4) / 4)
    assert separate.costs[1].sae_steps == deep.sae_steps


def test_layers_that_were_kept_cost_nothing(
    model: HookedTransformer, held_out: Dataset, tmp_path: Path
) -> None:
    train(model, "0-1,2-3", output_path=str(tmp_path / "source"))
    flags = {"init_from": str(tmp_path / "source"), "init_keep_layers": True}
    filled = train(model, "0-1", **flags)
    assert len(filled) == N_LAYERS
    (cost,) = evaluate(filled, model, held_out).costs
    assert (cost.n_saes, cost.n_layers) == (1, 2)


def test_a_suite_whose_source_is_gone_is_evaluated_with_its_cost(
    model: HookedTransformer, held_out: Dataset, tmp_path: Path
) -> None:
    train(model, output_path=str(tmp_path / "source"))
    suite = train(model, init_from=str(tmp_path / "source"), token_fraction=0.5)
    shutil.rmtree(tmp_path / "source")
    (cost,) = evaluate(suite, model, held_out).costs
    assert cost.training_tokens == 32 * 5


@pytest.mark.parametrize("change", [{"training_tokens": "many"}, {"training_tokens": None}])
def test_settings_that_cannot_be_read_leave_the_cost_out(
    model: HookedTransformer, held_out: Dataset, change: dict[str, Any]
) -> None:
    suite = train(model)
    suite.runner_cfg = {**(suite.runner_cfg or {}), **change}
    evaluation = evaluate(suite, model, held_out)
    assert len(evaluation) == N_LAYERS
    assert evaluation.costs == ()


# --- each layer by its own scaling ---


@pytest.fixture(scope="module")
def uneven() -> tuple[HookedTransformer, SAESuite]:
    """Layers of very different norms in one group."""
    model = make_model(norms=(1, 30, 300, 3000))
    return model, train(model, "0-3", n_batches_in_buffer=8)


def test_one_scaling_for_all_layers_changes_the_table(
    uneven: tuple[HookedTransformer, SAESuite], held_out: Dataset
) -> None:
    model, suite = uneven
    group_sae, (group,) = suite.group(suite.manifest.groups[0]), suite.manifest.groups
    faulty = {
        name: layer_sae(
            group_sae, suite.scaler(group.first), {"hook_name": name, "sae_lens_groups": {}}
        )
        for name in suite
    }
    for score in evaluate(suite, model, held_out, baseline=faulty)[1:]:
        assert score.baseline is not None
        assert score.baseline.differences["explained_variance"].low > 0.01


def test_every_layer_is_evaluated_with_its_own_scaling(
    uneven: tuple[HookedTransformer, SAESuite], held_out: Dataset
) -> None:
    """The group's SAE with SAELens's scaler of that layer gives the same table."""
    model, suite = uneven
    group_sae = suite.group(suite.manifest.groups[0])
    for score in evaluate(suite, model, held_out):
        group_sae.cfg.metadata.hook_name = score.hook_name
        tokens = torch.tensor(held_out[: N_BATCHES * N_PROMPTS]["tokens"])
        _, cache = model.run_with_cache(tokens, names_filter=[score.hook_name])
        x, scaler = cache[score.hook_name].flatten(0, 1), suite.scaler(score.layer)
        assert scaler.scaling_factor == score.scaling_factor
        x_hat = scaler.unscale(group_sae(scaler.scale(x)))
        unexplained = (x - x_hat).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
        assert score.metrics["explained_variance"] == pytest.approx(
            1 - unexplained.item(), abs=1e-4
        )


@pytest.mark.parametrize("is_renamed", [False, True])
def test_an_sae_that_lies_at_another_layer_is_refused(
    uneven: tuple[HookedTransformer, SAESuite], held_out: Dataset, tmp_path: Path, is_renamed: bool
) -> None:
    model, suite = uneven
    folder = suite.save(tmp_path / "mixed_up")
    there, here = (folder / f"blocks.{layer}.hook_resid_post" for layer in (3, 0))
    shutil.rmtree(here)
    shutil.copytree(there, here)
    if is_renamed:
        text = (here / "cfg.json").read_text().replace("blocks.3.", "blocks.0.")
        (here / "cfg.json").write_text(text)
    with pytest.raises(SuiteError, match=r"blocks\.0\.hook_resid_post/.* was altered after"):
        evaluate(SAESuite.load(folder), model, held_out)
    (folder / "checksums.json").unlink()
    with pytest.raises(SuiteError, match=r"blocks\.0\.hook_resid_post/cfg\.json says that its SAE"):
        evaluate(SAESuite.load(folder), model, held_out)


# --- differences ---


def random_sums(n_sequences: int, seed: int) -> SequenceSums:
    generator = torch.Generator().manual_seed(seed)

    def positive() -> torch.Tensor:
        return 1 + torch.rand(n_sequences, 3, generator=generator)

    names = ("l0", "l1", "ce_loss_with_sae", "ce_loss_without_sae", "ce_loss_with_ablation")
    names += ("kl_div_with_sae", "kl_div_with_ablation")
    x_SD = torch.randn(n_sequences, 3, 2, generator=generator)
    x_hat_SD = x_SD + 0.3 * torch.randn(n_sequences, 3, 2, generator=generator)
    kept_ST = torch.ones(n_sequences, 3, dtype=torch.bool)
    sums = SequenceSums.of_batch(
        x_SD, x_hat_SD, kept_ST, {name: positive()[:, : 2 if "ce" in name else 3] for name in names}
    )
    return SequenceSums.joined([sums])


def drawn(sums: SequenceSums, sequences: list[int]) -> SequenceSums:
    """The sums of these sequences, some of them repeated."""
    values = {name: value[sequences] for name, value in sums.values.items()}
    rows = (sums.x_SD, sums.x_with_outliers_SD, sums.batch_S)
    return SequenceSums(values, *(of_all[sequences] for of_all in rows))


@given(st.lists(st.integers(0, 5), min_size=6, max_size=6))
def test_resampled_metrics_are_those_of_the_sequences_drawn(sequences: list[int]) -> None:
    sums = random_sums(6, seed=0)
    weights = torch.bincount(torch.tensor(sequences), minlength=6).double()[None]
    resampled = resampled_metrics(sums, weights)
    expected = metrics_of(drawn(sums, sequences))
    for name in METRICS:
        assert resampled[name].item() == pytest.approx(expected[name], rel=1e-9), name


def test_intervals_are_percentiles_over_the_same_draws_for_both() -> None:
    """Brute force: sequences drawn one by one, metrics computed anew, numpy's percentiles."""
    ours, theirs = random_sums(12, seed=1), random_sums(12, seed=2)
    (found,), mean = Resamplings(12, n_resamplings=200, seed=3).differences([(ours, theirs)])
    generator = torch.Generator().manual_seed(3)
    drawn_RS = torch.randint(12, (200, 12), generator=generator).tolist()
    for name in ("explained_variance", "ce_loss_score", "l0", "relative_reconstruction_bias"):
        differences = [
            metrics_of(drawn(ours, row))[name] - metrics_of(drawn(theirs, row))[name]
            for row in drawn_RS
        ]
        assert found[name].value == metrics_of(ours)[name] - metrics_of(theirs)[name]
        require_percentiles(found[name], differences)
    assert mean == found  # of one layer


def test_an_sae_by_itself_and_the_mean_of_several_have_such_intervals_too() -> None:
    saes = [random_sums(12, seed=1), random_sums(12, seed=2)]
    each, mean = Resamplings(12, n_resamplings=200, seed=3).estimates(saes)
    generator = torch.Generator().manual_seed(3)
    drawn_RS = torch.randint(12, (200, 12), generator=generator).tolist()
    for name in ("explained_variance", "ce_loss_score", "l0"):
        values = [[metrics_of(drawn(of, row))[name] for row in drawn_RS] for of in saes]
        assert [of[name].value for of in each] == [metrics_of(of)[name] for of in saes]
        for of, drawn_values in zip(each, values):
            require_percentiles(of[name], drawn_values)
        require_percentiles(mean.estimates[name], [sum(both) / 2 for both in zip(*values)])


def require_percentiles(found: Estimate, of_draws: list[float]) -> None:
    """Of 12 sequences: numpy's percentiles, widened as for so few."""
    widened = t.ppf(0.975, 11) / norm.ppf(0.975) * math.sqrt(12 / 11)
    ends = np.percentile(of_draws, [2.5, 97.5]) - found.value
    assert [found.low, found.high] == pytest.approx(
        (found.value + widened * ends).tolist(), abs=1e-3 * np.ptp(ends)
    )


@pytest.mark.slow
@pytest.mark.parametrize("n_sequences", [4, 8, 32])
def test_intervals_over_few_prompts_hold_the_true_difference(n_sequences: int) -> None:
    def sums(level: float, seed: int) -> SequenceSums:
        generator = torch.Generator().manual_seed(seed)
        of = random_sums(n_sequences, seed)
        l0 = level + torch.randn(n_sequences, generator=generator, dtype=torch.double)
        return replace(of, values={**of.values, "l0": l0 * of.values["n_tokens"]})

    resamplings = Resamplings(n_sequences)
    found = [
        resamplings.differences([(sums(2.0, 2 * n), sums(1.0, 2 * n + 1))])[1]["l0"]
        for n in range(200)
    ]
    assert 0.9 <= sum(of.low <= 1 <= of.high for of in found) / len(found) <= 0.985


TRAININGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "without tokens": {"exclude_special_tokens": [3, 5, 7]},
    "without the first position": {"seqpos_slice": (1, None)},
    "without large norms": {"max_activation_norm_multiple": 1.3, "seqpos_slice": (0, -2)},
    "of other layers": {"layer_groups": "1-2", "max_activation_norm_multiple": 1.2},
    "of short prompts": {"context_size": 8, "exclude_special_tokens": [9], "layer_groups": "2,3"},
}


@pytest.fixture(scope="module")
def trainings(model: HookedTransformer) -> dict[str, SAESuite]:
    with warnings.catch_warnings(action="ignore"):  # rows are longer than short prompts
        return {name: train(model, **settings) for name, settings in TRAININGS.items()}


@pytest.mark.filterwarnings("ignore:pretokenized dataset has context_size")
@pytest.mark.parametrize(("ours", "theirs"), itertools.combinations(TRAININGS, 2))
def test_the_order_of_a_comparison_decides_on_signs_alone(
    ours: str,
    theirs: str,
    trainings: dict[str, SAESuite],
    model: HookedTransformer,
    held_out: Dataset,
) -> None:
    one = evaluate(trainings[ours], model, held_out, baseline=trainings[theirs])
    other = evaluate(trainings[theirs], model, held_out, baseline=trainings[ours])
    assert one.tokens.n_tokens == other.tokens.n_tokens > 0
    assert one.tokens.left_out == other.tokens.left_out
    assert one.comparison.unequal.keys() == other.comparison.unequal.keys()
    pairs = [(one.comparison.mean_differences, other.comparison.mean_differences)]
    of_other = {of.hook_name: of.baseline for of in other}
    for scores in one:
        if scores.baseline is None:
            continue
        their_scores = next(of for of in other if of.hook_name == scores.hook_name)
        assert scores.baseline.metrics == pytest.approx(their_scores.metrics, rel=1e-12, abs=1e-12)
        pairs.append((scores.baseline.differences, of_other[scores.hook_name].differences))
    assert len(pairs) > 1
    for there, back in pairs:
        for name, found in there.items():
            swapped = back[name]
            assert (found.value, found.low, found.high) == pytest.approx(
                (-swapped.value, -swapped.high, -swapped.low), rel=1e-9, abs=1e-12
            ), name


def test_what_either_training_left_out_is_counted_and_not_scored(
    trainings: dict[str, SAESuite], model: HookedTransformer, held_out: Dataset
) -> None:
    names = ("without the first position", "without tokens")
    suite, baseline = (trainings[name] for name in names)
    evaluation = evaluate(suite, model, held_out, baseline=baseline)
    tokens = torch.tensor(held_out["tokens"][: N_BATCHES * N_PROMPTS])
    n_special = int(torch.isin(tokens[:, 1:], torch.tensor([3, 5, 7])).sum())
    left_out = {"by_position": len(tokens), "special": n_special, "by_norm": 0}
    assert evaluation.tokens.left_out == left_out
    assert evaluation.tokens.n_tokens == tokens.numel() - len(tokens) - n_special
    words = f"{len(tokens)} by their position, {n_special} special"
    assert words in " ".join(evaluation_text(evaluation).split())
    assert words in report_page(suite, evaluation)
    for name, value in {"seqpos_slice": "(1, None)", "exclude_special_tokens": "[3, 5, 7]"}.items():
        assert f"{name} " in " ".join(evaluation_text(evaluation).split())
        assert value in evaluation_text(evaluation)


def test_suites_whose_prompts_of_text_differ_are_not_compared_on_text(
    trainings: dict[str, SAESuite], held_out: Dataset
) -> None:
    model: Any = make_model()
    model.tokenizer = SimpleNamespace(bos_token_id=0, eos_token_id=1, padding_side="right")
    model.to_tokens = lambda text, **_: torch.tensor([[len(word) for word in text.split()]])
    other = train(model, prepend_bos=False)
    text = Dataset.from_dict({"text": ["a bb ccc dddd " * 200] * 8})
    with pytest.raises(SuiteError, match="were trained with prepend_bos True and False, and no"):
        evaluate(trainings["without tokens"], model, text, baseline=other)
    assert evaluate(other, model, held_out, baseline=trainings["without tokens"])


def test_one_prompt_has_no_interval(
    suite: SAESuite, model: HookedTransformer, held_out: Dataset
) -> None:
    evaluation = evaluate(
        suite, model, held_out, baseline=train(model), n_batches=1, batch_size_prompts=1
    )
    difference = evaluation.comparison.mean_differences["explained_variance"]
    assert math.isfinite(difference.value)
    assert math.isnan(difference.low)
    assert math.isnan(difference.high)
    assert not difference.is_clear


def test_a_suite_does_not_differ_from_itself(
    suite: SAESuite, model: HookedTransformer, held_out: Dataset
) -> None:
    evaluation = evaluate(suite, model, held_out, baseline=suite)
    for score in evaluation:
        assert score.baseline is not None
        for difference in score.baseline.differences.values():
            assert (difference.value, difference.low, difference.high) == (0, 0, 0)
            assert not difference.is_clear
        match = score.baseline.match
        assert match is not None
        assert match.mmcs == pytest.approx(1, abs=1e-6)
        assert (match.missed_features, match.missed_firings) == (0, 0)
    assert evaluation.comparison.n_layers == N_LAYERS


def test_only_the_layers_that_both_have_are_compared(
    suite: SAESuite, model: HookedTransformer, held_out: Dataset
) -> None:
    evaluation = evaluate(suite, model, held_out, baseline=train(model, "1-2"))
    assert [score.baseline is not None for score in evaluation] == [False, True, True, False]
    assert evaluation.comparison.n_layers == 2
    alone = evaluate(suite, model, held_out)
    assert [dict(score.metrics) for score in evaluation] == [dict(s.metrics) for s in alone]


# --- features ---


@given(st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=3), min_size=1, max_size=6))
def test_entropy_and_specific_features_by_definition(counts: list[list[int]]) -> None:
    features = FeatureLayers(LayerGroup(2, 4), np.array(counts).T, n_tokens=40)
    n_specific = n_counted = 0
    for feature, row in enumerate(counts):
        if sum(row) < 10:
            assert math.isnan(features.entropy_F[feature])
            continue
        shares = [n / sum(row) for n in row]
        entropy = -sum(share * math.log2(share) for share in shares if share)
        assert features.entropy_F[feature] == pytest.approx(entropy, abs=1e-12)
        n_counted += 1
        n_specific += max(shares) >= 0.9
    if n_counted:
        assert features.specific_share == pytest.approx(n_specific / n_counted)
        assert 0 <= features.mean_entropy <= 1 + 1e-12
    assert features.dead_share == pytest.approx(np.mean([not any(row) for row in counts]))


def test_the_heat_map_orders_features_by_where_they_fire() -> None:
    counts = [[0, 0, 20], [20, 0, 0], [10, 10, 0], [0, 0, 3], [0, 30, 0]]
    features = FeatureLayers(LayerGroup(0, 2), np.array(counts).T, n_tokens=40)
    assert features.heat_map_RL(10).tolist() == [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0, 1]]
    assert features.heat_map_RL(2).tolist() == [[0.75, 0.25, 0], [0, 0.5, 0.5]]


def test_firings_are_counted_on_kept_tokens_of_each_layer(
    suite: SAESuite, model: HookedTransformer, held_out: Dataset
) -> None:
    evaluation = evaluate(suite, model, held_out)
    tokens = torch.tensor(held_out[: N_BATCHES * N_PROMPTS]["tokens"])
    for features in evaluation.features:
        for row_F, layer in zip(features.n_firings_LF, features.group.layers):
            name = suite.manifest.hook_template.hook_name(layer)
            _, cache = model.run_with_cache(tokens, names_filter=[name])
            fires = suite[name].encode(cache[name]) != 0
            assert row_F.tolist() == fires.sum((0, 1)).tolist()
            assert evaluation[layer].dead_features == pytest.approx((row_F == 0).mean())
        assert features.n_tokens == N_BATCHES * N_PROMPTS * CONTEXT_SIZE


def test_matching_equals_brute_force() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.randn(7, 3), torch.randn(5, 3)
    fires, their_fires = torch.tensor([1, 0, 5, 2, 9, 1, 1]), torch.tensor([3, 1, 0, 8, 2])
    match = match_features(ours, fires, theirs, their_fires)
    assert match is not None
    cosines = torch.nn.functional.cosine_similarity(ours[:, None], theirs[None], dim=-1)
    cosines[1], cosines[:, 2] = -2, -2  # dead ones play no part
    assert match.mmcs == pytest.approx(cosines.max(1).values[fires > 0].mean().item())
    best, nearest = cosines.max(0)
    alive = [0, 1, 3, 4]
    assert match.features_G.tolist() == alive
    assert match.nearest_G.tolist() == nearest[alive].tolist()
    assert match.mmcs_of_baseline == pytest.approx(best[alive].mean().item())
    missed = [n for n in alive if best[n] < 0.7]
    assert 0 < len(missed) < len(alive)
    assert match.missed_features == len(missed) / len(alive)
    assert match.missed_firings == pytest.approx(sum(their_fires[n].item() for n in missed) / 14)


def test_features_with_a_sign_are_matched_without_it() -> None:
    W_dec = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    match = match_features(W_dec, torch.ones(6), -W_dec, torch.ones(6), is_signed=True)
    assert match is not None
    assert (match.mmcs, match.missed_features) == (pytest.approx(1), 0)
    blind = match_features(W_dec, torch.ones(6), -W_dec, torch.ones(6))
    assert blind is not None
    assert blind.mmcs < 0.9


def test_an_sae_without_a_feature_that_fires_matches_nothing() -> None:
    W_dec = torch.eye(2)
    assert match_features(W_dec, torch.zeros(2), W_dec, torch.ones(2)) is None


# --- files ---


def test_the_table_has_the_columns_of_the_contract(
    suite: SAESuite, model: HookedTransformer, held_out: Dataset
) -> None:
    evaluation = evaluate(suite, model, held_out, baseline=train(model, "each"))
    assert suite.path is not None
    header, *rows = (suite.path / "evaluation.csv").read_text().splitlines()
    columns = header.split(",")
    assert columns[:4] == ["layer", "hook_name", "group", "scaling_factor"]
    for name in METRICS:
        assert {name, f"{name}_baseline", f"{name}_diff"} <= set(columns)
    assert {"dead_features", "baseline", "mmcs", "missed_features"} <= set(columns)
    for row, score in zip(rows, evaluation, strict=True):
        cells: dict[str, str] = dict(zip(columns, row.split(",")))
        assert cells["hook_name"] == f"blocks.{score.layer}.hook_resid_post"
        assert cells["group"] == ("layers_0-2" if score.layer < 3 else "layers_3")
        assert cells["baseline"] == "baseline"  # it was never saved
        for name in METRICS:
            assert float(cells[name]) == score.metrics[name]
            difference = float(cells[name]) - float(cells[f"{name}_baseline"])
            assert float(cells[f"{name}_diff"]) == pytest.approx(difference)
            assert float(cells[f"{name}_diff_low"]) <= float(cells[f"{name}_diff_high"])


@pytest.mark.seam
def test_the_json_has_the_form_of_saelens(
    suite: SAESuite, model: HookedTransformer, held_out: Dataset, tmp_path: Path
) -> None:
    """Keys and feature-wise figures are those that SAELens writes for the same layer."""
    evaluate(suite, model, held_out, dataset_name="words")
    assert suite.path is not None
    folder = suite.path / "evaluation"
    ours = json.loads((folder / "suite-blocks.1.hook_resid_post_16_words.json").read_text())
    sae = suite.layer(1)
    config = get_eval_everything_config(N_PROMPTS, N_BATCHES, N_BATCHES)
    config.compute_kl = config.compute_ce_loss = False  # its variance metrics read on from there
    config.compute_featurewise_weight_based_metrics = False
    store = ActivationsStore.from_sae(model, sae, held_out, store_batch_size_prompts=N_PROMPTS)
    metrics, features = run_evals(
        sae, store, model, ActivationScaler(), config, exclude_special_tokens=False
    )
    process_results(
        [
            {
                "unique_id": "suite-blocks.1.hook_resid_post",
                "sae_set": "suite",
                "sae_id": "blocks.1.hook_resid_post",
                "eval_cfg": {"context_size": 16, "dataset": "words", **vars(config)},
                "metrics": metrics,
                "feature_metrics": features,
                "sae_cfg": sae.cfg.to_dict(),
            }
        ],
        str(tmp_path / "theirs"),
    )
    theirs = json.loads((tmp_path / "theirs" / "all_eval_results.json").read_text())[0]
    assert ours.keys() == theirs.keys()
    counts = {"n_tokens", *(f"n_left_out_{why}" for why in ("by_position", "special", "by_norm"))}
    assert ours["eval_cfg"].keys() == theirs["eval_cfg"].keys() | counts
    assert ours["sae_cfg"] == theirs["sae_cfg"]
    for part in theirs["metrics"]:
        assert ours["metrics"][part].keys() == theirs["metrics"][part].keys()
    for name, values in theirs["feature_metrics"].items():
        assert ours["feature_metrics"][name] == pytest.approx(values, abs=1e-6)
    layers = [
        result["sae_id"] for result in json.loads((folder / "all_eval_results.json").read_text())
    ]
    assert layers == list(suite)


def test_the_features_of_every_group_are_listed(
    suite: SAESuite, model: HookedTransformer, held_out: Dataset
) -> None:
    evaluation = evaluate(suite, model, held_out, baseline=train(model, "each", lr=1e-5))
    assert suite.path is not None
    header, *rows = (suite.path / "evaluation" / "feature_layers.csv").read_text().splitlines()
    assert header == "group,feature,entropy,layer_0,layer_1,layer_2,layer_3"
    assert len(rows) == sum(suite.layer(group.first).cfg.d_sae for group in suite.manifest.groups)
    first = dict(zip(header.split(","), rows[0].split(",")))
    counts = evaluation.features[0].n_firings_LF[:, 0] / evaluation.features[0].n_tokens
    columns = ("layer_0", "layer_1", "layer_2")
    assert [float(first[column]) for column in columns] == pytest.approx(counts, rel=1e-3)
    header, *rows = (suite.path / "evaluation" / "missed_features.csv").read_text().splitlines()
    assert header == "layer,hook_name,baseline_feature,frequency,largest_cosine,nearest_feature"
    n_missed = sum(int(score.baseline.match.is_missed_G.sum()) for score in evaluation)
    assert len(rows) == n_missed > 0


def test_an_evaluation_replaces_the_last_one_and_travels_with_the_suite(
    model: HookedTransformer, held_out: Dataset, tmp_path: Path
) -> None:
    suite = train(model, output_path=str(tmp_path / "suite"))
    evaluate(suite, model, held_out, baseline=suite, dataset_name="first")
    evaluate(suite, model, held_out, dataset_name="second")
    assert suite.path is not None
    names = {path.name for path in (suite.path / "evaluation").iterdir()}
    assert "missed_features.csv" not in names
    assert not [name for name in names if "first" in name]
    copy = SAESuite.load(suite.path).save(tmp_path / "copy")
    assert {path.name for path in (copy / "evaluation").iterdir()} == names
    assert (copy / "training_curves.csv").read_bytes() == (
        suite.path / "training_curves.csv"
    ).read_bytes()
    assert not list(tmp_path.glob("**/.*partial*"))


# --- mistakes ---


def test_another_model_is_refused(suite: SAESuite, held_out: Dataset) -> None:
    with pytest.raises(HookNameError, match=r"no hook at blocks\.2\.hook_resid_post, blocks\.3"):
        evaluate(suite, make_model(n_layers=2), held_out)


def test_a_model_of_another_width_is_refused(model: HookedTransformer, held_out: Dataset) -> None:
    narrow = train(
        model, hook_name="blocks.1.attn.hook_q", hook_head_index=0, sae=sae_config(d_in=8)
    )
    for sae in narrow.values():
        sae.cfg.metadata.hook_head_index = None
    with pytest.raises(ConfigError) as caught:
        evaluate(narrow, model, held_out)
    assert str(caught.value) == (
        "the SAE at blocks.0.attn.hook_q takes activations of width 8, and this model's are 16 "
        "wide; give the model that the suite was trained on"
    )


def test_a_dataset_shorter_than_one_batch_is_refused(
    suite: SAESuite, model: HookedTransformer
) -> None:
    with pytest.raises(DatasetError) as caught:
        evaluate(suite, model, make_tokens(N_PROMPTS - 1))
    assert str(caught.value) == (
        "the dataset gives not one batch of 4 prompts of 16 tokens; use more data, or lower "
        "batch_size_prompts (--eval_batch_size_prompts) or context_size"
    )


def test_a_dataset_shorter_than_all_batches_is_used_as_far_as_it_goes(
    suite: SAESuite, model: HookedTransformer, held_out: Dataset
) -> None:
    with pytest.warns(UserWarning, match="fewer than 2 batches of 4 prompts of 16 tokens: 1 are"):
        short = evaluate(suite, model, held_out.select(range(7)))
    assert short.tokens.n_prompts == N_PROMPTS
    whole = evaluate(suite, model, held_out, n_batches=1)
    assert [dict(score.metrics) for score in short] == [dict(score.metrics) for score in whole]


def test_a_baseline_of_other_hooks_or_another_width_is_refused(
    suite: SAESuite, model: HookedTransformer, held_out: Dataset
) -> None:
    foreign = train(model, hook_name="blocks.1.hook_mlp_out")
    with pytest.raises(SuiteError, match="has no layer in common with the suite: it has SAEs for"):
        evaluate(suite, model, held_out, baseline=foreign)
    wide = {"blocks.1.hook_resid_post": SAE.from_dict({**suite.layer(1).cfg.to_dict(), "d_in": 24})}
    with pytest.raises(SuiteError, match=r"takes activations of width 24 at blocks\.1"):
        evaluate(suite, model, held_out, baseline=wide)


def test_files_of_a_baseline_that_were_mixed_up_are_refused(
    suite: SAESuite, model: HookedTransformer, held_out: Dataset, tmp_path: Path
) -> None:
    folder = SAESuite.load(suite.path or "").save(tmp_path / "mixed_up")
    there, here = (folder / f"blocks.{layer}.hook_resid_post" for layer in (2, 0))
    shutil.rmtree(here)
    shutil.copytree(there, here)
    (folder / "checksums.json").unlink()
    with pytest.raises(SuiteError, match="the suite's files were mixed up"):
        evaluate(suite, model, held_out, baseline=SAESuite.load(folder))


def test_a_baseline_of_another_head_or_without_its_scaling_is_refused(
    suite: SAESuite, model: HookedTransformer, held_out: Dataset
) -> None:
    flags: dict[str, Any] = {"hook_name": "blocks.1.attn.hook_q", "sae": sae_config(d_in=8)}
    first, second = (train(model, hook_head_index=head, **flags) for head in (0, 1))
    with pytest.raises(SuiteError, match=r"has hook_head_index 1 at .*, and the suite 0"):
        evaluate(first, model, held_out, baseline=second)
    group = suite.manifest.groups[1]
    unscaled = {"blocks.3.hook_resid_post": suite.group(group)}
    with pytest.raises(SuiteError, match="has an SAE for scaled activations at blocks"):
        evaluate(suite, model, held_out, baseline=unscaled)


def test_rows_that_cannot_be_used_are_refused(suite: SAESuite, model: HookedTransformer) -> None:
    with pytest.raises(DatasetError, match="the dataset cannot be used: "):
        evaluate(suite, model, Dataset.from_dict({"words": ["a"] * 50}))


# --- baselines on disk ---


@pytest.mark.parametrize("form", ["suite", "layer", "layers", "checkpoint"])
def test_a_baseline_is_read_in_all_its_forms(
    suite: SAESuite, model: HookedTransformer, held_out: Dataset, tmp_path: Path, form: str
) -> None:
    assert suite.path is not None
    name = "blocks.1.hook_resid_post"
    path = {"suite": suite.path, "layer": suite.path / name}.get(form, tmp_path / "saes")
    if form == "layers":
        for layer in (1, 2):
            suite.layer(layer).save_model(path / f"layer {layer}")
    if form == "checkpoint":  # SAELens's: training form, with the scaling beside it
        sae = copy.deepcopy(suite.group(suite.manifest.groups[0]))  # layers are built from it
        sae.cfg.metadata.hook_name = name
        del sae.cfg.metadata.sae_lens_groups
        sae.cfg.normalize_activations = "expected_average_only_in"
        sae.save_model(path)
        suite.scaler(1).save(str(path / "activation_scaler.json"))
    baseline = open_baseline(path)
    assert len(baseline.saes) == {"suite": 4, "layers": 2}.get(form, 1)
    score = evaluate(suite, model, held_out, baseline=baseline)[1]
    assert score.baseline is not None
    for metric, difference in score.baseline.differences.items():
        assert abs(difference.value) < 1e-4 * max(1, abs(score.metrics[metric])), metric


def test_what_is_no_baseline_is_refused(suite: SAESuite, tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="neither a suite nor a folder of SAELens SAEs"):
        open_baseline(tmp_path)
    group_folder = tmp_path / "group"
    suite.group(suite.manifest.groups[0]).save_model(group_folder)
    with pytest.raises(SuiteError, match="scaled activations, without their scaling"):
        open_baseline(group_folder)
    for n in (1, 2):
        suite.layer(1).save_model(tmp_path / "twice" / str(n))
    with pytest.raises(SuiteError, match=r"two SAEs for blocks\.1\.hook_resid_post"):
        open_baseline(tmp_path / "twice")
    (tmp_path / "twice" / "1" / "sae_weights.safetensors").write_bytes(b"cut short")
    damaged = open_baseline(tmp_path / "twice" / "1")
    with pytest.raises(SuiteError, match=r"1/sae_weights\.safetensors' cannot be used: it is cut"):
        damaged.saes["blocks.1.hook_resid_post"]


def test_the_page_is_written_with_the_scores(
    suite: SAESuite, model: HookedTransformer, held_out: Dataset
) -> None:
    assert suite.path is not None
    page = suite.path / "report.html"
    for n_batches in (1, 2):
        page.unlink(missing_ok=True)
        found = evaluate(suite, model, held_out, n_batches=n_batches, commands=["make suite"])
        assert page.read_text(encoding="utf-8") == report_page(suite, found, ["make suite"])
        assert "make suite" in page.read_text(encoding="utf-8")
