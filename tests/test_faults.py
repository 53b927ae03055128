"""A run that is killed at random moments ends as if it had not been."""

import json

import pytest

from . import processes


@pytest.mark.slow
def test_killed_runs_end_bit_identical() -> None:
    """`python -m tests.faults` kills 50 times; this is a small part of it."""
    done = processes.run("-m", "tests.faults", "--kills", "8", "--per_run", "2")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"kills": 8, "bit_identical": 8}


@pytest.mark.slow
def test_a_killed_recipe_ends_bit_identical_and_leaves_nothing_half_written() -> None:
    done = processes.run("-m", "tests.faults", "--recipe", "--kills", "4", "--per_run", "2")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"kills": 4, "bit_identical": 4}
