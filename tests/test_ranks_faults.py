"""The command on several processes, where something goes wrong on one: all end, with one message."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import processes
from .test_ranks import ROOT, TORCHRUN, differing, environments, flags, launched, trained

pytestmark = pytest.mark.timeout(300)  # the cases follow one another in the same processes
SECONDS_TO_END = 60
SILENCE = 4

BAD_ROW = 60
# What goes wrong, on rank 1 where not all have it: the exit status, and what rank 0 says.
CASES: dict[str, tuple[dict[str, Any], int, str]] = {
    "SIGTERM": ({"stop": [1, 10]}, 143, "training stopped by SIGTERM; progress is saved in .*"),
    "SIGTERM twice": ({"twice": [1, 10]}, 143, "training stopped by SIGTERM; progress is saved.*"),
    "SIGINT": ({"interrupt": [1, 10]}, 130, "training stopped by SIGINT; progress is saved in .*"),
    "NaN": (
        {"nan": [1, 3]},
        2,
        r"before training step \d+: the language model's activations at layer 3 \(group layers_3\) "
        r"hold NaN or infinity.*; the state before is saved in .*",
    ),
    "divergence": (
        {"weights": [1, 5]},
        2,
        r"group layers_4-5 \(layers 4, 5\) diverged.*; there is no checkpoint yet.*",
    ),
    "other settings": (
        {"of_rank_1": ["--lr=0.5"]},
        2,
        "rank 1 has lr 0.5, and rank 0 has .*; start all processes with the same command.*",
    ),
    "no shared folder": (
        {"blind": [1, 0]},
        2,
        "output_path '.*' is not the same folder on rank 1.*",
    ),
    "reader": ({"dataset": "tokens"}, 2, f".*row {BAD_ROW + 1} of the dataset holds token -1.*"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text, and with tokens of which a row cannot be used."""
    folder = tmp_path_factory.mktemp("data")
    texts = [{"text": f"def f{n}(x):\n    return x * {n}\n" * 30} for n in range(15)]
    tokens = [{"tokens": [(7 * n + i) % 500 for i in range(32)]} for n in range(300)]
    tokens[BAD_ROW]["tokens"][3] = -1
    for name, rows in (("text", texts), ("tokens", tokens)):
        (folder / name).mkdir()
        (folder / name / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def command(data: Path, into: Path, dataset: str = "text", **more: str) -> list[str]:
    folders = {"output_path": str(into / "suite"), "checkpoint_path": str(into / "ckpt")}
    own = {"dataset_path": str(data / dataset), "training_tokens": "2560", **folders, **more}
    return ["train", *flags(data, **own)]


@pytest.fixture(scope="module")
def ended(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    """How each rank ends in each case."""
    folder = tmp_path_factory.mktemp("faults")
    runs = [
        {
            "as": name,
            "command": command(data, folder / f"of {name}", given.pop("dataset", "text")),
            **given,
        }
        for name, (case, _, _) in CASES.items()
        for given in [dict(case)]
    ]
    every = {"checkpoint_every": "1000"}
    of_disk = command(data, folder / "of full disk", **every)
    runs.append({"as": "full disk", "disk": [1, 1], "command": of_disk})
    trained(2, folder, runs)
    return lambda name: [json.loads((folder / f"{name}.{rank}").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_all_ranks_end_soon_with_one_message(ended: Callable[[str], list[Any]], name: str) -> None:
    _, status, text = CASES[name]
    first, second = ended(name)
    assert [first["status"], second["status"]] == [status, status]
    assert max(first["seconds"], second["seconds"]) < SECONDS_TO_END
    start = "sae-lens-groups train: error: " if status == 2 else ""
    # A bar ends with \r alone.
    messages = re.findall(f"^.*?({start}{text})$", first["err"].replace("\r", "\n"), re.M)
    assert len(messages) == 1, first["err"]
    assert first["err"].count("error: ") == (status == 2)
    assert second["out"] == ""
    assert "error" not in second["err"]
    assert "stopped" not in second["err"]


@pytest.mark.slow
def test_a_full_disk_of_one_rank_is_said_once_and_the_run_goes_on(
    ended: Callable[[str], list[Any]],
) -> None:
    first, second = ended("full disk")
    assert [first["status"], second["status"]] == [0, 0]
    assert first["err"].count("no checkpoint after") == 1
    assert "No space" in first["err"]
    assert "The suite of 4 layers lies in" in first["out"]
    assert second["out"] == ""
    assert "checkpoint" not in second["err"]


def test_only_a_rank_that_stops_answering_ends_the_other(data: Path, tmp_path: Path) -> None:
    """Not one whose step takes longer than that, nor both, stopped and let go on together."""
    args = command(data, tmp_path / "of", checkpoint_every="640")
    faults = {"busy": [1, 2 * SILENCE + 3], "hang": [0, 10], "silence": SILENCE}
    run = ("-m", "tests.ranked", str(tmp_path), json.dumps([{**faults, "as": "", "command": args}]))
    stopped, left = (processes.start(*run, cwd=ROOT, env=env) for env in environments(2))
    assert "busy\n" in iter(left.stderr.readline, "")
    time.sleep(SILENCE + 1)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for rank in (stopped, left):
            rank.send_signal(number)
        time.sleep(SILENCE + 1 if number == signal.SIGSTOP else 0)
    assert left.wait(SECONDS_TO_END) == 2  # the first rank, in whose process the store is, is gone
    text = f"rank 0: no sign of life for {SILENCE} seconds; the last checkpoint is "
    assert left.stderr.read().count(f"sae-lens-groups: error: {text}{tmp_path}") == 1
    stopped.send_signal(signal.SIGCONT)
    assert stopped.wait(SECONDS_TO_END) == 0
    assert json.loads((tmp_path / ".0").read_text())["status"] == 2


@pytest.mark.slow
def test_a_signal_to_torchrun_stops_all_and_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    """Each rank saves its part; torchrun waits for them."""
    more = {"checkpoint_every": "2000", "training_tokens": "16000"}
    first = under_torchrun(command(data, tmp_path / "of", **more))
    ends = time.monotonic() + SECONDS_TO_END
    while not list((tmp_path / "of" / "ckpt").glob("*/2*")):
        assert time.monotonic() < ends
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=SECONDS_TO_END)
    assert first.returncode == 1  # torchrun's own, whatever its processes end with
    assert len(re.findall("^training stopped by SIGTERM; progress is saved in", said, re.M)) == 1
    args = command(data, tmp_path / "of", **more, resume_from_checkpoint="auto")
    again, other = launched(2, "-m", "sae_lens_groups", *args)
    assert (again.returncode, other.returncode) == (0, 0), again.stderr
    assert "Trained 3 SAEs for 4 layers." in again.stdout
    assert other.stdout == ""
    placed = "rank 0: 3 6; rank 1: 4-5. 4 groups would take no longer on 2 ranks"
    assert placed in again.stderr
    whole = processes.run("-m", "sae_lens_groups", *command(data, tmp_path / "whole", **more))
    assert whole.returncode == 0, whole.stderr
    assert differing(tmp_path / "whole" / "suite", tmp_path / "of" / "suite") == []


@pytest.mark.slow
def test_torchrun_leaves_the_first_rank_time_to_say_why(data: Path, tmp_path: Path) -> None:
    """It ends the others once one has ended, which may be a faster one."""
    ended = under_torchrun(command(data, tmp_path / "of", n_batches_in_buffer="1"))
    _, said = ended.communicate(timeout=SECONDS_TO_END)
    assert said.count("error: the shuffle buffer holds") == 1


def under_torchrun(args: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*TORCHRUN, "-m", "sae_lens_groups", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TQDM_DISABLE": "1"},
    )


@pytest.mark.slow
def test_killed_ranks_write_what_they_would_have_written() -> None:
    """`python -m tests.faults --ranks 3` kills 50 times; this is a small part of it."""
    more = ("--kills", "2", "--per_run", "1", "--seed", "1")
    done = processes.run("-m", "tests.faults", "--ranks", "3", *more)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"kills": 2, "bit_identical": 2}
