"""The plugin manager: collects what our own modules and other packages register."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
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
    return _collect("register_partitions")[0]


def distance_metrics() -> "dict[str, DistanceMetric]":
    """All registered distances between layers by name."""
    return _collect("register_layer_distances")[0]


def alignments() -> "dict[str, Alignment]":
    """All registered maps between layers by name."""
    return _collect("register_alignments")[0]


def fast_steps() -> "dict[str, type[SparseStep[Any]]]":
    """All registered training steps by architecture."""
    return _collect("register_fast_steps")[0]


def registrations() -> list[Registration]:
    """Everything that plugins registered, sorted by hook and name."""
    return sorted(
        (entry for hook in _hook_names() for entry in _collect(hook)[1]),
        key=lambda entry: (entry.hook, entry.name),
    )


def _hook_names() -> list[str]:
    return [name for name in vars(hookspecs) if name.startswith("register_")]


def _collect(hook: str) -> tuple[dict[str, Any], list[Registration]]:
    """What each plugin registers through one hook, asked plugin by plugin to know who did."""
    found: dict[str, Any] = {}
    entries: dict[str, Registration] = {}
    manager = plugin_manager()
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        plugin = manager.get_name(implementation.plugin) or implementation.plugin_name
        plugin = PROJECT_NAME if plugin in DEFAULT_PLUGINS else plugin
        implementation.function(register=_registrar(hook, plugin, found, entries))
    return found, list(entries.values())


def _registrar(
    hook: str, plugin: str, found: dict[str, Any], entries: dict[str, Registration]
) -> Callable[[str, Any], None]:
    def register(name: str, value: Any) -> None:
        if name in found:
            raise ConfigError(
                f"plugins {entries[name].plugin!r} and {plugin!r} both register {name!r} through "
                f"{hook}; uninstall one of them"
            )
        found[name] = value
        entries[name] = Registration(hook, name, plugin)

    return register
