"""Which tests run with the oldest SAELens, too.

Those with the mark `seam`, in which SAELens does something that may differ between its versions: of
their cases one for each architecture. `bash .ci/run --all` runs every test that comes near SAELens.
"""

import re
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import pytest

from . import products

_TOUCHES_SAELENS = re.compile(
    r"\b(sae_lens|GroupSAETrainingRunner|SAESuite|cache_activations|evaluate_suite|group_config)\b"
)


def is_the_oldest_at_hand() -> bool:
    """Whether the SAELens that is imported is the one of floor.txt."""
    pinned = Path(__file__).with_name("floor.txt").read_text().splitlines()
    return f"sae-lens=={version('sae-lens')}" in pinned


def mark(items: Iterable[pytest.Item]) -> None:
    """Marks as `saelens` the tests of files that name it or what trains with it."""
    touching = {
        path for path in {item.path for item in items} if _TOUCHES_SAELENS.search(path.read_text())
    }
    for item in items:
        if item.path in touching:
            item.add_marker("saelens")
    if is_the_oldest_at_hand():
        products.mark_slow_cases([item for item in items if item.get_closest_marker("seam")])
