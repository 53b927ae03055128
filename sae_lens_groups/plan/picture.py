"""A plan as a PNG: distances with the groups outlined, the nested groups, and the curves over G."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from sae_lens_groups.plan.drawing import (
    CHOSEN,
    COLOUR_MAP,
    LEVEL_CURVES,
    curves_of,
    group_borders,
    level_diameters,
)
from sae_lens_groups.plan.group_plan import GroupPlan


def save_picture(plan: GroupPlan, path: Path) -> None:
    """Writes the picture under this path, which decides its format (png, pdf, svg)."""
    # Not through pyplot, which would keep the figure and choose a backend for the whole process.
    figure = Figure(figsize=(15, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    heat, nested, curves = figure.subplots(1, 3, width_ratios=(1.15, 1, 1))
    draw_distances(heat, plan)
    draw_levels(nested, plan)
    draw_curves(curves, plan)
    groups = ", ".join(map(str, plan.groups))
    if len(groups) > 120:
        groups = f"{len(plan.groups)} groups"
    figure.suptitle(
        f"{Path(plan.distances.model_name).name}, {plan.hook_template}: {groups}   ({plan.chosen_by})",
        fontsize=12,
    )
    figure.savefig(path, dpi=130)


def draw_distances(axes: Axes, plan: GroupPlan) -> None:
    """The distance of every pair of layers; a box around each chosen group."""
    image = axes.imshow(plan.distances.matrix, cmap=COLOUR_MAP)
    for group in plan.groups:
        box = (group.first - 0.5, group.first - 0.5), len(group), len(group)
        axes.add_patch(Rectangle(*box, fill=False, edgecolor=CHOSEN, linewidth=2.2, clip_on=False))
    _label_layers(axes)
    axes.yaxis.set_major_locator(MaxNLocator(13, integer=True))
    axes.set_ylabel("layer")
    axes.set_title(f"{plan.distances.metric} distance, chosen groups boxed", fontsize=10)
    assert axes.figure is not None
    axes.figure.colorbar(image, ax=axes, shrink=0.8)


def draw_levels(axes: Axes, plan: GroupPlan) -> None:
    """A row of layers for each number of groups, coloured by how wide each group is."""
    axes.imshow(
        level_diameters(plan),
        cmap=COLOUR_MAP,
        aspect="auto",
        vmin=0,
        vmax=float(plan.distances.matrix.max()),
        extent=(-0.5, plan.distances.n_layers - 0.5, len(plan.hierarchy) + 0.5, 0.5),
    )
    axes.add_collection(LineCollection(group_borders(plan), colors="white", linewidths=1.2))
    if plan.chosen in plan.hierarchy:
        row = (-0.5, plan.chosen.n_groups - 0.5), plan.distances.n_layers, 1
        axes.add_patch(Rectangle(*row, fill=False, edgecolor=CHOSEN, linewidth=2.2, clip_on=False))
    _label_layers(axes)
    axes.yaxis.set_major_locator(MaxNLocator(13, integer=True))
    axes.set_ylabel("number of groups G")
    axes.set_title(f"groups by {plan.partition}, coloured by their largest distance", fontsize=10)


def draw_curves(axes: Axes, plan: GroupPlan) -> None:
    """AMAD, weighted AMAD, the largest diameter and the cost against the number of groups."""
    n_groups = [level.n_groups for level in plan.hierarchy]
    for (label, values), colour in zip(curves_of(plan).items(), LEVEL_CURVES):
        style = "--" if label == "cost" else "-"
        marker = "o" if len(n_groups) <= 30 else None
        axes.plot(n_groups, values, style, color=colour, label=label, marker=marker, markersize=3)
    axes.axvline(plan.chosen.n_groups, color=CHOSEN, linewidth=2, label="chosen")
    axes.set_xlabel("number of groups G")
    axes.set_ylabel("distance; cost as a fraction of an SAE per layer")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(13, integer=True))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, frameon=False)
    axes.set_title("what fewer groups give up, and save", fontsize=10)


def _label_layers(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(13, integer=True))
    axes.set_xlabel("layer")
