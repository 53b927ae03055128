"""A part of the page: a heading, a hint that explains what is shown, and what is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

templates = Environment(
    loader=PackageLoader("sae_lens_groups.evaluate", "report"),
    autoescape=True,
    undefined=StrictUndefined,
)
_parts: Any = templates.get_template("parts.html").module


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


def hint(text: str) -> Markup:
    """A paragraph of small print."""
    return _parts.hint(text)


def panel(title: str, body: str) -> Markup:
    """One of several drawings of a section, under a title of its own."""
    return _parts.panel(title, body)


def side_by_side(*panels: str) -> Markup:
    """As many panels in a row as the page's width has room for."""
    return _parts.side_by_side(panels)


def terms(meanings: Mapping[str, str]) -> Markup:
    """A list of quantities and what each means."""
    return _parts.terms(meanings)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A small table; the first column holds names, the others numbers."""
    return _parts.table(head, rows)


def bar(boxes: Sequence[Mapping[str, Any]]) -> Markup:
    """Groups as boxes as wide as they have layers, with gaps where layers were left out."""
    return _parts.bar(boxes)


def layer_scores(columns: Sequence[Any], blocks: Mapping[str, int]) -> Markup:
    """The table of all layers, under headings that span blocks of columns."""
    return _parts.layers(columns, list(zip(*(of.cells for of in columns))), blocks)
