"""The sections on how the SAEs were trained."""

import math
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import plotly.graph_objects as go

from sae_lens_groups._version import __version__
from sae_lens_groups.evaluate.report.plots import (
    BASELINE_COLOUR,
    FONT,
    SUITE_COLOUR,
    Drawing,
    add_layer_line,
    add_line,
    depth_colours,
    drawn,
    empty_figure,
    group_boxes,
    over_layers,
)
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan import GroupPlan, distances_figure, embedded, stability_note
from sae_lens_groups.saved import TrainingPoint, TransferReport
from sae_lens_groups.suite import SAESuite

_LONGEST_LEGEND = 8
_TICKS = [digit * 10.0**power for power in range(-6, 9) for digit in (1, 2, 5)]


def training(groups: Sequence[LayerGroup], curves: Sequence[TrainingPoint]) -> list[Drawing] | None:
    """Loss and explained variance of each group over tokens; None where nothing was recorded."""
    if not curves:
        return None
    losses = _curves(groups, curves, "loss").update_yaxes(title="loss")
    if _spans_decades([point.loss for point in curves]):
        losses.update_yaxes(type="log", tickvals=_TICKS, ticktext=[f"{tick:g}" for tick in _TICKS])
    name = "explained_variance"
    variance = _curves(groups, curves, name).update_yaxes(title="explained variance")
    return [
        drawn("loss", "training_loss", losses),
        drawn("explained variance", f"training_{name}", variance),
    ]


def norms(suite: SAESuite) -> dict[str, Any] | None:
    """How large each layer's activations are; None where the suite does not say."""
    known = {layer: suite.layer(layer).cfg.metadata for layer in suite.manifest.layers}
    found = {layer: of.activation_norms for layer, of in known.items() if of.activation_norms}
    if not found:
        return None
    multiple = next(iter(known.values())).max_activation_norm_multiple
    return {"multiple": multiple, "norms": found}


def start(suite: SAESuite) -> dict[str, Any] | None:
    """What each layer's SAE started from; None where all were trained from scratch."""
    transfer = suite.manifest.transfer
    if transfer is None:
        return None
    figure = _start_figure(suite.manifest.groups, transfer)
    return {"transfer": transfer, "drawing": embedded(figure, "start_figure")}


def _curves(groups: Sequence[LayerGroup], curves: Sequence[TrainingPoint], name: str) -> go.Figure:
    figure = empty_figure()
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


def _start_figure(groups: Sequence[LayerGroup], transfer: TransferReport) -> go.Figure:
    figure = over_layers(groups)
    sources = {layer: f"from layer {of}" for layer, of in transfer.source_layers.items()}
    measured = {"at the start": transfer.zero_shot, "after training": transfer.final}
    for (label, scores), colour in zip(measured.items(), (BASELINE_COLOUR, SUITE_COLOUR)):
        if scores:
            add_layer_line(
                figure,
                label,
                {layer: of["explained_variance"] for layer, of in scores.items()},
                colour,
                customdata_of=sources,
                hovertemplate="layer %{x}, %{customdata}: %{y:.4f}",
            )
    return figure.update_yaxes(title="explained variance")


def planned(plan: GroupPlan | None) -> dict[str, Any] | None:
    """The distances that the groups were chosen from; None where they were named."""
    if plan is None:
        return None
    figure = distances_figure(plan).update_layout(font=FONT, shapes=group_boxes(plan.groups))
    return {
        "distances": plan.distances,
        "chosen": plan.chosen,
        "chosen_by": plan.chosen_by + stability_note(plan),
        "drawing": embedded(figure, "distances"),
    }


def _installed_version(name: str) -> str:
    if name == "sae-lens-groups":
        return __version__
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "-"


def reproduce(suite: SAESuite, commands: Sequence[str]) -> dict[str, Any]:
    """Commands, where they are known, and the versions of what trained and what evaluated."""
    versions = suite.manifest.versions.items()
    rows = [[name, version, _installed_version(name)] for name, version in versions]
    return {"commands": commands, "rows": rows}
