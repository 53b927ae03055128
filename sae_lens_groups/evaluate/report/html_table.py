"""The page's table of all layers, which the page's script sorts by any column."""

from collections import Counter

from sae_lens_groups.evaluate.report.layer_table import SCALING, SCORES, layer_columns
from sae_lens_groups.evaluate.report.section import Section, parts
from sae_lens_groups.evaluate.result import SuiteEvaluation

_JUDGED = (
    "This suite minus the baseline, with the 95% interval from drawing the prompts anew 1000 "
    "times, the same for both. \N{BLACK UP-POINTING TRIANGLE} better and "
    "\N{BLACK DOWN-POINTING TRIANGLE} worse, where the interval leaves out zero."
)


def layers_section(evaluation: SuiteEvaluation) -> Section:
    """A row per layer and the means, with the differences to the baseline where there is one."""
    found = layer_columns(evaluation, "page")
    columns = [of for of in found if of.name != "hook_name" and of.block != SCALING]
    judged = {} if evaluation.comparison is None else {"difference": _JUDGED}
    scores = {of.title: of.meaning for of in columns if of.meaning and of.block == SCORES}
    others = {of.title: of.meaning for of in columns if of.meaning and of.title not in scores}
    rows = list(zip(*(of.cells for of in columns)))
    table = parts.layers(columns, rows, Counter(of.block for of in columns))
    return Section(
        "layer_scores",
        "Every layer",
        "Click a heading to sort; what the columns mean stands below. evaluation.csv, beside this "
        "page, has all of SAELens's metrics.",
        f"{table}\n{parts.terms(scores | judged | others)}",
    )
