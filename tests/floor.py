"""Which tests depend on the version of SAELens, and are run with the oldest one, too."""

import re
from collections import defaultdict
from collections.abc import Iterable

import pytest

_TOUCHES_SAELENS = re.compile(
    r"\b(sae_lens|GroupSAETrainingRunner|SAESuite|cache_activations|evaluate_suite|group_config)\b"
)
_SAME_WITH_ANY_SAELENS = {
    # They take a suite that a run wrote, and look at what becomes of it afterwards.
    *("test_publish", "test_report", "test_model_card", "test_public_files"),
    # What is refused before SAELens comes to see it. Its own flags are in test_cli.
    *("test_damaged_suite", "test_fuzz", "test_fuzz_cache", "test_fuzz_command_line"),
    # Numbers of ours, from activations that test_store, test_plan and test_evaluation read with it.
    *("test_distances", "test_evaluate_command", "test_plan_command"),
    *("test_trained_features_carry_the_answer", "test_outliers", "test_older_saelens_schema"),
    # Of the dataset's rows alone.
    *("test_half_used_texts_are_gone_on_with", "test_pretokenised_folders_train"),
}
"""Files and tests."""


def depending_on_saelens(items: Iterable[pytest.Item]) -> Iterable[pytest.Item]:
    """The tests of files that train, load or evaluate SAEs with SAELens.

    Of a test's cases one for each architecture. Which one goes on from architecture to
    architecture, so that together they have every normalisation and whatever else there is.
    """
    touching = {
        path
        for path in {item.path for item in items}
        if path.stem not in _SAME_WITH_ANY_SAELENS and _TOUCHES_SAELENS.search(path.read_text())
    }
    cases: dict[str, dict[str, list[pytest.Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        name = getattr(item, "originalname", item.name)
        if item.path not in touching or name in _SAME_WITH_ANY_SAELENS:
            continue
        spec = getattr(item, "callspec", None)
        architecture = None if spec is None else spec.params.get("architecture")
        if architecture is None:
            yield item
        else:
            cases[f"{item.path}::{name}"][architecture].append(item)
    for by_architecture in cases.values():
        for n, of_one in enumerate(by_architecture.values()):
            yield of_one[n % len(of_one)]
