"""A part of the page: a heading, a hint that explains what is shown, and what is shown."""

import html
from collections.abc import Mapping
from dataclasses import dataclass


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

    def to_html(self) -> str:
        """The element."""
        return (
            f'<section id="{self.name}">\n<h2>{html.escape(self.title)}</h2>\n'
            f"{hint(self.hint)}\n{self.body}\n</section>"
        )


def hint(text: str) -> str:
    """A paragraph of small print."""
    return f'<p class="hint">{html.escape(text)}</p>'


def panel(title: str, body: str) -> str:
    """One of several drawings of a section, under a title of its own."""
    return f"<div><h3>{html.escape(title)}</h3>\n{body}</div>"


def side_by_side(*panels: str) -> str:
    """As many panels in a row as the page's width has room for."""
    return f'<div class="side of-{len(panels)}">{"".join(panels)}</div>'


def terms(meanings: Mapping[str, str]) -> str:
    """A list of quantities and what each means."""
    entries = (
        f"<dt>{html.escape(term)}</dt><dd>{html.escape(meaning)}</dd>"
        for term, meaning in meanings.items()
    )
    return f'<dl class="terms">{"".join(entries)}</dl>'


def table(head: list[str], rows: list[list[str]]) -> str:
    """A small table; the first column holds names, the others numbers."""
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        '<div class="scroll"><table class="small">'
        f"<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"
    )
