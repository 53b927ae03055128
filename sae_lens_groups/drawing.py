"""How drawings get into the pages of plans and of evaluated suites."""

import plotly.graph_objects as go


def layer_step(n: int) -> int:
    """Layers between two labels of an axis, so that about a dozen fit."""
    return next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if n / step <= 16)


def embedded(figure: go.Figure, name: str) -> str:
    """A drawing as a part of a page that holds plotly, in an element with this id."""
    settings = {"displayModeBar": False, "responsive": True}
    return figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, default_width="100%", config=settings
    )
