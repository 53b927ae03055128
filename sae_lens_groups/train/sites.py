"""The sites that a sweep names: hooks of different width, each with groups of its own."""

import copy
from pathlib import Path
from typing import Any

from transformer_lens import HookedRootModule

from sae_lens_groups.activations import known_width, require_hooks, width_at
from sae_lens_groups.config import NEWEST, GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError
from sae_lens_groups.files import without_run_id
from sae_lens_groups.layers import LayerGroup, layer_in
from sae_lens_groups.train.ranks.world import n_processes
from sae_lens_groups.train.sweep import all_changes, site_name, site_of


def sites_of(
    cfg: GroupSAERunnerConfig[Any], model: HookedRootModule | None = None
) -> list[GroupSAERunnerConfig[Any]]:
    """The config of each site's part of a sweep.

    Args:
        model: where the widths of hooks are found; without it in the model's configuration.

    Raises:
        ConfigError: the sweep has no meaning, or several sites cannot be trained as the config says.
    """
    changes = list(all_changes(cfg).values())
    keys = dict.fromkeys(site_of(cfg, of_one) for of_one in changes)
    if len(keys) == 1:
        return [_at_hook(cfg, changes[0], model)]
    if reason := _why_not(cfg):
        raise ConfigError(f"with several sites in sweep, {reason}")
    found = []
    for key in keys:
        of_site = [of_one for of_one in changes if site_of(cfg, of_one) == key]
        own = _at_hook(cfg, of_site[0], model)
        own.sweep = [*of_site]
        own.checkpoint_path = _checkpoint_path(cfg, site_name(of_site[0]))
        found.append(own)
    return found


def _at_hook(
    cfg: GroupSAERunnerConfig[Any], changes: dict[str, Any], model: HookedRootModule | None
) -> GroupSAERunnerConfig[Any]:
    """The config with the hook of a setting and its width."""
    own = copy.copy(cfg)
    own.hook_name = changes.get("hook_name", cfg.hook_name)
    own.hook_head_index = changes.get("hook_head_index", cfg.hook_head_index)
    if site_of(own, {}) != site_of(cfg, {}):
        own.sae = copy.deepcopy(cfg.sae)
        own.sae.d_in = _width(own, model)
    return own


def _checkpoint_path(cfg: GroupSAERunnerConfig[Any], site: str) -> str | None:
    """Of the site's run, in a folder of the site's runs, so that `auto` finds the newest of them."""
    base = without_run_id(cfg.checkpoint_path, cfg.logger.wandb_id)
    if base is None or cfg.checkpoint_path is None:
        return None
    return str(Path(base) / site / Path(cfg.checkpoint_path).name)


def _width(cfg: GroupSAERunnerConfig[Any], model: HookedRootModule | None) -> int:
    if model is not None:
        layer = layer_in(cfg.hook_name)
        require_hooks(model, cfg.hook_template, [LayerGroup(layer, layer)])
        return width_at(model, cfg.hook_name, cfg.hook_head_index)
    return known_width(cfg)


def _why_not(cfg: GroupSAERunnerConfig[Any]) -> str | None:
    for name in ("use_cached_activations", "prefetch_llm_batches", "compile_llm"):
        if getattr(cfg, name):
            return f"{name} is not supported; leave it out, or train the sites one by one"
    if n_processes() > 1:
        return "there can be one process only; start it without torchrun"
    if cfg.resume_from_checkpoint not in (None, NEWEST):
        return "resume_from_checkpoint has to be auto, as each site has checkpoints of its own"
    return None
