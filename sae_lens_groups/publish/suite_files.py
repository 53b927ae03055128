"""Which files a suite consists of, wherever they lie."""

import re

from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME

from sae_lens_groups import files
from sae_lens_groups.manifest import SuiteManifest

ALL_RESULTS = "all_eval_results"
OF_A_LAYER = (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME)
BESIDE_THE_LAYERS = (files.RUNNER_CFG, files.CURVES, files.EVALUATION, files.REPORT)
_TABLES = (
    *(files.FEATURE_LAYERS, files.MISSED_FEATURES, files.FAITHFULNESS),
    *(f"{ALL_RESULTS}.csv", f"{ALL_RESULTS}.json"),
)
_OF_A_GROUP = re.compile(
    rf"(?:{re.escape(SAE_CFG_FILENAME)}|{re.escape(SAE_WEIGHTS_FILENAME)}"
    rf"|layer_\d+/(?:{re.escape(files.SCALER)}|{re.escape(files.WHITENING)}|{re.escape(files.ALIGNMENT)}))"
)


def is_of_suite(path: str, manifest: SuiteManifest) -> bool:
    """Whether a file is one that a suite of these layers and groups has, rather than anybody's."""
    folder, _, name = path.partition("/")
    if not name:
        return path in (files.SUITE, files.CHECKSUMS, *BESIDE_THE_LAYERS)
    if folder == files.EVALUATION_FOLDER:
        return is_of_evaluation(name, manifest)
    if folder == files.GROUPS:
        group, _, name = name.partition("/")
        names = [group.name for group in manifest.groups]
        return group in names and _OF_A_GROUP.fullmatch(name) is not None
    return folder in manifest.hook_names and name in OF_A_LAYER


def is_of_evaluation(name: str, manifest: SuiteManifest) -> bool:
    """Whether a file in `evaluation/` is one that our evaluation wrote."""
    hooks = "|".join(map(re.escape, manifest.hook_names))
    return name in _TABLES or bool(re.fullmatch(rf"[^./][^/]*-(?:{hooks})_\d+_[^/]*\.json", name))
