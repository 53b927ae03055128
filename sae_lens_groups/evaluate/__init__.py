"""A suite in, a row of scores per layer and a page out."""

from sae_lens_groups.evaluate.baseline import Baseline, open_baseline
from sae_lens_groups.evaluate.circuits import TASKS, task_named
from sae_lens_groups.evaluate.report.names import public
from sae_lens_groups.evaluate.report.page import report_page
from sae_lens_groups.evaluate.report.text import evaluation_text
from sae_lens_groups.evaluate.result import SuiteEvaluation
from sae_lens_groups.evaluate.run import evaluate_suite

__all__ = [
    "TASKS",
    "Baseline",
    "SuiteEvaluation",
    "evaluate_suite",
    "evaluation_text",
    "open_baseline",
    "public",
    "report_page",
    "task_named",
]
