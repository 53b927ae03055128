"""How few features carry what the language model does: curves of each task, a layer at a time."""

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup, escape

from sae_lens_groups.evaluate.circuits import FaithfulnessReport, LayerCurve, TaskResult
from sae_lens_groups.evaluate.circuits.report import SUFFICIENT
from sae_lens_groups.evaluate.numbers import percent
from sae_lens_groups.evaluate.report.plots import (
    PURPLE,
    SUITE_COLOUR,
    add_line,
    empty_figure,
    over_layers,
)
from sae_lens_groups.evaluate.report.section import Section, hint, panel, side_by_side, terms
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan import embedded

_LINES = {
    "faithfulness_with_error": ("faithfulness", SUITE_COLOUR, "solid"),
    "faithfulness_without_error": ("faithfulness, no error", SUITE_COLOUR, "dot"),
    "completeness_with_error": ("completeness", PURPLE, "solid"),
    "completeness_without_error": ("completeness, no error", PURPLE, "dot"),
}
_TERMS = {
    "faithfulness": "How much of the model's preference for the right answer is left; 1 is all.",
    "completeness": "The same when those few are the ones replaced; 0 means that nothing else "
    "in this layer's SAE knows the answer.",
    "error": "What the SAE fails to reconstruct: kept as it is (solid lines), or replaced like "
    "the other features (dotted, no error).",
    "suffice": f"The smallest number of features measured whose faithfulness reaches {SUFFICIENT}.",
}
_LOWEST, _HIGHEST = -0.6, 1.6  # a ratio can go anywhere; what matters happens between 0 and 1
_MOST_LABELS = 8


def faithfulness(groups: Sequence[LayerGroup], report: FaithfulnessReport | None) -> Section | None:
    """Curves where tasks were solved, messages where not; None where none were asked for."""
    if report is None or not report.tasks:
        return None
    text = (
        "Prompts come in pairs with opposite answers. The few features that matter most for the "
        "answer keep their values, and all others get those of the other prompt."
    )
    measured = [result for result in report.tasks.values() if _layers([result])]
    left_out = [result.message for result in report.tasks.values() if result.message is not None]
    parts: list[str] = [terms(_TERMS)] if measured else []
    parts += [_chooser(_layers(measured))] if measured else []
    parts += [_task(groups, result) for result in report.tasks.values() if result.solved]
    parts += [Markup('<p class="message">{}</p>').format(message) for message in left_out]
    return Section("faithfulness", "Faithfulness to what the model does", text, "\n".join(parts))


def _layers(results: Sequence[TaskResult]) -> list[int]:
    """The layers that have a curve for any of these tasks."""
    return sorted({curve.layer for result in results for curve in result.curves if curve.points})


def _chooser(layers: list[int]) -> str:
    """A slider over layers, which the page's script connects to all drawings of curves."""
    return (
        '<div class="choice"><label for="layer">layer</label>'
        f'<input type="range" id="layer" min="0" max="{len(layers) - 1}" step="1" '
        f'value="{len(layers) // 2}" data-layers="{" ".join(map(str, layers))}">'
        '<output id="chosen_layer"></output></div>'
    )


def _task(groups: Sequence[LayerGroup], result: TaskResult) -> str:
    accuracy = f"right on {percent(result.accuracy or 0.0)} of {result.n_pairs} prompts"
    title = Markup('<h3 class="task">{} <small>the model is {}</small></h3>').format(
        result.task, accuracy
    )
    curves = [curve for curve in result.curves if curve.points]
    if not curves:
        return title + hint(
            "The answer passes none of these hooks, so there is nothing to measure."
        )
    without = ", ".join(str(curve.layer) for curve in result.curves if not curve.points)
    name = str(escape(result.task))
    panels = side_by_side(
        panel("Curves of the chosen layer", embedded(_curves(curves), f"curves_{name}")),
        panel(
            "Features that suffice, layer by layer",
            embedded(_sufficient(groups, result.curves), f"sufficient_{name}"),
        ),
    )
    note = f"Hardly any of the answer passes the hook of layer {without}, which has no curve."
    return title + (hint(note) if without else "") + panels


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
    return figure.update_yaxes(title="part of the model's score", range=_range(curves))


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
        points = [(layer, None if n is None else counts.index(n)) for layer, n in found.items()]
        hover = {"customdata": list(found.values()), "hovertemplate": "%{customdata:,} features"}
        add_line(figure, label, points, SUITE_COLOUR, **look, **hover)
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
    values = [
        getattr(point, score) for curve in curves for point in curve.points for score in _LINES
    ]
    finite = [value for value in values if math.isfinite(value)]
    low, high = min([*finite, -0.05]), max([*finite, 1.05])
    return [max(low, _LOWEST) - 0.03, min(high, _HIGHEST) + 0.03]
