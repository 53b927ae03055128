"""How faithful SAEs are to what a language model does, measured on tasks that it solves."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sae_lens import SAE
from tqdm.auto import tqdm
from transformer_lens import HookedRootModule

from sae_lens_groups.errors import ConfigError, HookNameError
from sae_lens_groups.evaluate.circuits.curve import layer_curve
from sae_lens_groups.evaluate.circuits.pairs import PairBatch
from sae_lens_groups.evaluate.circuits.report import FaithfulnessReport, TaskResult
from sae_lens_groups.evaluate.circuits.runs import HookSite, TaskRuns
from sae_lens_groups.evaluate.circuits.tasks import (
    MIN_PAIRS,
    TASKS,
    CircuitTask,
    build_pairs,
    task_named,
)

MIN_ACCURACY = 0.8
"""A task that the model gets right less often is left out."""


def measure_faithfulness(
    saes: Mapping[str, SAE[Any]],
    model: HookedRootModule,
    task_names: Sequence[str] = tuple(TASKS),
    *,
    n_pairs: int = 64,
    seed: int = 0,
) -> FaithfulnessReport:
    """For each task that the model solves: how few of each SAE's features carry the answer.

    Args:
        saes: a suite, or any SAEs by their hook names.
        model: the language model, as SAELens's `load_model` gives it, with these hooks.
        task_names: some of closing_bracket, greater_than, ioi and subject_verb.
        n_pairs: pairs of prompts per task, at most.
        seed: decides which prompts are drawn.

    Raises:
        UnknownNameError: there is no such task.
        ConfigError: too few pairs are asked for, or the model has no tokenizer.
        HookNameError: the model lacks a hook of the SAEs.
    """
    tasks = [task_named(name) for name in task_names]
    _require_usable(saes, model, n_pairs)
    return FaithfulnessReport(
        {task.name: _measure_task(task, saes, model, n_pairs, seed) for task in tasks}
    )


def _measure_task(
    task: CircuitTask,
    saes: Mapping[str, SAE[Any]],
    model: HookedRootModule,
    n_pairs: int,
    seed: int,
) -> TaskResult:
    tokenizer: Any = model.tokenizer
    pairs = build_pairs(task, tokenizer, n_pairs, seed)
    result = TaskResult(task=task.name, n_pairs=len(pairs))
    if len(pairs) < MIN_PAIRS:
        message = (
            f"{task.name} cannot be built for this tokenizer: {len(pairs)} pairs of prompts fit "
            f"and {MIN_PAIRS} are needed, with answers that are single tokens and both prompts of "
            "a pair equally long; left out"
        )
        return replace(result, message=message)
    device = next(model.parameters()).device
    runs = TaskRuns.of(model, PairBatch.of(pairs, task.metric, device), list(saes))
    if runs.accuracy < MIN_ACCURACY:
        # Rounded down, lest 79.7% read as if it were enough.
        message = (
            f"the model does not solve {task.name}: right on {int(100 * runs.accuracy)}% of "
            f"{len(pairs)} prompts, {MIN_ACCURACY:.0%} are needed; left out"
        )
        return replace(result, accuracy=runs.accuracy, message=message)
    bar = tqdm(saes.items(), desc=f"Faithfulness on {task.name}", unit="layer", leave=False)
    curves = tuple(layer_curve(HookSite(name, sae, runs)) for name, sae in bar)
    return replace(result, accuracy=runs.accuracy, curves=curves)


def _require_usable(saes: Mapping[str, SAE[Any]], model: HookedRootModule, n_pairs: int) -> None:
    if n_pairs < MIN_PAIRS:
        raise ConfigError(
            f"n_pairs is {n_pairs}; at least {MIN_PAIRS} pairs of prompts are needed, "
            "and 64 are usual"
        )
    if getattr(model, "tokenizer", None) is None:
        raise ConfigError(
            "the model has no tokenizer, which prompts are built for; set model.tokenizer"
        )
    missing = [name for name in saes if name not in model.hook_dict]
    if missing:
        raise HookNameError(
            f"the model has no hook at {', '.join(missing)}, where the SAEs belong; "
            "load it with hooks there"
        )
