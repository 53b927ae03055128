"""Of which tests the whole product of cases runs in `bash .ci/run --all` alone."""

from collections import defaultdict
from collections.abc import Iterable

import pytest

SLOW_PRODUCTS = {
    "test_every_architecture_goes_on_as_it_would_have",
    "test_an_exported_layer_equals_the_aligned_group_sae",
    "test_identities_hold_for_every_architecture",
    "test_training_from_a_cache_gives_the_weights_of_training_from_the_model",
    "test_a_layer_equals_the_unscaled_group_sae_of_scaled_rows",
    "test_the_layers_of_a_group_share_their_matrices_bit_for_bit",
    "test_a_copy_to_the_same_layer_leaves_outputs_as_they_are",
    "test_a_copy_of_an_exported_layer_leaves_outputs_as_they_are",
    "test_a_copy_of_saelens_own_checkpoint_leaves_outputs_as_they_are",
    "test_every_number_is_that_of_run_evals",
}
"""Elsewhere a case of them runs for each architecture."""
SLOW_BUT_FOR_ONE = {
    "test_the_page_shows_everything_at_any_width",
    "test_the_page_opens_for_any_number_of_layers",
    "test_the_page_shows_groups_that_were_named",
    "test_nothing_is_wider_than_the_screen",
    "test_half_used_texts_are_gone_on_with",
    "test_the_suites_own_dataset_is_known_by_its_content",
    "test_the_suites_own_dataset_is_known_however_it_is_spelled",
    "test_the_order_of_a_comparison_decides_on_signs_alone",
    "test_measured_groups_train_as_if_they_had_been_named",
    "test_the_most_used_features_are_taken_or_new_ones_added",
    "test_parts_of_prompts_are_taken_as_they_were_cached",
    "test_the_same_settings_give_the_same_weights",
    "test_a_checkpoint_goes_on_with_another_buffer_which_has_its_own_size",
    "test_both_model_classes_train_from_a_local_checkpoint",
    "test_an_encoder_alone_fires_as_its_source_does",
    "test_the_sae_of_an_image_of_its_source_is_the_image_of_the_source",
    "test_an_aligned_groups_layer_is_its_source_with_its_map",
}
"""Elsewhere the first of their cases runs."""


def name_of(item: pytest.Item) -> str:
    """The name of a test without that of its case."""
    return getattr(item, "originalname", item.name)


def mark_slow_products(items: Iterable[pytest.Item]) -> None:
    """Marks of these tests all cases but those that run elsewhere, too."""
    items = list(items)
    mark_slow_cases([item for item in items if name_of(item) in SLOW_PRODUCTS])
    seen = set[tuple[str, str]]()
    for item in items:
        if name_of(item) in SLOW_BUT_FOR_ONE:
            of = str(item.path), name_of(item)
            if of in seen:
                item.add_marker("slow")
            seen.add(of)


def mark_slow_cases(items: Iterable[pytest.Item]) -> None:
    """Marks all but one case for each architecture."""
    kept = set(one_for_each_architecture(items))
    for item in items:
        if item not in kept:
            item.add_marker("slow")


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
