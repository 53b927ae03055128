"""The hooks that a plugin can implement.

A plugin is a module or object with functions of these names, marked with
`sae_lens_groups.hookimpl`. A package joins by an entry point in the group `sae_lens_groups`.

Each is called when a name is looked up, calls `register(name, value)` for all that it has, and returns
nothing. A name that is already taken is an error that names both plugins.
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
    """Add ways to split a model's layers into groups, for `layer_groups="NAME"` or `"NAME:G"`."""


@hookspec
def register_layer_distances(register: "Callable[[str, DistanceMetric], None]") -> None:
    """Add ways to measure how far apart layers are, for `measure_layer_distances(metric="NAME")`."""


@hookspec
def register_alignments(register: "Callable[[str, Alignment], None]") -> None:
    """Add ways to map a layer's activations to another's, for `layer_alignment` and `init_alignment`."""


@hookspec
def register_fast_steps(register: "Callable[[str, type[SparseStep[Any]]], None]") -> None:
    """Add training steps that are faster than SAELens's, for `fast_step` `auto` and `always`.

    The name is SAELens's of an architecture, and the value a class.
    """
