"""Our own choices, registered through the same hooks that other packages use."""

from collections.abc import Callable

from sae_lens_groups.hookspecs import hookimpl
from sae_lens_groups.partitions import Partition, each, even


@hookimpl
def register_partitions(register: Callable[[str, Partition], None]) -> None:
    """One SAE per layer, and runs of near-equal length."""
    register("each", each)
    register("even", even)
