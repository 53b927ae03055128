"""An evaluated suite as one HTML page that needs no network."""

import html
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

from plotly.offline import get_plotlyjs

from sae_lens_groups.evaluate.report import headline, layer_figures, training
from sae_lens_groups.evaluate.report import training as origin
from sae_lens_groups.evaluate.report.faithfulness import faithfulness
from sae_lens_groups.evaluate.report.features import feature_layers, missed_features
from sae_lens_groups.evaluate.report.layer_table import layer_table
from sae_lens_groups.evaluate.report.section import Section
from sae_lens_groups.evaluate.result import SuiteEvaluation
from sae_lens_groups.saved.training_curves import TrainingPoint
from sae_lens_groups.suite import SAESuite


def report_page(
    suite: SAESuite,
    evaluation: SuiteEvaluation,
    curves: Sequence[TrainingPoint] = (),
    commands: Sequence[str] = (),
) -> str:
    """The text of `report.html`: all that is known of a suite, most important first.

    Args:
        suite: the suite that was evaluated.
        evaluation: its scores, and whatever else was measured; what was not has no section.
        curves: the points of its training, where they were kept.
        commands: command lines that make the suite and this page again.
    """
    sections = _sections(suite, evaluation, curves, commands)
    return Template(_file("page.html")).substitute(
        model=html.escape(Path(suite.manifest.model_name).name),
        title=headline.title(suite),
        facts=html.escape(headline.facts(suite, evaluation)),
        headline=headline.headline(suite, evaluation),
        contents=" ".join(
            f'<a href="#{section.name}">{html.escape(section.title)}</a>' for section in sections
        ),
        sections="\n\n".join(section.to_html() for section in sections),
        style=_file("page.css"),
        script=_file("page.js"),
        plotly=get_plotlyjs(),
    )


def _sections(
    suite: SAESuite,
    evaluation: SuiteEvaluation,
    curves: Sequence[TrainingPoint],
    commands: Sequence[str],
) -> list[Section]:
    groups = suite.manifest.groups
    sections = [
        layer_table(evaluation),
        layer_figures.quality(groups, evaluation),
        layer_figures.cost(evaluation),
        training.training(groups, curves),
        feature_layers(evaluation.features),
        missed_features(groups, evaluation),
        faithfulness(groups, evaluation.faithfulness),
        origin.plan(suite.manifest.plan),
        training.start(suite),
        origin.reproduce(suite, commands),
    ]
    return [section for section in sections if section is not None]


def _file(name: str) -> str:
    return (
        resources.files("sae_lens_groups.evaluate.report")
        .joinpath(name)
        .read_text(encoding="utf-8")
    )
