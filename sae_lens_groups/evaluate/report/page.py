"""An evaluated suite as one HTML page that needs no network."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from sae_lens_groups.evaluate.metrics import compared_in, shown_in
from sae_lens_groups.evaluate.numbers import as_given
from sae_lens_groups.evaluate.report import layer_figures, training
from sae_lens_groups.evaluate.report.faithfulness import faithfulness
from sae_lens_groups.evaluate.report.features import feature_layers, missed_features
from sae_lens_groups.evaluate.report.layer_table import SCALING, SCORES, layer_columns
from sae_lens_groups.evaluate.report.templates import templates
from sae_lens_groups.evaluate.result import SuiteEvaluation
from sae_lens_groups.layers import LayerGroup, format_layer_groups, saes_for_layers
from sae_lens_groups.suite import SAESuite

_JUDGED = (
    "This suite minus the baseline, with the 95% interval from drawing the prompts anew 1000 "
    "times, the same for both. \N{BLACK UP-POINTING TRIANGLE} better and "
    "\N{BLACK DOWN-POINTING TRIANGLE} worse, where the interval leaves out zero."
)


def report_page(
    suite: SAESuite,
    evaluation: SuiteEvaluation,
    commands: Sequence[str] = (),
) -> str:
    """The text of `report.html`: all that is known of a suite, most important first.

    `evaluate_suite` writes it for a suite that has a folder.

    Args:
        suite: the suite that was evaluated.
        evaluation: its scores, and whatever else was measured; what was not has no section.
        commands: command lines that make the suite and this page again.
    """
    groups = suite.manifest.groups
    shown = {
        "layer_scores": _layer_scores(evaluation),
        "quality": layer_figures.quality(groups, evaluation),
        "cost": layer_figures.cost(evaluation),
        "training": training.training(groups, suite.training_curves),
        "norms": training.norms(suite),
        "feature_layers": feature_layers(evaluation.features),
        "missed_features": missed_features(groups, evaluation),
        "faithfulness": faithfulness(groups, evaluation.faithfulness),
        "plan": training.planned(suite.manifest.plan),
        "start": training.start(suite),
        "reproduce": training.reproduce(suite, commands),
    }
    return templates.get_template("page.html").render(
        model=Path(suite.manifest.model_name).name,
        title=saes_for_layers(groups),
        hook=suite.manifest.hook_template,
        sae=suite.layer(suite.manifest.layers[0]).cfg,
        tokens=evaluation.tokens,
        dataset_name=evaluation.dataset_name,
        faults=evaluation.faults,
        top=_headline(groups, evaluation),
        shown=shown,
        plotly=get_plotlyjs(),
    )


def _layer_scores(evaluation: SuiteEvaluation) -> dict[str, Any]:
    """A row per layer and the means, with the differences to the baseline where there is one."""
    found = layer_columns(evaluation, "page")
    columns = [of for of in found if of.name != "hook_name" and of.block != SCALING]
    judged = {} if evaluation.comparison is None else {"difference": _JUDGED}
    scores = {of.title: of.meaning for of in columns if of.meaning and of.block == SCORES}
    others = {of.title: of.meaning for of in columns if of.meaning and of.title not in scores}
    return {
        "columns": columns,
        "rows": list(zip(*(of.cells for of in columns))),
        "blocks": Counter(of.block for of in columns),
        "meanings": scores | judged | others,
    }


def _headline(groups: Sequence[LayerGroup], evaluation: SuiteEvaluation) -> dict[str, Any]:
    """The groups as a bar of layers, the means of all layers, and what the saving costs."""
    comparison = evaluation.comparison
    differences = {} if comparison is None else comparison.mean_differences
    trained = {} if comparison is None else comparison.trained
    return {
        "boxes": _boxes(groups),
        "means": [(of, evaluation.mean(of.name)) for of in shown_in("headline")],
        "costs": evaluation.costs,
        "comparison": comparison,
        "differences": [
            (of.label, differences[of.name]) for of in compared_in("headline") if differences
        ],
        "trained": [[name, *map(as_given, both)] for name, both in trained.items()],
        "layer_groups": format_layer_groups(groups),
    }


def _boxes(groups: Sequence[LayerGroup]) -> list[tuple[str, int]]:
    """The groups' names and widths and, without a name, the layers left out between them."""
    boxes = [(str(groups[0]), len(groups[0]))]
    for below, group in pairwise(groups):
        n_left_out = group.first - below.last - 1
        boxes += [("", n_left_out)] if n_left_out else []
        boxes.append((str(group), len(group)))
    return boxes
