"""The plugin manager: collects what our own modules and other packages register."""

from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pluggy

from sae_lens_groups import hookspecs
from sae_lens_groups.errors import ConfigError
from sae_lens_groups.hookspecs import PROJECT_NAME

if TYPE_CHECKING:
    from sae_lens_groups.plan import DistanceMetric, Partition
    from sae_lens_groups.scaling import Alignment
    from sae_lens_groups.train.fast_step import SparseStep

DEFAULT_PLUGINS = (
    "sae_lens_groups.plan.builtin",
    "sae_lens_groups.scaling.builtin",
    "sae_lens_groups.train.fast_step.builtin",
)
"""Modules with our own choices, which come through the same hooks as those of other packages."""


@dataclass(frozen=True)
class Registration:
    """One name that a plugin registered."""

    hook: str
    """The hook it came through, such as `register_partitions`."""
    name: str
    plugin: str
    """The plugin's name: its entry point; `sae_lens_groups` for our own."""
    value: Any = field(repr=False, compare=False)
    """What it registered."""


@cache
def plugin_manager() -> pluggy.PluginManager:
    """The one plugin manager of this process, with installed plugins loaded."""
    manager = pluggy.PluginManager(PROJECT_NAME)
    manager.add_hookspecs(hookspecs)
    for module in DEFAULT_PLUGINS:
        manager.register(import_module(module), name=module)
    manager.load_setuptools_entrypoints(PROJECT_NAME)
    return manager


def partitions() -> "dict[str, Partition]":
    """All registered partitions by name."""
    return _values("register_partitions")


def distance_metrics() -> "dict[str, DistanceMetric]":
    """All registered distances between layers by name."""
    return _values("register_layer_distances")


def alignments() -> "dict[str, Alignment]":
    """All registered maps between layers by name."""
    return _values("register_alignments")


def fast_steps() -> "dict[str, type[SparseStep[Any]]]":
    """All registered training steps by architecture."""
    return _values("register_fast_steps")


def registrations() -> list[Registration]:
    """Everything that plugins registered, sorted by hook and name."""
    return sorted(
        (entry for hook in _hook_names() for entry in _collect(hook).values()),
        key=lambda entry: (entry.hook, entry.name),
    )


def _hook_names() -> list[str]:
    return [name for name in vars(hookspecs) if name.startswith("register_")]


def _values(hook: str) -> dict[str, Any]:
    return {name: entry.value for name, entry in _collect(hook).items()}


def _collect(hook: str) -> dict[str, Registration]:
    """What is registered through one hook by name, asked plugin by plugin to know who did."""
    found: dict[str, Registration] = {}
    manager = plugin_manager()
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        plugin = manager.get_name(implementation.plugin) or implementation.plugin_name
        plugin = PROJECT_NAME if plugin in DEFAULT_PLUGINS else plugin
        implementation.function(register=partial(_register, found, hook, plugin))
    return found


def _register(
    found: dict[str, Registration], hook: str, plugin: str, name: str, value: Any
) -> None:
    if name in found:
        raise ConfigError(
            f"plugins {found[name].plugin!r} and {plugin!r} both register {name!r} through "
            f"{hook}; uninstall one of them"
        )
    found[name] = Registration(hook, name, plugin, value)
