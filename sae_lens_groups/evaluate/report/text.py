"""An evaluation in the terminal: a line per layer, and what is told of the whole suite."""

import textwrap
from collections.abc import Callable, Iterable, Sequence

from sae_lens_groups.evaluate.circuits import LayerCurve, TaskResult
from sae_lens_groups.evaluate.circuits.report import SUFFICIENT
from sae_lens_groups.evaluate.features import FEWEST_FIRINGS, SPECIFIC_SHARE, FeatureLayers
from sae_lens_groups.evaluate.matching import FOUND_COSINE
from sae_lens_groups.evaluate.numbers import count, counted, percent
from sae_lens_groups.evaluate.report.layer_table import (
    DIFFERENCES,
    FEATURES,
    LAYERS,
    SCORES,
    Cell,
    Column,
    layer_columns,
)
from sae_lens_groups.evaluate.report.names import printable
from sae_lens_groups.evaluate.result import Comparison, SuiteEvaluation

_WIDTH = 100


def evaluation_text(evaluation: SuiteEvaluation) -> str:
    """What `sae-lens-groups evaluate` prints, at most 100 columns wide."""
    parts = [
        _scores_table(evaluation),
        _comparison(evaluation),
        _measured_on(evaluation),
        _features(evaluation.features),
        _faithfulness(evaluation),
    ]
    return "\n\n".join(part for part in parts if part)


def _scores_table(evaluation: SuiteEvaluation) -> str:
    return _table([of for of in _columns(evaluation) if of.block in (LAYERS, SCORES)])


def _columns(evaluation: SuiteEvaluation) -> list[Column]:
    columns = layer_columns(evaluation, "terminal")
    return [of for of in columns if of.name not in ("hook_name", "missed firings")]


def _table(columns: Sequence[Column]) -> str:
    cells = [[_cell(cell) for cell in (*of.cells, of.mean)] for of in columns]
    return _aligned([[of.title for of in columns], *map(list, zip(*cells))])


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return (
        f"{cell.text} {cell.interval}{'*' if cell.is_clear else ' '}"
        if cell.interval
        else cell.text
    )


def _comparison(evaluation: SuiteEvaluation) -> str:
    comparison = evaluation.comparison
    if comparison is None:
        return ""
    blocks = (LAYERS, DIFFERENCES, FEATURES)
    table = _table([of for of in _columns(evaluation) if of.block in blocks])
    return f"{_introduction(comparison)}\n{table}"


def _introduction(comparison: Comparison) -> str:
    return _wrapped(
        f"This suite minus the baseline {printable(comparison.name)!r}, "
        f"{counted(comparison.n_layers, 'layer')}: the difference and its 95% interval over "
        "prompts, with * where that leaves out zero. mmcs: mean of the largest cosine of each "
        "feature's direction with one of the baseline. Missed: features of the baseline with none "
        f"as near as {FOUND_COSINE} in this suite."
    )


def _measured_on(evaluation: SuiteEvaluation) -> str:
    tokens = evaluation.tokens
    return _wrapped(
        f"Measured on {tokens.n_tokens:,} tokens of {printable(evaluation.dataset_name)}: "
        f"{tokens.n_prompts:,} prompts of {tokens.context_size} tokens."
    )


def _features(groups: Sequence[FeatureLayers]) -> str:
    shared = [features for features in groups if len(features.group) > 1]
    if not shared:
        return ""
    rows = [["group", "on one layer", "mean entropy", "dead on all layers"]]
    rows += [
        [
            features.group.name,
            percent(features.specific_share),
            f"{features.mean_entropy:.2f}",
            percent(features.dead_share),
        ]
        for features in shared
    ]
    introduction = (
        "Features of groups. On one layer: part of the features with "
        f"{SPECIFIC_SHARE:.0%} of their firings on one layer. Entropy of the layers a feature "
        "fires on: 0 for one layer alone, 1 for all alike. Both of features with "
        f"{FEWEST_FIRINGS} firings or more."
    )
    return f"{_wrapped(introduction)}\n{_aligned(rows)}"


def _faithfulness(evaluation: SuiteEvaluation) -> str:
    if evaluation.faithfulness is None:
        return ""
    d_sae = evaluation.features[0].n_firings_LF.shape[1]
    introduction = (
        f"Faithfulness: how many of a layer's {d_sae:,} features suffice for {SUFFICIENT:.0%} of "
        "the model's score on a task, mean over the layers where some do."
    )
    return "\n".join(
        [_wrapped(introduction), *map(_task_line, evaluation.faithfulness.tasks.values())]
    )


def _task_line(result: TaskResult) -> str:
    if result.message is not None:
        return _wrapped(f"  {result.message}", indent="    ")
    with_error = _sufficient(result.curves, lambda curve: curve.sufficient_with_error)
    without = _sufficient(result.curves, lambda curve: curve.sufficient_without_error)
    return _wrapped(
        f"  {result.task}: {with_error} beside the SAE's error, {without} without it; the model is "
        f"right on {percent(result.accuracy or 0.0)} of {result.n_pairs} prompts",
        indent="    ",
    )


def _sufficient(
    curves: Sequence[LayerCurve], n_features: Callable[[LayerCurve], int | None]
) -> str:
    """`12.5 (11 of 12 layers)`."""
    found = [n for n in map(n_features, curves) if n is not None]
    if not found:
        return f"never ({counted(len(curves), 'layer')})"
    return f"{count(_mean(found))} ({len(found)} of {counted(len(curves), 'layer')})"


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent=indent)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns two blanks apart: numbers to the right, the group's name to the left."""
    names = rows[0].index("group")
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )
