"""The table of all layers for the model card, with what its columns mean: `layers.md`."""

from sae_lens_groups.evaluate.report.layer_table import (
    DIFFERENCES,
    SCALING,
    SCORES,
    Cell,
    Column,
    layer_columns,
)
from sae_lens_groups.evaluate.report.templates import templates
from sae_lens_groups.evaluate.result import SuiteEvaluation
from sae_lens_groups.files import MISSING
from sae_lens_groups.files import cell as as_code

_MANY_LAYERS = 24  # longer tables are folded, so that what comes after them is found
_DIFFERENCE = "\N{GREEK CAPITAL LETTER DELTA}"


def layers_markdown(evaluation: SuiteEvaluation) -> str:
    """What was measured on what, a row per layer and the means, and what the columns mean."""
    columns = _columns(evaluation)
    heads = [_DIFFERENCE if of.block == DIFFERENCES else of.name for of in columns]
    rule = ["---" if of.name == "hook_name" else "--:" for of in columns]
    rows = zip(*([_cell(of, cell) for cell in of.cells] for of in columns))
    means = [f"**{of.mean.text}**" if of.mean and of.mean.text else "" for of in columns]
    return templates.get_template("layers.md").render(
        dataset_name=evaluation.dataset_name,
        tokens=evaluation.tokens,
        rows=[heads, rule, *rows, means],
        n_layers=len(evaluation),
        is_folded=len(evaluation) > _MANY_LAYERS,
        scores=[of for of in columns if of.block == SCORES],
        difference=_DIFFERENCE,
        comparison=evaluation.comparison,
    )


def _columns(evaluation: SuiteEvaluation) -> list[Column]:
    """In the card's order: each difference beside its score, the scaling last."""
    found = layer_columns(evaluation, "card")
    is_shared = len({of.group for of in evaluation}) < len(evaluation)
    first = [of for of in found[:3] if of.name != "group" or is_shared]
    pairs = [
        of
        for score in found
        if score.block == SCORES
        for of in found
        if of.name == score.name and of.block in (SCORES, DIFFERENCES)
    ]
    return [*first, *pairs, *(of for of in found if of.block == SCALING)]


def _cell(column: Column, cell: Cell | None) -> str:
    if cell is None:
        return MISSING
    if column.name == "hook_name":
        return as_code(cell.text)
    return cell.text.removeprefix("layers_") + "\\*" * cell.is_clear
