"""What cannot be evaluated, refused before any work is done."""

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sae_lens import SAE
from sae_lens.saes.sae import SAEMetadata
from transformer_lens import HookedRootModule

from sae_lens_groups.activations import is_same_model, require_hooks, require_width
from sae_lens_groups.errors import OutputFolderError, SuiteError
from sae_lens_groups.evaluate.baseline import Baseline
from sae_lens_groups.saved import UNKNOWN, is_groups_own
from sae_lens_groups.scaling import ESTIMATED_MODES
from sae_lens_groups.suite import SAESuite


def require_evaluable(suite: SAESuite, model: HookedRootModule) -> None:
    """Refuses a damaged suite, a folder that cannot take the results, and a model that does not fit."""
    suite.require_whole("an evaluation")
    if suite.path is not None and not os.access(suite.path, os.W_OK):
        raise OutputFolderError(
            f"{str(suite.path)!r} cannot be written to, and the results would be lost; make it "
            "writable, or evaluate a copy (SAESuite.save writes one)"
        )
    require_hooks(model, suite.manifest.hook_template, suite.manifest.groups)
    hook_name, sae = next(iter(suite.items()))
    require_width(model, hook_name, sae.cfg.metadata.hook_head_index, sae.cfg.d_in)


def with_baseline(
    suite: SAESuite, given: Baseline | Mapping[str, SAE[Any]] | str | Path | None
) -> tuple[Baseline | None, dict[str, SAE[Any]]]:
    """What is known of the baseline, and its SAEs for the suite's layers, by the suite's hook names.

    Raises:
        SuiteError: it has none, or they take other activations.
    """
    if given is None:
        return None, {}
    baseline = Baseline.of(given).named_as(suite.manifest.hook_template)
    shared = {name: baseline.saes[name] for name in suite if name in baseline.saes}
    if not shared:
        raise SuiteError(
            f"the baseline {baseline.name!r} has no layer in common with the suite: it has SAEs "
            f"for {', '.join(list(baseline.saes)[:4])}, and the suite for "
            f"{', '.join(list(suite)[:4])}; give one of the same model and hook"
        )
    source = baseline.saes.source if isinstance(baseline.saes, SAESuite) else None
    if source is not None and source.is_whole_release:
        names = [of.manifest.model_name for of in (source, suite)]
        if UNKNOWN not in names and not is_same_model(*names):
            raise SuiteError(
                f"the baseline {baseline.name!r} is for the model {names[0]!r}, and the suite for "
                f"{names[1]!r}; name a release of that model, or {baseline.name}:* to compare with it"
            )
    for name, sae in shared.items():
        _require_comparable(baseline.name, name, suite[name], sae)
    return baseline, shared


def warn_of_training_text(suites: Iterable[Baseline], given: str) -> None:
    """Says where scores are not of held-out text: `given` is a fingerprint of the dataset."""
    for of in suites:
        if of.dataset_rows_read and of.dataset.fingerprint == given:
            warnings.warn(
                f"{of.name!r} was trained on the first {of.dataset_rows_read:,} rows of this dataset, "
                f"so its scores may be too good; give dataset.skip({of.dataset_rows_read}), or other text",
                stacklevel=4,
            )


def metadata_of_both(
    suite: SAESuite,
    baseline: Baseline | None,
    shared: Mapping[str, SAE[Any]],
    model: HookedRootModule,
) -> dict[str, list[SAEMetadata]]:
    """By hook name, what the SAEs there say of the tokens that they were trained on.

    Also at the baseline's other layers, where a token may have been left out for its norm.
    """
    found = {name: [sae.cfg.metadata] for name, sae in suite.items()}
    if baseline is None:
        return found
    for name in baseline.saes:
        if name in shared:
            found[name].append(shared[name].cfg.metadata)
        elif name in model.hook_dict:
            found[name] = [baseline.metadata(name)]
    return found


def _require_comparable(baseline: str, hook_name: str, ours: SAE[Any], theirs: SAE[Any]) -> None:
    """Refuses an SAE of the baseline that does not take the same activations as the suite's."""
    if theirs.cfg.d_in != ours.cfg.d_in:
        raise SuiteError(
            f"the baseline {baseline!r} takes activations of width {theirs.cfg.d_in} at "
            f"{hook_name}, and the suite {ours.cfg.d_in}; give one of the same model"
        )
    heads = [sae.cfg.metadata.hook_head_index for sae in (ours, theirs)]
    if heads[0] != heads[1]:
        raise SuiteError(
            f"the baseline {baseline!r} has hook_head_index {heads[1]} at {hook_name}, and the "
            f"suite {heads[0]}; give one of the same head"
        )
    if theirs.cfg.normalize_activations in ESTIMATED_MODES or is_groups_own(theirs):
        raise SuiteError(
            f"the baseline {baseline!r} has an SAE for scaled activations at {hook_name}, without "
            "their scaling; give a suite, or SAEs that have it folded in"
        )
