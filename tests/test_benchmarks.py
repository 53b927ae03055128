"""The benchmarks still run, and measure something. What they measure is no matter of tests."""

import itertools
import json
import math
import os
import posixpath
import sys
import timeit
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pytest

from tests import processes
from tests.benchmarks import claims, cost_scale, demo_runs, from_cache, own_process, ranks_plot
from tests.benchmarks.own_process import in_own_process, in_turns
from tests.benchmarks.speed.__main__ import main as speed
from tests.benchmarks.speed.jobs import EACH, GROUPS, MULTI
from tests.benchmarks.subjects import Demo


@pytest.fixture
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process for every run still, but none that imports SAELens anew."""

    def run(command: Sequence[str], env: dict[str, str], **_: Any) -> CompletedProcess[str]:
        return processes.run(*command[1:], env=env)

    monkeypatch.setattr(own_process, "subprocess", SimpleNamespace(run=run))


def test_a_run_has_a_process_of_its_own() -> None:
    assert in_own_process(os.getpid) != os.getpid()


def test_in_turns_one_process_runs_at_a_time(tmp_path: Path) -> None:
    """Side by side they would write to the file letter by letter."""
    file = tmp_path / "letters"
    calls = [
        {
            "setup": f"file = open({str(file)!r}, 'ab', buffering=0)",
            "stmt": f"file.write({letter!r})",
            "number": 50_000,
        }
        for letter in (b"a", b"b", b"c")
    ]
    assert all(seconds > 0 for seconds in in_turns(timeit.timeit, calls, seconds=[0.02] * 3))
    letters = file.read_text()
    assert sorted(letters) == sorted("abc" * 50_000)
    assert len(list(itertools.groupby(letters))) < 100


def test_in_turns_results_come_in_order_and_an_error_is_told() -> None:
    calls = [{"a": name} for name in "xyz"]
    assert list(in_turns(posixpath.join, calls, seconds=[0.1] * 3)) == ["x", "y", "z"]
    with pytest.raises(SystemExit, match="unexpected keyword argument 'b'"):
        list(in_turns(posixpath.join, [{"a": "x"}, {"b": "y"}], seconds=[0.1] * 2))


@pytest.mark.slow
@pytest.mark.usefixtures("_forked")
def test_speed_prints_a_row_for_every_way_and_the_time_by_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["speed", "--rounds", "1", "--parts"]
    command += ["--ways", "multi", "groups", "limit"]
    command += ["--shapes", "toy", "--layers", "2"]
    command += ["--layer_groups", "0-1", "--tokens", "4096", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", command)
    speed()
    printed = capsys.readouterr().out
    rows = {line.split(" | ")[0].removeprefix("| ") for line in printed.splitlines()}
    assert {"multi", "groups (0-1)", "limit of 1"} <= rows
    assert "| groups (0-1) | language model |" in printed


@pytest.mark.slow
@pytest.mark.usefixtures("_forked")
@pytest.mark.parametrize("way", [MULTI, EACH, GROUPS])
def test_cost_scale_measures_a_point(way: str) -> None:
    assert 0 < in_own_process(seconds_per_million, way=way) < math.inf


def seconds_per_million(way: str) -> float:
    """Of a small point, as cost_scale measures it."""
    point = cost_scale.Point(n_layers=2, n_groups=1, d_sae=256, k=16)
    settings = cost_scale.Settings(device="cpu", threads=1, seconds=0.1)
    return cost_scale.measure(cost_scale.Run(way, point), settings)


@pytest.mark.slow
@pytest.mark.usefixtures("_forked")
def test_a_recipe_goes_on_from_the_run_before() -> None:
    """A single step from scratch explains nothing yet."""
    groups = {"layer_groups": "0-1", "tokens": 20_480}
    figures = demo_runs.cook([groups, {"layer_groups": "0,1", "tokens": 1024, "lr": 1e-5}], seed=1)
    assert figures["cpu_seconds"] > 0
    assert figures["explained_variance"] > 0.3


def test_simulated_ranks_share_whole_lm_batches_and_groups() -> None:
    parts = ranks_plot.Parts(
        n_groups=3, n_lm_batches=8, bytes_per_batch=0, share_lm=0.4, share_sae=0.6
    )
    found = ranks_plot.Measured("one", seconds=1000.0, seconds_of_two=600.0, parts=parts)
    assert ranks_plot.simulated(found, 1) == 1000
    # Half of the passes, and two of three groups.
    assert ranks_plot.simulated(found, 2) == pytest.approx(200 + 400, rel=1e-3)
    assert ranks_plot.simulated(found, 3) == pytest.approx(150 + 200, rel=1e-3)
    assert ranks_plot.simulated(found, 8) == pytest.approx(50 + 200, rel=1e-3)
    # Whoever trains nothing makes all passes, meanwhile.
    of_one = found._replace(parts=parts._replace(n_groups=1))
    assert ranks_plot.simulated(of_one, 2) == pytest.approx(600, rel=1e-3)


class FourLayers(Demo):
    """Of the demo's model, two of them scored."""

    groups = "0-3"
    scored = (0, 1)
    held_out: Mapping[str, Any] = {"n_batches": 1, "batch_size_prompts": 4}


@pytest.mark.slow
def test_ways_to_a_suite_are_scored_with_their_tokens_and_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (claims, demo_runs, from_cache):
        monkeypatch.setattr(module, "subject", lambda _: FourLayers())
    monkeypatch.setattr(claims, "SHARES", (1,))
    two = ("each layer", claims.NEIGHBOURS)
    monkeypatch.setattr(claims, "WAYS", {name: claims.WAYS[name] for name in two})
    monkeypatch.setattr(claims, "best_rate", lambda score: score(1) * 0 + 1)
    log = tmp_path / "log"
    monkeypatch.setattr(
        sys, "argv", ["claims", "--tokens", "8192", "--seeds", "1", "--log", str(log)]
    )
    claims.main()
    lines = log.read_text().splitlines()
    tuned_each, tuned_rest, each, rest = map(json.loads, lines)
    assert [run["tokens"] for run in rest["runs"]] == [8192, 2048]
    assert claims.lm_tokens(rest) == claims.lm_tokens(each) == 2 * claims.lm_tokens(tuned_each)
    for of in (tuned_each, tuned_rest, each, rest):
        assert set(of["layers"]) == {"0", "1"}
        assert claims.cpu_seconds(of) > of["cpu_seconds"] > 0

    # What the log has is not done again: there is no cache to do it from.
    monkeypatch.setattr(from_cache, "cache", None)
    claims.main()
    assert log.read_text().splitlines() == lines


@pytest.mark.parametrize("best", [0.125, 0.5, 1, 2, 16])
def test_a_rate_is_doubled_or_halved_until_that_is_worse(best: float) -> None:
    tried: list[float] = []

    def score(rate: float) -> float:
        tried.append(rate)
        return -abs(math.log2(rate / best))

    assert claims.best_rate(score) == best
    assert min(tried) < best < max(tried)
    assert len(tried) == len(set(tried))
