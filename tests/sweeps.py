"""Sweep folders for tests: tiny suites trained one by one, and the index beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_lens_groups import GroupSAETrainingRunner
from sae_lens_groups.saved import SettingValue, SweepIndex, SweepSetting, write_sweep_index

from .tiny import group_config, make_model, make_tokens, sae_config

OF_THE_SAE = {"k", "d_sae", "architecture"}


def trained_sweep(
    folder: Path, settings: Mapping[str, Mapping[str, SettingValue]], **common: Any
) -> Path:
    """A sweep of topk SAEs on the random model, with these changes by the suites' names."""
    folder.mkdir(parents=True)
    tokens, model = make_tokens(), make_model()
    for name, changes in settings.items():
        of_sae: dict[str, Any] = {key: v for key, v in changes.items() if key in OF_THE_SAE}
        others = {key: v for key, v in changes.items() if key not in OF_THE_SAE}
        cfg = group_config(
            sae=sae_config(**of_sae), output_path=str(folder / name), **{**others, **common}
        )
        GroupSAETrainingRunner(cfg, tokens, model).run()
    write_sweep_index(folder, index_of(settings))
    return folder


def index_of(settings: Mapping[str, Mapping[str, SettingValue]]) -> SweepIndex:
    return SweepIndex(
        settings=tuple(SweepSetting(name=name, changes=of) for name, of in settings.items())
    )
