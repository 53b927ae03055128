"""The sections on how the SAEs were trained."""

import math
from collections.abc import Sequence
from importlib import metadata

import plotly.graph_objects as go

from sae_lens_groups._version import __version__
from sae_lens_groups.evaluate.numbers import percent, score
from sae_lens_groups.evaluate.report.names import public
from sae_lens_groups.evaluate.report.plots import (
    BASELINE_COLOUR,
    FONT,
    SUITE_COLOUR,
    add_layer_line,
    add_line,
    depth_colours,
    empty_figure,
    group_boxes,
    over_layers,
)
from sae_lens_groups.evaluate.report.section import Section, drawings, parts
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan import GroupPlan, distances_figure, embedded, stability_note
from sae_lens_groups.saved import TrainingPoint, TransferReport
from sae_lens_groups.suite import SAESuite

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
    body = drawings(
        ("loss", "training_loss", losses.update_yaxes(title="loss")),
        (
            "explained variance",
            "training_explained_variance",
            variance.update_yaxes(title="explained variance"),
        ),
    )
    return Section("training", "Training", hint, body)


def norms(suite: SAESuite) -> Section | None:
    """How large each layer's activations are; None where the suite does not say."""
    known = {layer: suite.layer(layer).cfg.metadata for layer in suite.manifest.layers}
    found = {layer: of.activation_norms for layer, of in known.items() if of.activation_norms}
    if not found:
        return None
    multiple = next(iter(known.values())).max_activation_norm_multiple
    hint = (
        "Norms of the activations on the first tokens of the training text. Where 1% of the tokens "
        "carry much of the squared norm, a mean norm, a loss or an explained variance is about these "
        "few. "
    ) + (
        f"Tokens beyond {multiple:g} times the median of any layer were left out of training."
        if multiple
        else "Training took every token (max_activation_norm_multiple 0)."
    )
    head = ["layer", "median", "first position", "largest", "squared norm in the top 1%"]
    rows = [
        [
            layer,
            *map(_number, (of["median"], of["first_position"], of["largest"])),
            percent(of["top_share"]),
        ]
        for layer, of in found.items()
    ]
    return Section("norms", "Activation norms", hint, parts.table(head, rows))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"


def start(suite: SAESuite) -> Section | None:
    """What each layer's SAE started from; None where all were trained from scratch."""
    transfer = suite.manifest.transfer
    if transfer is None:
        return None
    hint = (
        "Each layer's SAE began with the weights of another layer's. Explained variance before "
        "the first step and, where the run measured it, after the last, on the same tokens."
    )
    body = parts.start(
        transfer,
        public(transfer.init_from, is_place=True),
        score(transfer.mean(transfer.zero_shot)),
        score(transfer.mean(transfer.final)) if transfer.final else "",
        embedded(_start_figure(suite.manifest.groups, transfer), "start_figure"),
    )
    return Section("start", "What the SAEs started from", hint, body)


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


def planned(chosen: GroupPlan | None) -> Section | None:
    """The distances that the groups were chosen from; None where they were named."""
    if chosen is None:
        return None
    distances, level = chosen.distances, chosen.chosen
    hint = (
        f"{distances.metric.capitalize()} distance of every pair of layers, measured on "
        f"{distances.n_tokens:,} tokens; the boxes are the groups. Chosen by: {chosen.chosen_by}"
        f"{stability_note(chosen)}. AMAD, the mean over the groups of the largest distance in each, "
        f"is {level.amad:.3f}; the largest distance in any group {level.max_diameter:.3f}."
    )
    figure = distances_figure(chosen).update_layout(font=FONT, shapes=group_boxes(chosen.groups))
    body = f'<div class="square">{embedded(figure, "distances")}</div>'
    return Section("plan", "How the groups were chosen", hint, body)


def _installed_version(name: str) -> str:
    if name == "sae-lens-groups":
        return __version__
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "-"


def reproduce(suite: SAESuite, commands: Sequence[str]) -> Section:
    """Commands, where they are known, and the versions of what trained and what evaluated."""
    rows = [
        [name, version, _installed_version(name)]
        for name, version in suite.manifest.versions.items()
    ]
    hint = (
        "What was run, and the versions of the packages that trained the suite and made this page."
    )
    body = parts.reproduce(commands, ["package", "trained with", "page made with"], rows)
    return Section("reproduce", "To do it again", hint, body)
