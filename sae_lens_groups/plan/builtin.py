"""Registers our own rules and distances through the hooks that other packages use."""

from collections.abc import Callable

from sae_lens_groups.hookspecs import hookimpl
from sae_lens_groups.plan.each import each
from sae_lens_groups.plan.even import even
from sae_lens_groups.plan.linkage import linkage
from sae_lens_groups.plan.manual import manual
from sae_lens_groups.plan.metrics import ANGULAR, CKA, COSINE, DistanceMetric
from sae_lens_groups.plan.optimal import optimal
from sae_lens_groups.plan.rule import Partition


@hookimpl
def register_partitions(register: Callable[[str, Partition], None]) -> None:
    """Rules that need the number of layers alone, and those that go by measured distances."""
    register("each", Partition(each, takes_n_groups=False))
    register("even", Partition(even))
    register("manual", Partition(manual, takes_n_groups=False, decides_last_layer=True))
    register("linkage", Partition(linkage, needs_distances=True))
    register("auto", Partition(linkage, needs_distances=True))
    register("optimal", Partition(optimal, needs_distances=True))


@hookimpl
def register_layer_distances(register: Callable[[str, DistanceMetric], None]) -> None:
    """The angle of Group-SAE, the cosine distance, and one minus linear CKA."""
    register("angular", ANGULAR)
    register("cosine", COSINE)
    register("cka", CKA)
