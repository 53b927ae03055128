"""An evaluation in the terminal: a line per layer, and what is told of the whole suite."""

from collections.abc import Iterable, Sequence
from typing import Any

from sae_lens_groups.errors import counted
from sae_lens_groups.evaluate.circuits import TaskResult
from sae_lens_groups.evaluate.circuits.report import SUFFICIENT
from sae_lens_groups.evaluate.features import FEWEST_FIRINGS, SPECIFIC_SHARE, FeatureLayers
from sae_lens_groups.evaluate.matching import FOUND_COSINE
from sae_lens_groups.evaluate.numbers import count, percent
from sae_lens_groups.evaluate.report.layer_table import (
    DIFFERENCES,
    FEATURES,
    LAYERS,
    SCORES,
    Cell,
    Column,
    layer_columns,
)
from sae_lens_groups.evaluate.report.templates import templates
from sae_lens_groups.evaluate.result import SuiteEvaluation


def evaluation_text(evaluation: SuiteEvaluation) -> str:
    """What `sae-lens-groups evaluate` prints, at most 100 columns wide."""
    found = layer_columns(evaluation, "terminal")
    columns = [of for of in found if of.name not in ("hook_name", "missed firings")]
    faithfulness = evaluation.faithfulness
    text = templates.get_template("text.txt").render(
        scores=_table(of for of in columns if of.block in (LAYERS, SCORES)),
        comparison=evaluation.comparison,
        differences=_table(of for of in columns if of.block in (LAYERS, DIFFERENCES, FEATURES)),
        tokens=evaluation.tokens,
        dataset_name=evaluation.dataset_name,
        features=_features([of for of in evaluation.features if len(of.group) > 1]),
        faults=evaluation.faults,
        tasks=[] if faithfulness is None else [_task(of) for of in faithfulness.tasks.values()],
        d_sae=evaluation.features[0].n_firings_LF.shape[1] if evaluation.features else 0,
        found_cosine=FOUND_COSINE,
        missed_alone=evaluation.missed_alone,
        specific_share=SPECIFIC_SHARE,
        fewest_firings=FEWEST_FIRINGS,
        sufficient=SUFFICIENT,
    )
    return text.rstrip()


def _table(columns: Iterable[Column]) -> str:
    return aligned([[of.title, *map(_cell, (*of.cells, of.mean))] for of in columns])


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return (
        f"{cell.text} {cell.interval}{'*' if cell.is_clear else ' '}"
        if cell.interval
        else cell.text
    )


def _features(shared: Sequence[FeatureLayers]) -> str:
    columns = [
        ["group", *(of.group.name for of in shared)],
        ["on one layer", *(percent(of.specific_share) for of in shared)],
        ["mean entropy", *(f"{of.mean_entropy:.2f}" for of in shared)],
        ["dead on all layers", *(percent(of.dead_share) for of in shared)],
    ]
    return aligned(columns) if shared else ""


def aligned(columns: Sequence[Sequence[str]]) -> str:
    """Columns two blanks apart: numbers to the right, names of groups and settings to the left."""
    padded = []
    for column in columns:
        width = max(map(len, column))
        is_name = column[0] in ("group", "setting")
        padded.append([cell.ljust(width) if is_name else cell.rjust(width) for cell in column])
    return "\n".join("  ".join(row).rstrip() for row in zip(*padded))


def _task(result: TaskResult) -> dict[str, Any]:
    return {
        "name": result.task,
        "message": result.message,
        "with_error": _sufficient([of.sufficient_with_error for of in result.curves]),
        "without": _sufficient([of.sufficient_without_error for of in result.curves]),
        "accuracy": percent(result.accuracy or 0.0),
        "n_pairs": result.n_pairs,
    }


def _sufficient(n_features: Sequence[int | None]) -> str:
    """`12.5 (11 of 12 layers)`."""
    found = [n for n in n_features if n is not None]
    layers = counted(len(n_features), "layer")
    return (
        f"{count(sum(found) / len(found))} ({len(found)} of {layers})"
        if found
        else f"never ({layers})"
    )
