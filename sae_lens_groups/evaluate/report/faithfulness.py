"""How few features carry what the language model does: curves of each task, a layer at a time."""

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from sae_lens_groups.evaluate.circuits import FaithfulnessReport, LayerCurve, TaskResult
from sae_lens_groups.evaluate.circuits.report import SUFFICIENT
from sae_lens_groups.evaluate.report.plots import (
    PURPLE,
    SUITE_COLOUR,
    Drawing,
    add_layer_line,
    add_line,
    drawn,
    empty_figure,
    over_layers,
)
from sae_lens_groups.layers import LayerGroup

_LINES = {
    "faithfulness_with_error": ("faithfulness", SUITE_COLOUR, "solid"),
    "faithfulness_without_error": ("faithfulness, no error", SUITE_COLOUR, "dot"),
    "completeness_with_error": ("completeness", PURPLE, "solid"),
    "completeness_without_error": ("completeness, no error", PURPLE, "dot"),
}
_LOWEST, _HIGHEST = -0.6, 1.6  # a ratio can go anywhere; what matters happens between 0 and 1
_MOST_LABELS = 8


def faithfulness(
    groups: Sequence[LayerGroup], report: FaithfulnessReport | None
) -> dict[str, Any] | None:
    """Curves where tasks were solved, messages where not; None where none were asked for."""
    if report is None or not report.tasks:
        return None
    solved = [of for of in report.tasks.values() if of.solved]
    return {
        "sufficient": SUFFICIENT,
        "layers": sorted({curve.layer for of in solved for curve in of.curves if curve.points}),
        "solved": [(of, _drawings(groups, of)) for of in solved],
        "unsolved": [of for of in report.tasks.values() if not of.solved],
    }


def _drawings(groups: Sequence[LayerGroup], result: TaskResult) -> list[Drawing]:
    curves = [curve for curve in result.curves if curve.points]
    if not curves:
        return []
    sufficient = _sufficient(groups, result.curves)
    return [
        drawn("curves of the chosen layer", f"curves_{result.task}", _curves(curves)),
        drawn("features that suffice, layer by layer", f"sufficient_{result.task}", sufficient),
    ]


def _curves(curves: Sequence[LayerCurve]) -> go.Figure:
    """The lines of every layer, of which the page's script shows one layer's."""
    figure = empty_figure(height=330)
    counts = _counts(curves)
    for curve in curves:
        for score, (label, colour, dash) in _LINES.items():
            add_line(
                figure,
                label,
                [(counts.index(of.n_features), getattr(of, score)) for of in curve.points],
                colour,
                line={"color": colour, "width": 2, "dash": dash},
                marker={"size": 5},
                customdata=[point.n_features for point in curve.points],
                hovertemplate="%{customdata:,} features: %{y:.3f}",
                meta=curve.layer,
                visible=False,
            )
    figure.add_hline(y=SUFFICIENT, opacity=1, line={"color": "#888", "width": 1, "dash": "dash"})
    figure.update_xaxes(title="number of features, most important first", **_count_labels(counts))
    return figure.update_yaxes(title="share of the model's score", range=_range(curves))


def _sufficient(groups: Sequence[LayerGroup], curves: Sequence[LayerCurve]) -> go.Figure:
    figure = over_layers(groups, height=330)
    counts = _counts(curves)
    with_error = {curve.layer: curve.sufficient_with_error for curve in curves}
    without = {curve.layer: curve.sufficient_without_error for curve in curves}
    dotted = {"color": SUITE_COLOUR, "width": 2, "dash": "dot"}
    open_circle = {"size": 8, "symbol": "circle-open"}
    for label, found, look in (
        ("with the SAE's error", with_error, {}),
        ("no error", without, {"line": dotted, "marker": open_circle}),
    ):
        places = {layer: None if n is None else counts.index(n) for layer, n in found.items()}
        hover = "%{customdata:,} features"
        add_layer_line(figure, label, places, SUITE_COLOUR, found, **look, hovertemplate=hover)
    return figure.update_yaxes(
        title="features that suffice", range=[-0.5, len(counts) - 0.5], **_count_labels(counts)
    )


def _counts(curves: Sequence[LayerCurve]) -> list[int]:
    """The numbers of features that were kept: 0, doubling, and all; an axis gives each one place."""
    return sorted({point.n_features for curve in curves for point in curve.points})


def _count_labels(counts: Sequence[int]) -> dict[str, Any]:
    """As many labels as fit, that of all features among them."""
    step = math.ceil(len(counts) / _MOST_LABELS)
    shown = range(len(counts) - 1, -1, -step)
    return {"tickvals": list(shown), "ticktext": [f"{counts[n]:,}" for n in shown]}


def _range(curves: Sequence[LayerCurve]) -> list[float]:
    scores = [getattr(point, name) for of in curves for point in of.points for name in _LINES]
    finite = [value for value in scores if math.isfinite(value)]
    low, high = min([*finite, -0.05]), max([*finite, 1.05])
    return [max(low, _LOWEST) - 0.03, min(high, _HIGHEST) + 0.03]
