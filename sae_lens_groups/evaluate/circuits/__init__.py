"""Downstream faithfulness: do an SAE's features carry what the language model does?

Tasks with a known answer, prompts for a model's tokenizer, and curves of how much of the model's
score a few features of one layer's SAE account for.
"""

from sae_lens_groups.evaluate.circuits.measure import measure_faithfulness
from sae_lens_groups.evaluate.circuits.pairs import PromptPair
from sae_lens_groups.evaluate.circuits.report import (
    CurvePoint,
    FaithfulnessReport,
    LayerCurve,
    TaskResult,
)
from sae_lens_groups.evaluate.circuits.tasks import TASKS, CircuitTask, build_pairs, task_named
