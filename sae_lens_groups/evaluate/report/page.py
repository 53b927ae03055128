"""An evaluated suite as one HTML page that needs no network."""

from collections.abc import Sequence
from pathlib import Path

from plotly.offline import get_plotlyjs

from sae_lens_groups.evaluate.report import headline, layer_figures, training
from sae_lens_groups.evaluate.report.faithfulness import faithfulness
from sae_lens_groups.evaluate.report.features import feature_layers, missed_features
from sae_lens_groups.evaluate.report.html_table import layers_section
from sae_lens_groups.evaluate.report.section import Section
from sae_lens_groups.evaluate.report.templates import templates
from sae_lens_groups.evaluate.result import SuiteEvaluation
from sae_lens_groups.suite import SAESuite


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
    return templates.get_template("page.html").render(
        model=Path(suite.manifest.model_name).name,
        title=headline.title(suite),
        facts=headline.facts(suite, evaluation),
        faults=evaluation.faults,
        headline=headline.headline(suite, evaluation),
        sections=_sections(suite, evaluation, commands),
        plotly=get_plotlyjs(),
    )


def _sections(
    suite: SAESuite,
    evaluation: SuiteEvaluation,
    commands: Sequence[str],
) -> list[Section]:
    groups = suite.manifest.groups
    sections = [
        layers_section(evaluation),
        layer_figures.quality(groups, evaluation),
        layer_figures.cost(evaluation),
        training.training(groups, suite.training_curves),
        training.norms(suite),
        feature_layers(evaluation.features),
        missed_features(groups, evaluation),
        faithfulness(groups, evaluation.faithfulness),
        training.planned(suite.manifest.plan),
        training.start(suite),
        training.reproduce(suite, commands),
    ]
    return [section for section in sections if section is not None]
