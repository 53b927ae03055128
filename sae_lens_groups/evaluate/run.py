"""Evaluates a suite: a row of scores for every layer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from sae_lens.config import HfDataset
from transformer_lens import HookedRootModule

from sae_lens_groups.evaluate.baseline import Baseline
from sae_lens_groups.evaluate.bootstrap import Resamplings
from sae_lens_groups.evaluate.checks import with_baseline
from sae_lens_groups.evaluate.circuits import measure_faithfulness
from sae_lens_groups.evaluate.cost import training_costs
from sae_lens_groups.evaluate.features import FeatureLayers
from sae_lens_groups.evaluate.matching import FeatureMatch, match_features
from sae_lens_groups.evaluate.measurement import Measurement
from sae_lens_groups.evaluate.metrics import metrics_of
from sae_lens_groups.evaluate.result import BaselineScores, Comparison, LayerScores, SuiteEvaluation
from sae_lens_groups.evaluate.sweep import LayerResults, sweep
from sae_lens_groups.evaluate.write import keep_earlier, write_evaluation
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.saved import Figures, likely_faults
from sae_lens_groups.suite import SAESuite

_SIGNED = "abstopk"  # the one architecture of SAELens whose features may be negative
Results = Mapping[str, LayerResults]
"""By hook name."""


def evaluate_suite(
    suite: SAESuite | str | Path,
    model: HookedRootModule,
    dataset: HfDataset,
    *,
    baseline: Baseline | Mapping[str, SAE[Any]] | str | Path | None = None,
    n_batches: int = 8,
    batch_size_prompts: int = 16,
    context_size: int | None = None,
    tasks: Sequence[str] = (),
    dataset_name: str = "dataset",
    autocast_lm: bool | None = None,
    commands: Sequence[str] = (),
) -> SuiteEvaluation:
    """SAELens's metrics of every layer, the layers its features fire on, and how a baseline differs.

    The numbers are those of SAELens's `run_evals`, from one sweep over the tokens; text becomes
    prompts, and special tokens are left out, as in training. Writes `evaluation.csv`, the folder
    `evaluation` and `report.html` into the suite's folder, where it has one. What an evaluation of
    other settings left there is kept in `earlier_evaluation` beside them.

    Args:
        suite: the suite to score, or its folder.
        model: the language model, as SAELens's `load_model` gives it, with hooks at all layers.
        dataset: text or tokens the suite was not trained on (a `datasets` dataset).
        baseline: another suite, plain SAEs by hook name, or a place of either in any form of
            `init_from`. Layers that both have are compared, with 95% confidence intervals over
            sequences.
        n_batches: LM batches to evaluate on.
        batch_size_prompts: prompts per LM batch.
        context_size: tokens per prompt; that of the suite's training if None.
        tasks: circuit tasks to measure faithfulness on: `ioi`, `greater_than`, `subject_verb`,
            `closing_bracket`.
        dataset_name: what the written files call the dataset.
        autocast_lm: whether the language model computes in bfloat16; as in training if None.
        commands: command lines that the page shows for doing it again.

    Raises:
        SuiteError: files of a suite are damaged or mixed up, or the baseline cannot be compared with it.
        HookNameError: the model lacks a hook of the suite.
        ConfigError: the model has another width.
        DatasetError: the dataset is shorter than one batch, or cannot be used.
        OutputFolderError: the suite's folder cannot be written to.
        UnknownNameError: there is no such task.
    """
    suite = suite if isinstance(suite, SAESuite) else SAESuite.load(suite)
    measurement = Measurement.of(
        [suite],
        model,
        dataset,
        baseline=baseline,
        n_batches=n_batches,
        batch_size_prompts=batch_size_prompts,
        context_size=context_size,
        tasks=tasks,
        dataset_name=dataset_name,
        autocast_lm=autocast_lm,
    )
    return evaluate_on(suite, measurement, commands)[0]


def evaluate_on(
    suite: SAESuite, on: Measurement, commands: Sequence[str] = ()
) -> tuple[SuiteEvaluation, Results]:
    """A suite's scores on what was prepared for it; writes them into its folder, if it has one."""
    settings = on.settings
    evaluation, results = _evaluated(suite, on)
    if suite.path is not None:
        kept = keep_earlier(suite.path, settings)
        write_evaluation(suite, evaluation, results, settings, commands)
        evaluation = replace(evaluation, kept_earlier=kept)
    return evaluation, results


def _evaluated(suite: SAESuite, on: Measurement) -> tuple[SuiteEvaluation, Results]:
    model, settings = on.model, on.settings
    baseline, shared = with_baseline(suite, on.baseline)
    faithfulness = measure_faithfulness(suite, model, settings.tasks) if settings.tasks else None
    model_kwargs = (suite.runner_cfg or {}).get("model_kwargs") or {}
    (results, theirs), n_outliers = sweep(
        model,
        on.tokens,
        [suite, shared],
        on.trained,
        model_kwargs,
        autocast_lm=settings.autocast_lm,
        ablations=on.ablations,
    )
    tokens = replace(on.tokens, n_outliers=n_outliers)
    of_baseline, comparison = _compared(suite, results, baseline, theirs)
    evaluation = SuiteEvaluation(
        scores=_layer_scores(suite, results, of_baseline),
        comparison=comparison,
        tokens=tokens,
        dataset_name=settings.dataset,
        features=_features(suite, results, tokens.n_tokens),
        costs=training_costs(suite, baseline, model, tokens.batches[0], model_kwargs),
        faithfulness=faithfulness,
    )
    faults = likely_faults(_figures(evaluation), suite.runner_cfg or {})
    return replace(evaluation, faults=faults), results


_FEWEST_FIRINGS_PER_FEATURE = 10  # fewer do not tell a dead feature from a rare one


def _figures(evaluation: SuiteEvaluation) -> Iterator[Figures]:
    for of in evaluation:
        group = next(one for one in evaluation.features if of.layer in one.group.layers)
        n_firings_F = group.n_firings_LF.sum(0)
        tells = n_firings_F.sum() >= _FEWEST_FIRINGS_PER_FEATURE * len(n_firings_F)
        yield Figures(
            where=f"layer {of.layer}",
            explained_variance=of.metrics["explained_variance"],
            l0=of.metrics["l0"],
            norm=of.metrics["l2_norm_in"] * (of.scaling_factor or 1.0),
            dead_share=group.dead_share if tells else None,
        )


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
            dead_features=results[hook_name].dead_share,
            baseline=of_baseline.get(hook_name),
        )
        for layer, hook_name in zip(manifest.layers, manifest.hook_names)
    )


def _compared(
    suite: SAESuite, results: Results, baseline: Baseline | None, theirs: Results
) -> tuple[dict[str, BaselineScores], Comparison | None]:
    """The baseline's scores by hook name, with the differences to them, and their means."""
    if baseline is None:
        return {}, None
    hook_names = [name for name in suite if name in theirs]
    pairs = [(results[name].sums, theirs[name].sums) for name in hook_names]
    differences, means = Resamplings(len(pairs[0][0])).differences(pairs)
    of_baseline = {
        name: BaselineScores(
            name=baseline.name,
            metrics=metrics_of(theirs[name].sums),
            dead_features=theirs[name].dead_share,
            differences=difference,
            match=_match(suite[name], results[name], baseline.saes[name], theirs[name]),
        )
        for name, difference in zip(hook_names, differences)
    }
    comparison = Comparison(
        name=baseline.name,
        n_layers=len(hook_names),
        mean_differences=means,
        trained=_trained(suite, baseline, hook_names[0]),
        layers_alone=_layers_alone(suite, baseline),
    )
    return of_baseline, comparison


_ALWAYS_SAID = ("training_tokens", "lr", "seed")
_SAID_IF_UNEQUAL = (
    *("context_size", "dtype", "autocast_lm", "prepend_bos", "exclude_special_tokens"),
    *("seqpos_slice", "max_activation_norm_multiple"),
)


def _trained(suite: SAESuite, baseline: Baseline, hook_name: str) -> dict[str, tuple[Any, Any]]:
    """Settings of both, as far as both are known."""
    saes, runs = (suite[hook_name], baseline.saes[hook_name]), (suite, baseline)
    ours, theirs = (
        {**sae.cfg.metadata.to_dict(), **(run.runner_cfg or {}), "dtype": sae.cfg.dtype}
        for sae, run in zip(saes, runs)
    )
    said = [*_ALWAYS_SAID, *(name for name in _SAID_IF_UNEQUAL if _differ(name, ours, theirs))]
    return {name: (ours[name], theirs[name]) for name in said if name in ours and name in theirs}


def _differ(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    both = (json.dumps(of.get(name), default=str) for of in (ours, theirs))  # a tuple as a list
    return len(set(both)) > 1


def _layers_alone(suite: SAESuite, baseline: Baseline) -> tuple[int, ...]:
    """Where both were trained from scratch, to SAEs of one kind: none where either was made of others,
    which may be the other's."""
    saved = [of for of in (suite, baseline.saes) if isinstance(of, SAESuite)]
    if any(of.manifest.transfer or of.manifest.refit_tokens for of in saved):
        return ()
    theirs = baseline.saes.manifest.groups if isinstance(baseline.saes, SAESuite) else ()
    shared = [groups for groups in (*suite.manifest.groups, *theirs) if len(groups) > 1]
    alike = (
        name
        for name, sae in suite.items()
        if name in baseline.saes and _kind(sae) == _kind(baseline.saes[name])
    )
    layers = map(suite.manifest.layer_of, alike)
    return tuple(
        layer
        for layer in layers
        if layer is not None and not any(layer in of.layers for of in shared)
    )


def _kind(sae: SAE[Any]) -> tuple[Any, ...]:
    return sae.cfg.architecture(), sae.cfg.d_sae, getattr(sae.cfg, "k", None)


def _match(
    ours: SAE[Any], results: LayerResults, theirs: SAE[Any], their_results: LayerResults
) -> FeatureMatch | None:
    return match_features(
        ours.W_dec,
        results.n_firings_F,
        theirs.W_dec.to(ours.W_dec.device),
        their_results.n_firings_F,
        is_signed=_SIGNED in (ours.cfg.architecture(), theirs.cfg.architecture()),
    )


def _features(suite: SAESuite, results: Results, n_tokens: int) -> tuple[FeatureLayers, ...]:
    """On which layers of its group each feature fires, a group each."""
    template = suite.manifest.hook_template

    def n_firings(group: LayerGroup) -> np.ndarray:
        of_layers = [results[template.hook_name(layer)].n_firings_F for layer in group.layers]
        return torch.stack(of_layers).numpy()

    return tuple(
        FeatureLayers(group, n_firings(group), n_tokens) for group in suite.manifest.groups
    )
