"""Quality against layer, difference to the baseline, and quality against cost."""

from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from sae_lens_groups.errors import counted
from sae_lens_groups.evaluate.metrics import shown_in
from sae_lens_groups.evaluate.numbers import flops
from sae_lens_groups.evaluate.report.names import public
from sae_lens_groups.evaluate.report.plots import (
    BASELINE_COLOUR,
    SUITE_COLOUR,
    add_layer_line,
    add_line,
    drawn,
    empty_figure,
    over_layers,
)
from sae_lens_groups.evaluate.result import SuiteEvaluation
from sae_lens_groups.layers import LayerGroup

_DRAWN = {metric.name: metric.label for metric in shown_in("drawing")}


def quality(groups: Sequence[LayerGroup], evaluation: SuiteEvaluation) -> dict[str, Any]:
    """Both metrics over layers; with a baseline also its own, and the differences."""
    drawings = [
        drawn(label, f"layers_{name}", _metric(groups, evaluation, name))
        for name, label in _DRAWN.items()
    ]
    is_compared = evaluation.comparison is not None
    if is_compared:
        drawings += [
            drawn(
                f"difference in {label}",
                f"differences_{name}",
                _differences(groups, evaluation, name),
            )
            for name, label in _DRAWN.items()
        ]
    return {"drawings": drawings, "is_compared": is_compared}


def cost(evaluation: SuiteEvaluation) -> dict[str, Any] | None:
    """Both metrics over what training took; None where there are no two to compare."""
    compared = evaluation.comparison
    if compared is None or len(evaluation.costs) < 2:
        return None
    return {
        "drawings": [
            drawn(label, f"cost_{name}", _cost_figure(evaluation, name))
            for name, label in _DRAWN.items()
        ],
        "n_layers": compared.n_layers if compared.n_layers < len(evaluation) else None,
    }


def _metric(groups: Sequence[LayerGroup], evaluation: SuiteEvaluation, name: str) -> go.Figure:
    figure = over_layers(groups)
    if evaluation.comparison is not None:
        add_layer_line(
            figure,
            public(evaluation.comparison.name),
            {of.layer: of.baseline and of.baseline.metrics[name] for of in evaluation},
            BASELINE_COLOUR,
            line={"color": BASELINE_COLOUR, "width": 1.5, "dash": "dash"},
            marker={"size": 7, "symbol": "square-open"},
        )
    values = {scores.layer: scores.metrics[name] for scores in evaluation}
    add_layer_line(figure, "this suite", values, SUITE_COLOUR)
    return figure.update_yaxes(title=_DRAWN[name])


def _differences(groups: Sequence[LayerGroup], evaluation: SuiteEvaluation, name: str) -> go.Figure:
    figure = over_layers(groups)
    compared = [
        (scores.layer, scores.baseline.differences[name])
        for scores in evaluation
        if scores.baseline is not None
    ]
    figure.add_hline(y=0, opacity=1, line={"color": "#888", "width": 1})
    add_line(
        figure,
        "this suite minus the baseline",
        [(layer, found.value) for layer, found in compared],
        SUITE_COLOUR,
        mode="markers",
        showlegend=False,
        error_y={
            "array": [found.high - found.value for _, found in compared],
            "arrayminus": [found.value - found.low for _, found in compared],
            "width": 3,
            "thickness": 1.5,
        },
        customdata=[[found.low, found.high] for _, found in compared],
        hovertemplate="layer %{x}: %{y:+.4f}, from %{customdata[0]:+.4f} to %{customdata[1]:+.4f}"
        "<extra></extra>",
    )
    return figure.update_yaxes(title="difference", tickformat="+")


def _cost_figure(evaluation: SuiteEvaluation, name: str) -> go.Figure:
    figure = empty_figure()
    symbols = ("circle", "square-open")
    for costs, mean, colour, symbol in zip(
        evaluation.costs, _means(evaluation, name), (SUITE_COLOUR, BASELINE_COLOUR), symbols
    ):
        of_layers = f"{counted(costs.n_saes, 'SAE')} for {counted(costs.n_layers, 'layer')}"
        add_line(
            figure,
            f"{public(costs.name)}: {of_layers}",
            [(costs.flops, mean)],
            colour,
            mode="markers",
            marker={
                "size": 13,
                "symbol": symbol,
                "color": colour,
                "line": {"color": colour, "width": 2},
            },
            hovertemplate=f"{escape(public(costs.name))}, {of_layers}: {flops(costs.flops)} for "
            f"{costs.training_tokens:,} tokens each, {_DRAWN[name]} %{{y:.4f}}<extra></extra>",
        )
    highest = 1.12 * max(costs.flops for costs in evaluation.costs)
    figure.update_xaxes(title="FLOPs of training", range=[0, highest], tickformat="~s")
    return figure.update_yaxes(title=f"mean {_DRAWN[name]}")


def _means(evaluation: SuiteEvaluation, name: str) -> list[float]:
    """Of the suite and of the baseline, over the layers that both have."""
    both = [
        (of.metrics[name], of.baseline.metrics[name])
        for of in evaluation
        if of.baseline is not None
    ]
    return [sum(values) / len(values) for values in zip(*both)]
