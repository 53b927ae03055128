"""The table of all layers as data, which the terminal, the page and the model card each render."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sae_lens_groups.evaluate.bootstrap import Difference
from sae_lens_groups.evaluate.matching import FOUND_COSINE
from sae_lens_groups.evaluate.metrics import Metric, Where, compared_in, shown_in
from sae_lens_groups.evaluate.numbers import interval, percent, score, signed
from sae_lens_groups.evaluate.result import SuiteEvaluation

LAYERS, SCORES = "", "this suite"
DIFFERENCES, FEATURES = "difference to the baseline", "the baseline's features"
SCALING = "scaling"


@dataclass(frozen=True)
class Cell:
    """One cell: what is read, what is sorted by, and whether a difference is clear."""

    text: str
    value: float = math.nan
    interval: str = ""
    is_clear: bool = False
    is_better: bool | None = None
    """Of a clear difference, where more is better or worse."""

    @property
    def sorted_by(self) -> str:
        """The value as text; empty where there is none, which sorts last."""
        return f"{self.value:.9g}" if math.isfinite(self.value) else ""


@dataclass(frozen=True)
class Column:
    """One column, and the block of columns it stands in."""

    block: str
    name: str
    title: str
    meaning: str
    cells: Sequence[Cell | None]
    """A layer each; None where the baseline has no such layer."""
    mean: Cell | None = None


def layer_columns(evaluation: SuiteEvaluation, where: Where) -> list[Column]:
    """All columns that stand there, block by block."""
    shown = [of for of in shown_in(where) if evaluation.tokens.n_outliers or not of.is_of_outliers]
    columns = [*_layers(evaluation), *(_scores(evaluation, of) for of in shown)]
    if evaluation.comparison is not None:
        columns += [_differences(evaluation, metric) for metric in compared_in(where)]
        columns += _features(evaluation)
    return columns + _scaling(evaluation)


def _layers(evaluation: SuiteEvaluation) -> list[Column]:
    return [
        Column(
            *(LAYERS, name, name, ""),
            [Cell(str(getattr(of, name)), of.layer) for of in evaluation],
            Cell("mean" if name == "layer" else ""),
        )
        for name in ("layer", "hook_name", "group")
    ]


def _scores(evaluation: SuiteEvaluation, metric: Metric) -> Column:
    values = [of.score(metric.name) for of in evaluation]
    cells = [Cell(metric.written(value), value) for value in values]
    mean = evaluation.mean(metric.name)
    shown = Cell(metric.written(mean), mean)
    return Column(SCORES, metric.name, metric.title, metric.meaning, cells, shown)


def _differences(evaluation: SuiteEvaluation, metric: Metric) -> Column:
    def cell(found: Difference) -> Cell:
        text = signed(found.value, metric.written)
        if metric.is_more_better is None:
            return Cell(text, found.value)
        is_better = (found.value > 0) == metric.is_more_better
        low_high = interval(found.low, found.high)
        return Cell(text, found.value, low_high, found.is_clear, is_better)

    assert evaluation.comparison is not None
    cells = [of.baseline and cell(of.baseline.differences[metric.name]) for of in evaluation]
    mean = cell(evaluation.comparison.mean_differences[metric.name])
    return Column(DIFFERENCES, metric.name, metric.title, "", cells, mean)


# Title, name, how it is written, meaning.
_OF_FEATURES = (
    (
        *("mmcs", "mmcs", "{:.3f}".format),
        "How like the features are: mean over this suite's features of the largest cosine "
        "with a feature of the baseline.",
    ),
    (
        *("missed", "missed_features", percent),
        "Features of the baseline with no feature of this suite as near as "
        f"{FOUND_COSINE}, and the part of the baseline's firings that are theirs.",
    ),
    ("missed firings", "missed_firings", percent, ""),
)


def _features(evaluation: SuiteEvaluation) -> Iterator[Column]:
    matches = [None if of.baseline is None else of.baseline.match for of in evaluation]
    # Of what is missed nothing is said where nothing says how much two trainings would miss.
    for title, name, written, meaning in _OF_FEATURES[
        : 1 if evaluation.missed_alone is None else 3
    ]:
        values = [match and getattr(match, name) for match in matches]
        known = [value for value in values if value is not None]
        values.append(sum(known) / len(known) if known else None)
        cells = [None if value is None else Cell(written(value), value) for value in values]
        yield Column(FEATURES, title, title, meaning, cells[:-1], cells[-1])


def _scaling(evaluation: SuiteEvaluation) -> list[Column]:
    factors = [of.scaling_factor for of in evaluation]
    if all(factor is None for factor in factors):
        return []
    cells = [None if factor is None else Cell(score(factor), factor) for factor in factors]
    return [Column(SCALING, "scaling_factor", "scaling_factor", "", cells, Cell(""))]
