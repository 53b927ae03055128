"""A row per layer of a suite: its group, its scaling, and its scores where it was evaluated."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sae_lens_groups import files
from sae_lens_groups.errors import SuiteError
from sae_lens_groups.saved.manifest import SuiteManifest


def layer_table(
    manifest: SuiteManifest, layers: Sequence[int], folder: Path | None
) -> pd.DataFrame:
    """The rows of these layers."""
    hook_names = [manifest.hook_template.hook_name(layer) for layer in layers]
    if folder is not None and (folder / files.EVALUATION).is_file():
        with files.refusing(SuiteError, f"{files.EVALUATION} cannot be read", "evaluate again"):
            scores = pd.read_csv(folder / files.EVALUATION)
            return pd.DataFrame(scores[scores["hook_name"].isin(hook_names)])
    facts = {"layer": layers, "hook_name": hook_names}
    facts["group"] = [manifest.group_of(layer).name for layer in layers]
    facts["scaling_factor"] = [manifest.scaling_factors[layer] for layer in layers]
    return pd.DataFrame(facts)
