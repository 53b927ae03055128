"""A sweep evaluated, and the page on which a person chooses one of its settings."""

from pathlib import Path

import pytest

from sae_lens_groups import evaluate_sweep
from .conftest import make_model, make_tokens
from .sweeps import trained_sweep

FOUR = {
    "k2": {"k": 2}, "k4": {"k": 4}, "k8": {"k": 8}, "k4-lr0.001": {"k": 4, "lr": 1e-3}
}

@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return trained_sweep(tmp_path_factory.mktemp("sweeps") / "OUT", {n: {"lr": 3e-3, **c} for n, c in FOUR.items()})


def test_x(sweep):
    found = evaluate_sweep(sweep, make_model(), make_tokens(seed=1), n_batches=4)
    from sae_lens_groups.evaluate import sweep_text
    print(sweep_text(found))
    import shutil
    shutil.rmtree("/tmp/pagex", ignore_errors=True)
    shutil.copytree(sweep, "/tmp/pagex")
