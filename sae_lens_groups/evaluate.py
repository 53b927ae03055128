"""Scores every layer of a suite, and compares them with a baseline's, all on the same tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from sae_lens import SAE
from sae_lens.config import HfDataset
from transformer_lens import HookedRootModule

from sae_lens_groups.baseline import Baseline
from sae_lens_groups.circuits import measure_faithfulness
from sae_lens_groups.evaluation.assemble import compare, feature_layers, layer_scores
from sae_lens_groups.evaluation.checks import (
    require_fitting_model,
    require_writable,
    shared_layers,
)
from sae_lens_groups.evaluation.cost import training_cost
from sae_lens_groups.evaluation.result import SuiteEvaluation
from sae_lens_groups.evaluation.sweep import sweep
from sae_lens_groups.evaluation.tokens import read_tokens
from sae_lens_groups.evaluation.write import write_evaluation
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
        scores=layer_scores(suite, results, of_baseline),
        tokens=tokens,
        dataset_name=dataset_name,
        features=feature_layers(suite, results, tokens.n_tokens),
        costs=tuple(cost for cost in costs if cost is not None),
        comparison=comparison,
        faithfulness=faithfulness,
    )
    if suite.path is not None:
        write_evaluation(suite, evaluation, results)
    return evaluation
