"""A suite in, a row of scores per layer and a page out."""

from sae_lens_groups.evaluate.baseline import Baseline, open_baseline
from sae_lens_groups.evaluate.checks import metadata_of_both, require_evaluable, with_baseline
from sae_lens_groups.evaluate.choice.page import sweep_page
from sae_lens_groups.evaluate.choice.result import SweepEvaluation
from sae_lens_groups.evaluate.choice.run import OpenedSweep, evaluate_sweep
from sae_lens_groups.evaluate.choice.text import sweep_text
from sae_lens_groups.evaluate.circuits import TASKS, task_named
from sae_lens_groups.evaluate.features import FeatureLayers
from sae_lens_groups.evaluate.outliers import Outliers
from sae_lens_groups.evaluate.report.names import public
from sae_lens_groups.evaluate.report.page import report_page
from sae_lens_groups.evaluate.report.text import evaluation_text
from sae_lens_groups.evaluate.result import SuiteEvaluation
from sae_lens_groups.evaluate.run import evaluate_suite
from sae_lens_groups.evaluate.tokens import as_in_training, lm_batches, token_store

__all__ = [
    "TASKS",
    "Baseline",
    "FeatureLayers",
    "OpenedSweep",
    "Outliers",
    "SuiteEvaluation",
    "SweepEvaluation",
    "as_in_training",
    "evaluate_suite",
    "evaluate_sweep",
    "evaluation_text",
    "lm_batches",
    "metadata_of_both",
    "open_baseline",
    "public",
    "report_page",
    "require_evaluable",
    "sweep_page",
    "sweep_text",
    "task_named",
    "token_store",
    "with_baseline",
]
