"""What the page's drawings have in common: colours, axes, and how they get into the page."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan import CHOSEN, COLOUR_MAP, LEVEL_CURVES, embedded, layer_step

SUITE_COLOUR, _, PURPLE, BASELINE_COLOUR = LEVEL_CURVES
WORSE = CHOSEN
FONT = {"family": "system-ui, sans-serif", "size": 12, "color": "#222"}
_BAND = "#eff2f5"


Drawing = tuple[str, str]
"""A title, and the HTML below it."""


def drawn(title: str, name: str, figure: go.Figure) -> Drawing:
    """A figure for the page, in an element with this id."""
    return title[0].upper() + title[1:], embedded(figure, name)


def empty_figure(height: int = 300) -> go.Figure:
    """An empty drawing in the page's style, with room for its legend above."""
    figure = go.Figure()
    return figure.update_layout(
        height=height,
        template="simple_white",
        font=FONT,
        margin={"l": 62, "r": 24, "t": 34, "b": 46},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hoverlabel={"font": FONT, "namelength": -1},
    )


def over_layers(groups: Sequence[LayerGroup], height: int = 300) -> go.Figure:
    """A drawing over layers, with every second group on grey."""
    figure = empty_figure(height)
    first, last = groups[0].first, groups[-1].last
    figure.update_xaxes(
        title="layer", dtick=layer_step(last - first + 1), range=[first - 0.5, last + 0.5]
    )
    if all(len(group) == 1 for group in groups):  # stripes would only dazzle
        return figure
    for group in groups[1::2]:
        figure.add_vrect(
            x0=group.first - 0.5,
            x1=group.last + 0.5,
            fillcolor=_BAND,
            opacity=1,
            line_width=0,
            layer="below",
        )
    return figure


def add_line(
    figure: go.Figure,
    name: str,
    points: Iterable[tuple[float, float | None]],
    colour: str,
    **settings: Any,
) -> None:
    """A line with a marker at each point; a gap where there is no number."""
    points = [(x, None if y is None or not math.isfinite(y) else y) for x, y in points]
    figure.add_scatter(
        **{
            "x": [x for x, _ in points],
            "y": [y for _, y in points],
            "name": html.escape(name),  # may be from a file, and plotly takes <b> for a tag
            "mode": "lines+markers",
            "line": {"color": colour, "width": 2},
            "marker": {"size": 6},
            "hovertemplate": "layer %{x}: %{y:.4f}",
            "showlegend": True,
            **settings,
        }
    )


def add_layer_line(
    figure: go.Figure,
    name: str,
    value_of: Mapping[int, float | None],
    colour: str,
    customdata_of: Mapping[int, Any] | None = None,
    **settings: Any,
) -> None:
    """A line over layers, with a gap where layers were not trained."""
    layers = range(min(value_of), max(value_of) + 1)
    if customdata_of is not None:
        settings["customdata"] = [customdata_of.get(layer) for layer in layers]
    add_line(figure, name, [(layer, value_of.get(layer)) for layer in layers], colour, **settings)


def depth_colours(n: int) -> list[str]:
    """As many colours as there are groups, from the lowest layers to the highest."""
    # The last fifth of the map is too pale for a line on white.
    positions = [0.8 * index / max(1, n - 1) for index in range(n)]
    return [str(colour) for colour in sample_colorscale(COLOUR_MAP, positions)]


def group_boxes(groups: Iterable[LayerGroup]) -> list[dict[str, Any]]:
    """A box around each group in a matrix of layers, as on the page of a plan."""
    line = {"color": CHOSEN, "width": 3}
    boxes = ((group.first - 0.5, group.last + 0.5) for group in groups)
    return [
        {"type": "rect", "x0": low, "y0": low, "x1": high, "y1": high, "line": line}
        for low, high in boxes
    ]
