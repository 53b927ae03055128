"""Names from elsewhere, put into Markdown and into code so that they cannot break either."""

import json
import re
import shlex

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
    ticks = "`" * (_longest_run_of_ticks(text) + 1)
    return f"{ticks} {text} {ticks}"


def cell(text: str) -> str:
    """A name as inline code in a table."""
    return code(text).replace("|", r"\|")  # GitHub's tables end a cell at a pipe even in code


def words(text: str) -> str:
    """A name as text, with nothing in it that Markdown or HTML would read."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", plain(text))


def string(text: str) -> str:
    """A Python string literal with double quotes."""
    return json.dumps(text.encode(errors="replace").decode(), ensure_ascii=False)


def f_string(before: str, name: str, after: str) -> str:
    """A Python f-string with one variable in it."""
    before, after = (part.replace("{", "{{").replace("}", "}}") for part in (before, after))
    return f"f{string(f'{before}{{{name}}}{after}')}"


def shell(text: str) -> str:
    """A word of a command line."""
    return shlex.quote(plain(text))


def fenced(language: str, text: str) -> str:
    """A code block whose fence is longer than any in it."""
    ticks = "`" * max(3, _longest_run_of_ticks(text) + 1)
    return f"{ticks}{language}\n{text.strip()}\n{ticks}"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the cells are taken as they are. Columns of names stand left, others right."""
    rule = ["---" if any("`" in row[n] for row in rows) else "--:" for n in range(len(heads))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, rule, *rows])


def _longest_run_of_ticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
