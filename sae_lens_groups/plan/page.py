"""A plan as one HTML page that needs no network: the same three drawings, and a slider over G."""

from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from sae_lens_groups.plan.drawing import (
    CHOSEN,
    COLOUR_MAP,
    LEVEL_CURVES,
    curves_of,
    group_borders,
    layer_step,
    level_diameters,
)
from sae_lens_groups.plan.group_plan import GroupPlan
from sae_lens_groups.plan.level import PlanLevel
from sae_lens_groups.plan.text import stability_note

_templates = Environment(
    loader=PackageLoader("sae_lens_groups", "plan"),
    autoescape=True,
    undefined=StrictUndefined,
    keep_trailing_newline=True,
)
_MARGIN = {"l": 55, "r": 10, "t": 10, "b": 45}


def plan_page(plan: GroupPlan) -> str:
    """The text of `plan.html`."""
    return _templates.get_template("page.html").render(
        plan=plan,
        model=Path(plan.distances.model_name).name,
        stability_note=stability_note(plan),
        chosen_colour=CHOSEN,
        plotly=get_plotlyjs(),
        distances=embedded(distances_figure(plan), "distances"),
        levels=embedded(_levels_figure(plan), "levels"),
        curves=embedded(_curves_figure(plan), "curves"),
        data=_page_data(plan),
    )


def _page_data(plan: GroupPlan) -> dict[str, Any]:
    """What the page's script moves through: every level, and the chosen one."""
    levels = list(plan.hierarchy)
    if plan.chosen not in levels:  # groups that were named
        levels.append(plan.chosen)
    return {
        "n_layers": plan.distances.n_layers,
        "chosen": levels.index(plan.chosen),
        "levels": [
            {
                "n_groups": level.n_groups,
                "n_layers": sum(map(len, level.groups)),
                "row": level.n_groups if level in plan.hierarchy else None,
                "groups": [[group.first, group.last] for group in level.groups],
                "figures": _figures(level),
            }
            for level in levels
        ],
    }


def _figures(level: PlanLevel) -> list[list[str]]:
    cost = [] if level.cost is None else [["of what an SAE per layer costs", f"{level.cost:.2f}"]]
    return [
        ["AMAD", f"{level.amad:.3f}"],
        ["weighted AMAD", f"{level.weighted_amad:.3f}"],
        ["largest distance", f"{level.max_diameter:.3f}"],
        *cost,
    ]


def distances_figure(plan: GroupPlan) -> go.Figure:
    """The distances of all layers as a square."""
    distances = plan.distances
    figure = go.Figure(
        go.Heatmap(
            z=distances.matrix,
            customdata=distances.standard_errors,
            colorscale=COLOUR_MAP,
            colorbar={"thickness": 12},
            hovertemplate="layers %{y} and %{x}: %{z:.4f} ± %{customdata:.4f}<extra></extra>",
        )
    )
    # constrain: on a narrow page the square shrinks, instead of showing layers there are none of.
    axis = {"title": "layer", "constrain": "domain", "dtick": layer_step(distances.n_layers)}
    figure.update_xaxes(axis)
    figure.update_yaxes(axis, autorange="reversed", scaleanchor="x")
    return figure.update_layout(height=480, margin=_MARGIN)


def _levels_figure(plan: GroupPlan) -> go.Figure:
    n_groups = [level.n_groups for level in plan.hierarchy]
    names = [
        [str(group) for group in level.groups for _ in group.layers] for level in plan.hierarchy
    ]
    figure = go.Figure(
        go.Heatmap(
            z=level_diameters(plan),
            y=n_groups,
            customdata=np.array(names),
            zmin=0,
            zmax=float(plan.distances.matrix.max()),
            colorscale=COLOUR_MAP,
            showscale=False,
            hovertemplate="%{y} groups: layers %{customdata}, largest distance %{z:.3f}"
            "<extra></extra>",
        )
    )
    borders = [point for line in group_borders(plan) for point in (*line, (None, None))]
    x, y = zip(*borders) if borders else ((), ())
    figure.add_scatter(
        x=x, y=y, mode="lines", line={"color": "white", "width": 1.5}, hoverinfo="skip"
    )
    figure.update_xaxes(title="layer", dtick=layer_step(plan.distances.n_layers), showgrid=False)
    figure.update_yaxes(
        title="number of groups G",
        range=[n_groups[-1] + 0.5, 0.5],
        dtick=layer_step(len(n_groups)),
        showgrid=False,
    )
    return figure.update_layout(height=480, margin=_MARGIN, showlegend=False)


def _curves_figure(plan: GroupPlan) -> go.Figure:
    n_groups = [level.n_groups for level in plan.hierarchy]
    figure = go.Figure()
    for (label, values), colour in zip(curves_of(plan).items(), LEVEL_CURVES):
        dash = "dash" if label == "cost" else "solid"
        figure.add_scatter(
            x=n_groups,
            y=values,
            name=label,
            mode="lines+markers",
            line={"color": colour, "dash": dash},
            marker={"size": 5},
            hovertemplate=f"G = %{{x}}: {label} %{{y:.3f}}<extra></extra>",
        )
    figure.update_xaxes(title="number of groups G", dtick=layer_step(len(n_groups)))
    figure.update_yaxes(title="distance, or fraction of the cost", rangemode="tozero")
    return figure.update_layout(
        height=360, margin=_MARGIN, template="simple_white", legend={"orientation": "h", "y": 1.1}
    )


def embedded(figure: go.Figure, name: str) -> str:
    """A drawing as a part of a page that holds plotly, in an element with this id."""
    settings = {"displayModeBar": False, "responsive": True}
    return figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, default_width="100%", config=settings
    )
