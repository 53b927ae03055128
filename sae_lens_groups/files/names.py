"""The names of files and folders: the one place that knows them."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

SUITE = "suite.json"
GROUPS = "groups"
PLAN = "plan.json"
PLAN_PAGE = "plan.html"
PLAN_PICTURE = "plan.png"
EVALUATION = "evaluation.csv"
EVALUATION_FOLDER = "evaluation"
FEATURE_LAYERS = "feature_layers.csv"
MISSED_FEATURES = "missed_features.csv"
FAITHFULNESS = "faithfulness.csv"
LAYER_TABLE = "layers.md"
REPORT = "report.html"
CARD = "README.md"
CURVES = "training_curves.csv"
TRANSFER = "transfer.json"
CACHE = "cached_activations.json"
CHECKSUMS = "checksums.json"
CHECKPOINT = "checkpoint.json"
# SAELens's names, written out because importing SAELens takes seconds.
RUNNER_CFG = "runner_cfg.json"
SAE_CFG = "cfg.json"
SAE_WEIGHTS = "sae_weights.safetensors"
SPARSITY = "sparsity.safetensors"
SCALER = "activation_scaler.json"
TRAINER_STATE = "trainer_state.pt"
SHUFFLE_BUFFER = "shuffle_buffer.safetensors"
STEP_STATE = "step_state.safetensors"
LAYER_STATISTICS = "layer_statistics.safetensors"
WHITENING = "activation_whitening.safetensors"
ALIGNMENT = "alignment.safetensors"


def layer_scaler_folder(layer: int) -> str:
    """Where a checkpoint keeps one layer's scaler, inside its group's folder."""
    return f"layer_{layer}"


# Written anew by every evaluation, or edited by people.
_REWRITTEN = (EVALUATION, REPORT, CARD, CHECKSUMS)

IF_OWN = f"; if you changed it yourself, delete {CHECKSUMS}"


def is_covered(name: str) -> bool:
    """Whether a file of a suite never changes once it is written, so that it has a checksum."""
    return name not in _REWRITTEN and PurePosixPath(name).parts[0] != EVALUATION_FOLDER


ALL_RESULTS = "all_eval_results"
OF_A_LAYER = (SAE_CFG, SAE_WEIGHTS, SPARSITY)
BESIDE_THE_LAYERS = (RUNNER_CFG, CURVES, EVALUATION, REPORT)
_TABLES = (
    *(FEATURE_LAYERS, MISSED_FEATURES, FAITHFULNESS, LAYER_TABLE),
    *(f"{ALL_RESULTS}.csv", f"{ALL_RESULTS}.json"),
)

OF_A_GROUP = re.compile(
    rf"(?:{re.escape(SAE_CFG)}|{re.escape(SAE_WEIGHTS)}"
    rf"|layer_\d+/(?:{re.escape(SCALER)}|{re.escape(WHITENING)}|{re.escape(ALIGNMENT)}))"
)


def is_of_evaluation(name: str, hook_names: Iterable[str]) -> bool:
    """Whether a file in `evaluation/` is one that our evaluation wrote."""
    hooks = "|".join(map(re.escape, hook_names))
    return name in _TABLES or bool(re.fullmatch(rf"[^./][^/]*-(?:{hooks})_\d+_[^/]*\.json", name))
