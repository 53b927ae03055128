"""Opens a run's `init_from` and refuses, before the model is loaded, what cannot be used."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sae_lens_groups.activations import is_same_model
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError, InitSourceError
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.saved import UNKNOWN, SAESource, named_by, open_saes
from sae_lens_groups.scaling import MEAN_NORM
from sae_lens_groups.transfer.keep import require_keepable
from sae_lens_groups.transfer.start import DIRECTIONS, require_own_layers
from sae_lens_groups.transfer.take import ENCODER
from sae_lens_groups.transfer.training_form import require_convertible


def usable_source(
    cfg: GroupSAERunnerConfig[Any], groups: Iterable[LayerGroup] | None = None
) -> SAESource | None:
    """The source that `init_from` names, checked; None where nothing is to start from it.

    Args:
        groups: those of the run, where they are known; SAEs that none of them starts from are
            not read, which are perhaps not downloaded yet.

    Raises:
        InitSourceError: there is no such source, or its SAEs cannot become those of the run.
        ConfigError: its layers are to be kept, and cannot be.
    """
    is_resumed = cfg.resume_from_checkpoint is not None
    if cfg.init_from is None or (is_resumed and not cfg.init_keep_layers):
        return None
    with named_by("init_from", InitSourceError):
        source = open_saes(cfg.init_from, groups_only=not cfg.init_keep_layers)
        template = source.manifest.hook_template
        if not template.is_same_site(cfg.hook_template):
            raise InitSourceError(
                f"init_from {cfg.init_from!r} is for {template}, and this run trains on "
                f"{cfg.hook_template}; name an SAE of the same hook"
            )
        _compare_models(cfg, source)
        sizes = {_require_fit(cfg, source, group) for group in _used_groups(cfg, source, groups)}
        _tell_of_sizes(cfg, sizes)
        if cfg.init_keep_layers:
            require_keepable(cfg, source)
    return source


def _used_groups(
    cfg: GroupSAERunnerConfig[Any], source: SAESource, groups: Iterable[LayerGroup] | None
) -> list[LayerGroup]:
    held = source.manifest
    if groups is None or cfg.init_keep_layers:
        return list(held.groups)
    groups, direction = list(groups), DIRECTIONS[cfg.init_direction]
    require_own_layers(cfg, source, groups)
    layers = (direction(held.layers, group) for group in groups)
    return sorted({held.group_of(layer) for layer in layers if layer is not None})


def _compare_models(cfg: GroupSAERunnerConfig[Any], source: SAESource) -> None:
    of_source = source.manifest.model_name
    # A local model may lie elsewhere by now.
    found, asked = (Path(name).name for name in (of_source, cfg.model_name))
    if found == UNKNOWN or is_same_model(of_source, cfg.model_name):
        return
    if source.is_whole_release:
        raise InitSourceError(
            f"init_from {cfg.init_from!r} is for the model {found!r}, and this run trains on "
            f"{asked!r}; name a release of that model, or {cfg.init_from}:* to start from this one"
        )
    if cfg.init_keep_layers:
        raise ConfigError(
            f"init_keep_layers would put SAEs of the model {found!r} beside those of {asked!r}; "
            "leave it out"
        )
    warnings.warn(
        f"init_from {cfg.init_from!r} was trained on the model {found!r}, and this run trains on "
        f"{asked!r}",
        stacklevel=3,
    )


def _tell_of_sizes(cfg: GroupSAERunnerConfig[Any], sizes: set[int]) -> None:
    asked = int(cfg.sae.d_sae)
    for found in sorted(sizes - {asked}):
        taken = (
            f"the {asked:,} features that fire most"
            if found > asked
            else f"all of them and {asked - found:,} new ones"
        )
        warnings.warn(
            f"init_from {cfg.init_from!r} has {found:,} features, and d_sae is {asked:,}: an SAE "
            f"starts with {taken}",
            stacklevel=3,
        )


def _require_fit(cfg: GroupSAERunnerConfig[Any], source: SAESource, group: LayerGroup) -> int:
    """Refuses a source's SAE that cannot become one of the run's; the number of its features."""
    which = f"the SAE of init_from {cfg.init_from!r}"
    sae = source.group(group)
    head = sae.cfg.metadata.hook_head_index if "hook_head_index" in sae.cfg.metadata else None
    if head != cfg.hook_head_index:
        raise InitSourceError(
            f"{which} has hook_head_index={head!r}, and the config asks for "
            f"{cfg.hook_head_index!r}; make them equal"
        )
    # Layers that are kept stand beside those of the run.
    require_convertible(sae, cfg.sae, which, resizes=not cfg.init_keep_layers)
    if source.scaler(group.first) is None and cfg.sae.normalize_activations != MEAN_NORM:
        raise InitSourceError(
            f"{which} takes activations scaled to a mean norm of sqrt(d_in), by a factor that it "
            "does not hold; set normalize_activations to expected_average_only_in"
        )
    if cfg.init_parameters == ENCODER and "W_enc" not in sae.state_dict():
        raise InitSourceError(
            f"{which} has no encoder of its own; set init_parameters to all or decoder"
        )
    return sae.cfg.d_sae
