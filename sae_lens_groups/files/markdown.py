"""Names from elsewhere in the Markdown files that a suite has, so that they cannot break these."""

import re

MISSING = "\N{EN DASH}"


def plain(text: str) -> str:
    """A name on one line: whitespace and what cannot be printed become single spaces."""
    encodable = text.encode(errors="replace").decode()  # JSON can hold halves of surrogate pairs
    return " ".join("".join(c if c.isprintable() else " " for c in encodable).split())


def code(text: str) -> str:
    """A name as inline code."""
    text = plain(text)
    if not text:
        return MISSING
    if "`" not in text:
        return f"`{text}`"
    ticks = ticks_around(text)
    return f"{ticks} {text} {ticks}"


def cell(text: str) -> str:
    """A name as inline code in a table."""
    return code(text).replace("|", r"\|")  # GitHub's tables end a cell at a pipe even in code


def ticks_around(text: str, at_least: int = 1) -> str:
    """As many ticks as it takes to be more than any run of them in a text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    return "`" * max(at_least, longest + 1)
