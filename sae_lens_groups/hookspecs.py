"""The hooks that a plugin can implement.

A plugin is a module or object with functions of these names, marked with
`sae_lens_groups.hookimpl`. A package joins by an entry point in the group `sae_lens_groups`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from sae_lens_groups.plan import DistanceMetric, Partition
    from sae_lens_groups.scaling import Alignment
    from sae_lens_groups.train.fast_step import SparseStep


PROJECT_NAME = "sae_lens_groups"

hookspec = pluggy.HookspecMarker(PROJECT_NAME)
hookimpl = pluggy.HookimplMarker(PROJECT_NAME)


@hookspec
def register_partitions(register: "Callable[[str, Partition], None]") -> None:
    """Add ways to split a model's layers into groups, for `layer_groups="NAME"` or `"NAME:G"`.

    Called when a name is looked up. Call `register(name, partition)` for each way.
    A name that is already taken is an error that names both plugins. Return nothing.
    """


@hookspec
def register_layer_distances(register: "Callable[[str, DistanceMetric], None]") -> None:
    """Add ways to measure how far apart layers are, for `measure_layer_distances(metric="NAME")`.

    Called when a name is looked up. Call `register(name, metric)` for each way.
    A name that is already taken is an error that names both plugins. Return nothing.
    """


@hookspec
def register_alignments(register: "Callable[[str, Alignment], None]") -> None:
    """Add ways to map a layer's activations to another's.

    For `layer_alignment="NAME"` and `init_alignment="NAME"`.

    Called when a name is looked up. Call `register(name, alignment)` for each way.
    A name that is already taken is an error that names both plugins. Return nothing.
    """


@hookspec
def register_fast_steps(register: "Callable[[str, type[SparseStep[Any]]], None]") -> None:
    """Add training steps that are faster than SAELens's, for `fast_step` `auto` and `always`.

    Called when a run is prepared. Call `register(architecture, step)` with SAELens's name of an
    architecture and a class. A name that is already taken is an error that names both plugins.
    Return nothing.
    """
