"""A part of the page: a heading, a hint that explains what is shown, and what is shown."""

from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from sae_lens_groups.evaluate.report.templates import templates
from sae_lens_groups.plan import embedded

parts: Any = templates.get_template("parts.html").module
"""The macros of `parts.html`: HTML of what they are given."""


@dataclass(frozen=True)
class Section:
    """One part of the page, and its entry in the list of contents."""

    name: str
    """What links to it: the id of its element, a word of this package."""
    title: str
    hint: str
    """Plain text: how to read what is shown, for one who has not read the papers."""
    body: str
    """HTML."""


def drawings(*drawn: tuple[str, str, go.Figure]) -> str:
    """(title, id, drawing) each, as many in a row as the page's width has room for."""
    return parts.side_by_side(
        [(title[0].upper() + title[1:], embedded(figure, name)) for title, name, figure in drawn]
    )
