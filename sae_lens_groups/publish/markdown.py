"""Names from elsewhere, put into Markdown and into code so that they cannot break either."""

import json
import re
import shlex
from collections.abc import Sequence

from sae_lens_groups.files import MISSING, plain, ticks_around
from sae_lens_groups.layers import LayerGroup

# More single layers than these are drawn in one row.
_MANY_ALONE = 2
_ALONE = "one SAE each"


def words(text: str) -> str:
    """A name as text, with nothing in it that Markdown or HTML would read."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", plain(text))


def py(text: str) -> str:
    """A Python string literal with double quotes."""
    return json.dumps(text.encode(errors="replace").decode(), ensure_ascii=False)


def f_string(before: str, after: str) -> str:
    """A Python f-string with the variable `layer` between two texts."""
    before, after = (part.replace("{", "{{").replace("}", "}}") for part in (before, after))
    return f"f{py(f'{before}{{layer}}{after}')}"


def shell(text: str) -> str:
    """A word of a command line."""
    return shlex.quote(plain(text))


def fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any in it."""
    ticks = ticks_around(text, at_least=3)
    return f"{ticks}{language}\n{text.strip()}\n{ticks}\n"


def paragraph(text: str) -> str:
    """Lines of text as one line."""
    return " ".join(text.split()) + "\n"


def number(value: float | None, form: str = "%.4f") -> str:
    """A number in this form; a dash where there is none."""
    return MISSING if value is None else form % value


def numbers(layers: Sequence[int]) -> str:
    """Layers as Python: a list, or the range that they are."""
    run = range(layers[0], layers[-1] + 1)
    if len(layers) > 3 and list(layers) == list(run):
        return f"range({run.start}, {run.stop})" if run.start else f"range({run.stop})"
    return str(list(layers))


def drawing(groups: Sequence[LayerGroup]) -> str:
    """One line per group of several layers, dots at its layers; narrow cells for many layers."""
    first, last = groups[0].first, groups[-1].last
    width = 3 if last - first < 16 else 2 if last - first < 32 else 1
    alone = [group for group in groups if len(group) == 1]
    lines = [
        (group.name, list(group.layers))
        for group in groups
        if len(group) > 1 or len(alone) <= _MANY_ALONE
    ]
    if len(alone) > _MANY_ALONE:
        lines.append((_ALONE, [group.first for group in alone]))
    margin = max(len(name) for name, _ in lines) + 3
    every = {3: 1, 2: 5, 1: 10}[width]
    shown = [layer for layer in range(first, last + 1) if layer % every == 0]
    columns = [(margin + (layer - first) * width, str(layer)) for layer in shown]
    head = _row("layer", [(column - len(text) + 1, text) for column, text in columns])
    return "\n".join([head, *(_line(name, of, first, margin, width) for name, of in lines)])


def _line(name: str, layers: list[int], first: int, margin: int, width: int) -> str:
    columns = [margin + (layer - first) * width for layer in layers]
    if name == _ALONE:
        return _row(name, [(column, "●") for column in columns])
    return _row(name, [(columns[0], ("─" * (width - 1)).join("●" * len(layers)))])


def _row(name: str, parts: list[tuple[int, str]]) -> str:
    """A line with texts at columns."""
    line = name
    for column, text in parts:
        line = line.ljust(column) + text
    return line
