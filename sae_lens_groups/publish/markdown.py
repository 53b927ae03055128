"""Names from elsewhere, put into Markdown and into code so that they cannot break either."""

import json
import re
import shlex
from collections.abc import Sequence

from sae_lens_groups.files import MISSING, plain, ticks_around
from sae_lens_groups.layers import LayerGroup

# More single layers than these are drawn in one row.
_MANY_ALONE = 2


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
    every = range(groups[0].first, groups[-1].last + 1)
    width, labelled = (3, 1) if len(every) <= 16 else (2, 5) if len(every) <= 32 else (1, 10)
    alone = [group.first for group in groups if len(group) == 1]
    rows: list[tuple[str, Sequence[int], str]] = [
        (group.name, group.layers, "─")
        for group in groups
        if len(group) > 1 or len(alone) <= _MANY_ALONE
    ]
    if len(alone) > _MANY_ALONE:
        rows.append(("one SAE each", alone, " "))
    margin = max(len(name) for name, *_ in rows) + 3
    head = "layer"
    for layer in every:
        if layer % labelled == 0:  # the number ends above the dot
            column = margin + (layer - every[0]) * width
            head = head.ljust(column + 1 - len(str(layer))) + str(layer)
    lines = [
        name.ljust(margin) + "".join(_cell(layer, of, joint, width) for layer in every)
        for name, of, joint in rows
    ]
    return "\n".join([head, *map(str.rstrip, lines)])


def _cell(layer: int, layers: Sequence[int], joint: str, width: int) -> str:
    if layer not in layers:
        return " " * width
    return "●" + (joint if layer < layers[-1] else " ") * (width - 1)
