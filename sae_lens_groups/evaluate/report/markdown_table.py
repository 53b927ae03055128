"""The table of all layers for the model card, with what its columns mean: `layers.md`."""

from collections.abc import Iterable, Sequence

from sae_lens_groups.evaluate.numbers import counted
from sae_lens_groups.evaluate.report.layer_table import (
    DIFFERENCES,
    SCALING,
    SCORES,
    Cell,
    Column,
    layer_columns,
)
from sae_lens_groups.evaluate.report.names import inline_code, public
from sae_lens_groups.evaluate.result import SuiteEvaluation

# Longer tables are folded, so that what comes after them is found.
_MANY_LAYERS = 24
_MISSING = "\N{EN DASH}"
_DIFFERENCE = "\N{GREEK CAPITAL LETTER DELTA}"


def layers_markdown(evaluation: SuiteEvaluation) -> str:
    """What was measured on what, a row per layer and the means, and what the columns mean."""
    columns = _columns(evaluation)
    parts = [_measured_on(evaluation), _table(columns), _terms(evaluation, columns)]
    return "\n\n".join(parts) + "\n"


def _columns(evaluation: SuiteEvaluation) -> list[Column]:
    """In the card's order: each difference beside its score, the scaling last."""
    found = layer_columns(evaluation, "card")
    is_shared = len({of.group for of in evaluation}) < len(evaluation)
    first = [of for of in found[:3] if of.name != "group" or is_shared]
    compared = {of.name: of for of in found if of.block == DIFFERENCES}
    scores: list[Column] = []
    for of in found:
        if of.block == SCORES:
            scores += [of, compared[of.name]] if of.name in compared else [of]
    return [*first, *scores, *(of for of in found if of.block == SCALING)]


def _table(columns: Sequence[Column]) -> str:
    heads = [_DIFFERENCE if of.block == DIFFERENCES else of.name for of in columns]
    rule = ["---" if of.name == "hook_name" else "--:" for of in columns]
    rows = zip(*([_cell(of, cell) for cell in of.cells] for of in columns), strict=True)
    means = [f"**{of.mean.text}**" if of.mean and of.mean.text else "" for of in columns]
    lines = [f"| {' | '.join(row)} |" for row in (heads, rule, *rows, means)]
    table = "\n".join(lines)
    n_layers = len(columns[0].cells)
    if n_layers <= _MANY_LAYERS:
        return table
    return f"<details open>\n<summary>{n_layers} layers</summary>\n\n{table}\n\n</details>"


def _cell(column: Column, cell: Cell | None) -> str:
    if cell is None:
        return _MISSING
    if column.name == "hook_name":
        return inline_code(cell.text) if cell.text else ""
    return cell.text.removeprefix("layers_") + "\\*" * cell.is_clear


def _terms(evaluation: SuiteEvaluation, columns: Iterable[Column]) -> str:
    lines = [f"- `{of.name}`: {of.meaning}" for of in columns if of.block == SCORES]
    if evaluation.comparison is not None:
        lines.append(
            f"- {_DIFFERENCE}: the score before it, of these SAEs minus that of the baseline "
            f"{inline_code(public(evaluation.comparison.name))} on the same text, with \\* where the 95% "
            "interval over prompts leaves out zero."
        )
    return "\n".join([*lines, "", "`evaluation.csv` has all of SAELens's metrics."])


def _measured_on(evaluation: SuiteEvaluation) -> str:
    tokens = evaluation.tokens
    return (
        "The hook name is what `SAE.from_pretrained` takes, and the layer's folder here. Scores "
        f"are SAELens's metrics, measured on {counted(tokens.n_prompts, 'prompt')} of "
        f"{tokens.context_size} tokens of {inline_code(public(evaluation.dataset_name))}."
    )
