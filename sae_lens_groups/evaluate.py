"""Scores every layer of a suite, and compares them with a baseline's, all on the same tokens."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from sae_lens import SAE
from sae_lens.config import HfDataset
from transformer_lens import HookedRootModule

from sae_lens_groups.baseline import Baseline
from sae_lens_groups.circuits import measure_faithfulness
from sae_lens_groups.errors import OutputFolderError, SuiteError
from sae_lens_groups.evaluation.assemble import compare, feature_layers, layer_scores
from sae_lens_groups.evaluation.cost import training_cost
from sae_lens_groups.evaluation.result import SuiteEvaluation
from sae_lens_groups.evaluation.sweep import sweep
from sae_lens_groups.evaluation.tokens import read_tokens
from sae_lens_groups.evaluation.write import write_evaluation
from sae_lens_groups.model import require_hooks, require_width
from sae_lens_groups.normalization import ESTIMATED_MODES
from sae_lens_groups.source import is_groups_own
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
        SuiteError: files of a suite were mixed up, or the baseline cannot be compared with it.
        HookNameError: the model lacks a hook of the suite.
        ConfigError: the model has another width.
        DatasetError: the dataset is shorter than one batch, or cannot be used.
        OutputFolderError: the suite's folder cannot be written to.
        UnknownNameError: there is no such task.
    """
    _require_own_saes(suite)
    _require_writable(suite)
    _require_fitting_model(suite, model)
    if baseline is not None and not isinstance(baseline, Baseline):
        baseline = Baseline.of(baseline)
    shared = {} if baseline is None else _shared_layers(suite, baseline)
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
        scores=layer_scores(suite, results, of_baseline),
        tokens=tokens,
        dataset_name=dataset_name,
        features=feature_layers(suite, results),
        costs=tuple(cost for cost in costs if cost is not None),
        comparison=comparison,
        faithfulness=faithfulness,
    )
    if suite.path is not None:
        write_evaluation(suite, evaluation, results)
    return evaluation


def _require_own_saes(suite: SAESuite) -> None:
    """Refuses a suite in which an SAE lies at another layer than the one it was made for.

    An SAE carries its layer's scaling in its parameters. At another layer of its group it would
    still give numbers, and bad ones.
    """
    for layer, hook_name in zip(suite.manifest.layers, suite):
        metadata = suite[hook_name].cfg.metadata
        own = (metadata.sae_lens_groups or {}).get("scaling_factor")
        wanted = suite.manifest.scaling_factors[layer]
        if metadata.hook_name != hook_name or own != wanted:
            raise SuiteError(
                f"the SAE at {hook_name} says that it was made for {metadata.hook_name} with "
                f"scaling_factor {own}, and the suite has {wanted} there; the suite's files were "
                "mixed up, take it anew from where it was trained"
            )


def _require_writable(suite: SAESuite) -> None:
    if suite.path is not None and not os.access(suite.path, os.W_OK):
        raise OutputFolderError(
            f"{str(suite.path)!r} cannot be written to, and the results would be lost; make it "
            "writable, or evaluate a copy (SAESuite.save writes one)"
        )


def _require_fitting_model(suite: SAESuite, model: HookedRootModule) -> None:
    manifest = suite.manifest
    require_hooks(model, manifest.hook_template, manifest.groups)
    hook_name, sae = next(iter(suite.items()))
    require_width(model, hook_name, sae.cfg.metadata.hook_head_index, sae.cfg.d_in)


def _shared_layers(suite: SAESuite, baseline: Baseline) -> dict[str, SAE[Any]]:
    """The baseline's SAEs for the suite's layers."""
    shared = {name: baseline.saes[name] for name in suite if name in baseline.saes}
    if not shared:
        raise SuiteError(
            f"the baseline {baseline.name!r} has no layer in common with the suite: it has SAEs "
            f"for {', '.join(list(baseline.saes)[:4])}, and the suite for "
            f"{', '.join(list(suite)[:4])}; give one of the same model and hook"
        )
    if isinstance(baseline.saes, SAESuite):
        _require_own_saes(baseline.saes)
    for name, sae in shared.items():
        _require_comparable(baseline.name, name, suite[name], sae)
    return shared


def _require_comparable(baseline: str, hook_name: str, ours: SAE[Any], theirs: SAE[Any]) -> None:
    """Refuses an SAE of the baseline that does not take the same activations as the suite's."""
    if theirs.cfg.d_in != ours.cfg.d_in:
        raise SuiteError(
            f"the baseline {baseline!r} takes activations of width {theirs.cfg.d_in} at "
            f"{hook_name}, and the suite {ours.cfg.d_in}; give one of the same model"
        )
    heads = [sae.cfg.metadata.hook_head_index for sae in (ours, theirs)]
    if heads[0] != heads[1]:
        raise SuiteError(
            f"the baseline {baseline!r} has hook_head_index {heads[1]} at {hook_name}, and the "
            f"suite {heads[0]}; give one of the same head"
        )
    if theirs.cfg.normalize_activations in ESTIMATED_MODES or is_groups_own(theirs):
        raise SuiteError(
            f"the baseline {baseline!r} has an SAE for scaled activations at {hook_name}, without "
            "their scaling; give a suite, or SAEs that have it folded in"
        )
