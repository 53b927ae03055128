"""Of which tests the whole product of cases runs in `bash .ci/run --all` alone."""

from collections import defaultdict
from collections.abc import Iterable

import pytest

LONG_PRODUCTS = {
    "test_every_architecture_goes_on_as_it_would_have",
    "test_an_exported_layer_equals_the_aligned_group_sae",
    "test_identities_hold_for_every_architecture",
    "test_training_from_a_cache_gives_the_weights_of_training_from_the_model",
    "test_a_layer_equals_the_unscaled_group_sae_of_scaled_rows",
    "test_the_layers_of_a_group_share_their_matrices_bit_for_bit",
}
"""Elsewhere a case of them runs for each architecture."""


def name_of(item: pytest.Item) -> str:
    """The name of a test without that of its case."""
    return getattr(item, "originalname", item.name)


def mark_long_products(items: Iterable[pytest.Item]) -> None:
    """Marks of these tests all but one case for each architecture."""
    mark_long_cases([item for item in items if name_of(item) in LONG_PRODUCTS])


def mark_long_cases(items: Iterable[pytest.Item]) -> None:
    """Marks all but one case for each architecture."""
    kept = set(one_for_each_architecture(items))
    for item in items:
        if item not in kept:
            item.add_marker("long")


def one_for_each_architecture(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Of each test's cases one for each architecture; those without one all.

    Which one goes on from architecture to architecture, so that together they have every
    normalisation and whatever else there is.
    """
    chosen = list[pytest.Item]()
    cases: dict[str, dict[str, list[pytest.Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        spec = getattr(item, "callspec", None)
        architecture = None if spec is None else spec.params.get("architecture")
        if architecture is None:
            chosen.append(item)
        else:
            cases[f"{item.path}::{name_of(item)}"][architecture].append(item)
    for by_architecture in cases.values():
        chosen += [of_one[n % len(of_one)] for n, of_one in enumerate(by_architecture.values())]
    return chosen
