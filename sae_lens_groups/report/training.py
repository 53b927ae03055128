"""How training went, group by group, and what the SAEs started from."""

import html
import math
from collections.abc import Sequence

import plotly.graph_objects as go

from sae_lens_groups.drawing import embedded
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.report.numbers import score
from sae_lens_groups.report.plots import (
    BASELINE,
    SUITE,
    add_line,
    depth_colours,
    drawing,
    over_layers,
)
from sae_lens_groups.report.section import Section, panel, side_by_side
from sae_lens_groups.suite import SAESuite
from sae_lens_groups.training_curves import TrainingPoint
from sae_lens_groups.transfer_report import TransferReport

_LONGEST_LEGEND = 8
_TICKS = [digit * 10.0**power for power in range(-6, 9) for digit in (1, 2, 5)]


def training(groups: Sequence[LayerGroup], curves: Sequence[TrainingPoint]) -> Section | None:
    """Loss and explained variance of each group over tokens; None where nothing was recorded."""
    if not curves:
        return None
    hint = (
        "Each line is a group's SAE, from the lowest layers (dark) to the highest (light), on the "
        "batches it was trained on: scaled activations of all its layers together. The loss "
        "is what the optimiser sees, and compares within one line rather than between lines."
    )
    losses = _curves(groups, curves, "loss")
    if _spans_decades([point.loss for point in curves]):
        losses.update_yaxes(type="log", tickvals=_TICKS, ticktext=[f"{tick:g}" for tick in _TICKS])
    variance = _curves(groups, curves, "explained_variance")
    body = side_by_side(
        panel("Loss", embedded(losses.update_yaxes(title="loss"), "training_loss")),
        panel(
            "Explained variance",
            embedded(
                variance.update_yaxes(title="explained variance"), "training_explained_variance"
            ),
        ),
    )
    return Section("training", "Training", hint, body)


def start(suite: SAESuite) -> Section | None:
    """What each layer's SAE started from; None where all were trained from scratch."""
    transfer = suite.manifest.transfer
    if transfer is None:
        return None
    hint = (
        "Each layer's SAE began with the weights of another layer's. Explained variance before "
        "the first step and, where the run measured it, after the last, on the same tokens."
    )
    figure = _start_figure(suite.manifest.groups, transfer)
    body = f"<p>{_source(transfer)}</p>\n{embedded(figure, 'start_figure')}"
    return Section("start", "What the SAEs started from", hint, body)


def _curves(groups: Sequence[LayerGroup], curves: Sequence[TrainingPoint], name: str) -> go.Figure:
    figure = drawing()
    for group, colour in zip(groups, depth_colours(len(groups))):
        add_line(
            figure,
            f"layers {group}" if len(group) > 1 else f"layer {group}",
            [(p.training_tokens, getattr(p, name)) for p in curves if p.group == group.name],
            colour,
            mode="lines",
            line={"color": colour, "width": 1.5},
            showlegend=len(groups) <= _LONGEST_LEGEND,
            hovertemplate="%{x:,} tokens: %{y:.4f}",
        )
    return figure.update_xaxes(title="training tokens", rangemode="tozero")


def _spans_decades(losses: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows more of these losses than a plain one."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    return bool(finite) and 0 < 10 * min(finite) < max(finite)


def _source(transfer: TransferReport) -> str:
    before = score(transfer.mean(transfer.zero_shot))
    after = f", {score(transfer.mean(transfer.final))} after training" if transfer.final else ""
    return (
        f"From <code>{html.escape(transfer.init_from)}</code>: init_direction "
        f"{html.escape(transfer.init_direction)}, init_parameters "
        f"{html.escape(transfer.init_parameters)}, init_alignment "
        f"{html.escape(transfer.init_alignment)}. Mean explained variance {before} at the "
        f"start{after}."
    )


def _start_figure(groups: Sequence[LayerGroup], transfer: TransferReport) -> go.Figure:
    figure = over_layers(groups)
    sources = [f"from layer {source}" for source in transfer.source_layers.values()]
    measured = {"at the start": transfer.zero_shot, "after training": transfer.final}
    for (label, scores), colour in zip(measured.items(), (BASELINE, SUITE)):
        if scores:
            add_line(
                figure,
                label,
                [
                    (layer, scores[layer]["explained_variance"] if layer in scores else None)
                    for layer in transfer.source_layers
                ],
                colour,
                customdata=sources,
                hovertemplate="layer %{x}, %{customdata}: %{y:.4f}",
            )
    return figure.update_yaxes(title="explained variance")
