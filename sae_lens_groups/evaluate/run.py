"""Evaluates a suite: a row of scores for every layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from sae_lens.config import HfDataset
from transformer_lens import HookedRootModule

from sae_lens_groups.evaluate.baseline import Baseline
from sae_lens_groups.evaluate.bootstrap import Difference, Resamplings
from sae_lens_groups.evaluate.checks import require_fitting_model, require_writable, shared_layers
from sae_lens_groups.evaluate.circuits import measure_faithfulness
from sae_lens_groups.evaluate.cost import training_cost
from sae_lens_groups.evaluate.features import FeatureLayers
from sae_lens_groups.evaluate.matching import match_features
from sae_lens_groups.evaluate.metrics import metrics_of
from sae_lens_groups.evaluate.result import BaselineScores, Comparison, LayerScores, SuiteEvaluation
from sae_lens_groups.evaluate.sweep import LayerResults, sweep
from sae_lens_groups.evaluate.tokens import read_tokens
from sae_lens_groups.evaluate.write import write_evaluation
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.suite import SAESuite


def evaluate_suite(
    suite: SAESuite,
    model: HookedRootModule,
    dataset: HfDataset,
    *,
    baseline: Baseline | Mapping[str, SAE[Any]] | None = None,
    n_batches: int = 8,
    batch_size_prompts: int = 16,
    context_size: int | None = None,
    tasks: Sequence[str] = (),
    dataset_name: str = "dataset",
) -> SuiteEvaluation:
    """SAELens's metrics of every layer, the layers its features fire on, and how a baseline differs.

    One sweep over the tokens: the clean pass of the language model is shared by all layers and
    both suites, and the numbers are those of SAELens's `run_evals`. Text becomes prompts, and
    special tokens are left out, as in the run that trained the suite.

    Writes `evaluation.csv` and the folder `evaluation` into the suite's folder, where it has one.

    Args:
        suite: the suite to score.
        model: the language model, as SAELens's `load_model` gives it, with hooks at all layers.
        dataset: text or tokens the suite was not trained on (a `datasets` dataset).
        baseline: another suite, or plain SAEs by hook name. Layers that both have are compared,
            with 95% confidence intervals over sequences.
        n_batches: LM batches to evaluate on.
        batch_size_prompts: prompts per LM batch.
        context_size: tokens per prompt; that of the suite's training if None.
        tasks: circuit tasks to measure faithfulness on: `ioi`, `greater_than`, `subject_verb`,
            `closing_bracket`.
        dataset_name: what the written files call the dataset.

    Raises:
        SuiteError: files of a suite are damaged or mixed up, or the baseline cannot be compared with it.
        HookNameError: the model lacks a hook of the suite.
        ConfigError: the model has another width.
        DatasetError: the dataset is shorter than one batch, or cannot be used.
        OutputFolderError: the suite's folder cannot be written to.
        UnknownNameError: there is no such task.
    """
    suite.require_whole("an evaluation")
    require_writable(suite)
    require_fitting_model(suite, model)
    if baseline is not None and not isinstance(baseline, Baseline):
        baseline = Baseline.of(baseline)
    shared = {} if baseline is None else shared_layers(suite, baseline)
    any_sae = next(iter(suite.values()))
    tokens = read_tokens(model, any_sae, dataset, n_batches, batch_size_prompts, context_size)
    faithfulness = measure_faithfulness(suite, model, tasks) if tasks else None
    model_kwargs = (suite.runner_cfg or {}).get("model_kwargs") or {}
    trained = [Baseline.of(suite, "suite"), *([] if baseline is None else [baseline])]
    costs = [training_cost(saes, model, tokens.batches[0], model_kwargs) for saes in trained]
    results, baseline_results = sweep(
        model, tokens.batches, [suite, shared], tokens.excluded, model_kwargs
    )

    of_baseline, comparison = {}, None
    if baseline is not None:
        of_baseline, comparison = compare(suite, results, baseline, baseline_results)
    evaluation = SuiteEvaluation(
        scores=_layer_scores(suite, results, of_baseline),
        tokens=tokens,
        dataset_name=dataset_name,
        features=_feature_layers(suite, results, tokens.n_tokens),
        costs=tuple(cost for cost in costs if cost is not None),
        comparison=comparison,
        faithfulness=faithfulness,
    )
    if suite.path is not None:
        write_evaluation(suite, evaluation, results)
    return evaluation


_SIGNED = "abstopk"  # the one architecture of SAELens whose features may be negative
Results = Mapping[str, LayerResults]
"""By hook name."""


def _layer_scores(
    suite: SAESuite, results: Results, of_baseline: Mapping[str, BaselineScores]
) -> tuple[LayerScores, ...]:
    """A row per layer, lowest first."""
    manifest = suite.manifest
    return tuple(
        LayerScores(
            layer=layer,
            hook_name=hook_name,
            group=manifest.group_of(layer).name,
            scaling_factor=manifest.scaling_factors[layer],
            metrics=metrics_of(results[hook_name].sums),
            dead_features=_dead_share(results[hook_name]),
            baseline=of_baseline.get(hook_name),
        )
        for layer, hook_name in zip(manifest.layers, manifest.hook_names)
    )


def compare(
    suite: SAESuite, results: Results, baseline: Baseline, baseline_results: Results
) -> tuple[dict[str, BaselineScores], Comparison]:
    """The baseline's scores by hook name, with the differences to them, and their means."""
    hook_names = [name for name in suite if name in baseline_results]
    pairs = [(results[name].sums, baseline_results[name].sums) for name in hook_names]
    resamplings = Resamplings(len(pairs[0][0]))
    differences, mean_differences = resamplings.differences(pairs)
    of_baseline = {
        name: _baseline_scores(
            baseline.name,
            *(suite[name], results[name], baseline.saes[name], baseline_results[name], difference),
        )
        for name, difference in zip(hook_names, differences)
    }
    return of_baseline, Comparison(
        name=baseline.name, n_layers=len(hook_names), mean_differences=mean_differences
    )


def _feature_layers(suite: SAESuite, results: Results, n_tokens: int) -> tuple[FeatureLayers, ...]:
    """On which layers of its group each feature fires, a group each."""
    template = suite.manifest.hook_template

    def counted(group: LayerGroup) -> np.ndarray:
        of_layers = [results[template.hook_name(layer)].n_firings_F for layer in group.layers]
        return torch.stack(of_layers).numpy()

    return tuple(FeatureLayers(group, counted(group), n_tokens) for group in suite.manifest.groups)


def _baseline_scores(
    name: str,
    sae: SAE[Any],
    results: LayerResults,
    baseline_sae: SAE[Any],
    baseline_results: LayerResults,
    differences: Mapping[str, Difference],
) -> BaselineScores:
    return BaselineScores(
        name=name,
        metrics=metrics_of(baseline_results.sums),
        dead_features=_dead_share(baseline_results),
        differences=differences,
        match=match_features(
            sae.W_dec,
            results.n_firings_F,
            baseline_sae.W_dec.to(sae.W_dec.device),
            baseline_results.n_firings_F,
            is_signed=_SIGNED in (sae.cfg.architecture(), baseline_sae.cfg.architecture()),
        ),
    )


def _dead_share(results: LayerResults) -> float:
    return (results.n_firings_F == 0).float().mean().item()
