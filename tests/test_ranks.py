"""Several processes train one suite: the same files as one process writes, whatever goes wrong."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_groups import LayerGroup
from sae_lens_groups.cli import main
from sae_lens_groups.demo.model import HOOK_NAME, MODEL_CLASS_NAME, MODEL_FOLDER
from sae_lens_groups.train.checkpoints.folder import checkpoints_in
from sae_lens_groups.train.ranks.passes import unequal_passes
from sae_lens_groups.train.ranks.placement import owners, placement_text
from sae_lens_groups.train.stop import StopRequest

from . import processes
from .test_exact_resume import files_of
from .tiny import ARCHITECTURES, CONTEXT_SIZE, D_IN, made_once

ROOT = Path(__file__).parent.parent
SECONDS = 120
"""At most, for what takes a few: what hangs is to be seen."""

EXACT = ["topk", "sweep", "rows", "one group", "lent", "outliers", "text", "whitened and aligned"]
FROM_OTHERS = ["kept", "cache all"]
MORE_EXACT = [
    *("each", "whitened", "aligned", "auto"),
    *(f"{name} {step}" for name in ARCHITECTURES for step in ("fast", "never")),
]
LOGGED = {
    "run": "topk",
    "as": "logged",
    "wandb": True,
    "watched": True,
    "checkpoint_path": "logged ckpt",
    "checkpoint_every": "640",
}
STOPPED = {"run": "long text", "checkpoint_every": "640"}
BAD_ROWS = [
    {"run": name, "checkpoint_path": f"{name} ckpt"} for name in ("bad row", "lent bad row")
]


def environments(size: int) -> list[dict[str, str]]:
    """Those that launchers give the processes that they start."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared = {**os.environ, **shared, "TQDM_DISABLE": "1"}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


def launched(size: int, *args: str) -> list[CompletedProcess[str]]:
    """`python *args` in several processes, to their end."""
    with ThreadPoolExecutor(size) as starters:
        run = partial(processes.run, *args, cwd=ROOT)
        return list(starters.map(lambda env: run(env=env), environments(size)))


def trained(size: int, folder: Path, runs: list[dict[str, Any]]) -> Path:
    """What so many processes make of runs of `tests.ranked`."""
    folder.mkdir(parents=True, exist_ok=True)
    args = ("-m", "tests.ranked", str(folder), json.dumps(runs))
    if size == 1:
        alone = {**os.environ, "TQDM_DISABLE": "1"}
        ended = [processes.run(*args, cwd=ROOT, env=alone)]
    else:
        ended = launched(size, *args)
    for rank, one in enumerate(ended):
        assert one.returncode == 0, f"rank {rank}: {one.stderr[-4000:]}"
    return folder


def differing(folder: Path, other: Path) -> list[str]:
    one, two = files_of(folder), files_of(other)
    assert one
    return sorted({n for n in one.keys() | two.keys() if one.get(n) != two.get(n)})


def told(folder: Path, name: str, size: int = 2) -> str:
    """What a run raised, which is the same on every rank."""
    texts = {(folder / f"{name}.{rank}").read_text() for rank in range(size)}
    assert len(texts) == 1, texts
    return texts.pop()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder that one process writes for a run."""

    def train_all(folder: Path) -> None:
        names = [*EXACT, "long text"]
        trained(1, folder, [*({"run": name} for name in names), LOGGED])
        trained(1, folder, from_others(folder))
        trained(1, folder, BAD_ROWS)

    folder = made_once(tmp_path_factory, "ranks alone", train_all)
    return lambda name: folder / name


def from_others(folder: Path) -> list[dict[str, Any]]:
    """The runs that need what one process has written to a folder: a suite, a cache."""
    return [
        {"run": "kept", "init_from": str(folder / "topk")},
        {"run": "cache all", "cached_activations_path": str(folder / "all rows")},
    ]


@pytest.fixture(scope="module")
def two(alone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes write of all runs, and of such as go wrong."""
    folder = tmp_path_factory.mktemp("two")
    saved = {"checkpoint_path": "stopped ckpt"}
    runs = [
        *({"run": name, "watched": True} for name in EXACT),
        *from_others(alone("topk").parent),
        LOGGED,
        {"run": "topk", "as": "refused", "prefetch_llm_batches": 2},
        *BAD_ROWS,
        {"run": "lent", "as": "lent no model", "model": [1, 7], "checkpoint_path": "lent ckpt"},
        {"run": "lent", "as": "lent again", "resume": "lent ckpt", "checkpoint_path": "more ckpt"},
        {"run": "lent", "as": "lent stopped", "stop": [0, 9], "checkpoint_path": "lent stop"},
        {"run": "lent", "as": "lent on", "resume": "lent stop", "checkpoint_path": "on ckpt"},
        {**STOPPED, "as": "no disk", "disk": [1, 1], "checkpoint_path": "disk ckpt"},
        {**STOPPED, "as": "no memory", "step": [1, 90], "checkpoint_path": "step ckpt"},
        {**STOPPED, "as": "no model", "model": [1, 5], "checkpoint_path": "model ckpt"},
        {**STOPPED, "as": "model again", "resume": "model ckpt", "checkpoint_path": "again ckpt"},
        {**STOPPED, "as": "stopped", "stop": [1, 50], **saved},
        {**STOPPED, "as": "gone on", "resume": "stopped ckpt", "checkpoint_path": "later ckpt"},
    ]
    return trained(2, folder, runs)


@pytest.mark.parametrize("name", [*EXACT, *FROM_OTHERS])
def test_two_processes_write_what_one_writes(
    alone: Callable[[str], Path], two: Path, name: str
) -> None:
    assert differing(alone(name), two / name) == []


def test_one_run_at_wandb_has_what_one_process_logs(
    alone: Callable[[str], Path], two: Path
) -> None:
    read = partial(json.loads, parse_constant=str)  # NaN differs from itself
    logged = read((two / "logged.0.json").read_text())
    assert logged == read(alone("logged.0.json").read_text())
    assert (two / "logged.1.json").read_text() == "{}"
    for group in ("layers_0-1", "layers_2", "layers_3"):
        assert f"9 {group}/losses/overall_loss" in logged
    assert "9 layers_2/layer_2/reconstruction_quality" in logged
    assert (
        len(logged["sae_tiny_blocks.2.hook_resid_post_48"]) == 2
    )  # of the checkpoint and of the suite
    assert differing(alone("topk"), two / "logged") == []  # evals change nothing


def seen(folder: Path, name: str, size: int = 2) -> list[dict[str, Any]]:
    """What was watched of a run on each rank."""
    return [json.loads((folder / f"{name}.{rank}.seen").read_text()) for rank in range(size)]


@pytest.mark.parametrize("name", [*EXACT, "logged"])
def test_all_ranks_come_to_the_same_collectives(two: Path, name: str) -> None:
    first, second = (of_rank["collectives"] for of_rank in seen(two, name))
    assert first == second
    assert {"scatter", "all_gather", "all_to_all_single"} <= set(first)


@pytest.mark.parametrize(
    ("name", "n_groups", "layers_per_token", "most_of_rank", "travels"),
    [("topk", 3, 1, 2, (2 - 1) / 2), ("one group", 1, 2, 1, 1)],
)
def test_what_ranks_send_is_a_row_per_token_and_group(
    two: Path,
    name: str,
    n_groups: int,
    layers_per_token: int,
    most_of_rank: int,
    travels: float,
) -> None:
    """And which layer it is of; half of it, on two ranks, stays where it is, if both run the model."""
    of_ranks = seen(two, name)
    n_rounds = of_ranks[0]["collectives"].count("all_to_all_single") / (2 * most_of_rank)
    n_tokens = n_rounds * 2 * 16 * CONTEXT_SIZE
    row = D_IN * 4 + 4
    expected = n_tokens * n_groups * layers_per_token * row * travels
    assert sum(of_rank["n_sent"] for of_rank in of_ranks) == expected


def test_a_rank_without_groups_runs_the_language_model_for_the_others(two: Path) -> None:
    """Every row then goes from the second rank to the first."""
    first, second = (of_rank["n_sent"] for of_rank in seen(two, "lent"))
    assert first == 0
    assert second > 0


@pytest.mark.parametrize(("ended", "again"), [("no model", "again"), ("stopped", "on")])
def test_a_run_goes_on_from_between_passes_that_were_made_ahead(
    alone: Callable[[str], Path], two: Path, ended: str, again: str
) -> None:
    assert "saved in" in told(two, f"lent {ended}")
    assert differing(alone("lent"), two / f"lent {again}") == []


def test_a_rank_holds_the_buffer_of_its_own_groups(alone: Callable[[str], Path], two: Path) -> None:
    (of_one,) = seen(alone("topk").parent, "logged", 1)
    first, second = (of_rank["buffers"] for of_rank in seen(two, "logged"))
    assert first.keys() == {"layers_0-1", "layers_3"}
    assert second.keys() == {"layers_2"}
    assert first | second == of_one["buffers"]
    assert of_one["collectives"] == []


def test_a_signal_to_one_rank_stops_all_and_the_run_goes_on(
    alone: Callable[[str], Path], two: Path
) -> None:
    text = told(two, "stopped")
    assert text.startswith("TrainingInterrupted: training stopped by SIGTERM; progress is saved in")
    assert not (two / "stopped").exists()
    assert differing(alone("long text"), two / "gone on") == []


def test_an_error_of_the_language_model_on_one_rank_saves_the_progress(
    alone: Callable[[str], Path], two: Path
) -> None:
    text = told(two, "no model")
    assert re.fullmatch(
        r"TrainingError: before training step \d+: RuntimeError: out of memory on rank 1; the state "
        r"before is saved in .*/model ckpt/.*",
        text,
    )
    assert differing(alone("long text"), two / "model again") == []


def test_an_error_in_a_step_of_one_rank_ends_all(two: Path) -> None:
    assert re.fullmatch(
        r"TrainingError: in training step 44 on rank 1: RuntimeError: out of memory; the last "
        r"checkpoint is .*/step ckpt/.*",
        told(two, "no memory"),
    )


def test_a_full_disk_of_one_rank_costs_the_checkpoint_alone(
    alone: Callable[[str], Path], two: Path
) -> None:
    assert differing(alone("long text"), two / "no disk") == []
    (run_folder,) = (two / "disk ckpt").iterdir()
    tokens = [int(path.name) for path in checkpoints_in(run_folder)]
    assert tokens
    assert min(tokens) >= 2 * 640  # the first is missing, and left nothing behind
    assert [path.name for path in run_folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["bad row", "lent bad row"])
def test_a_bad_row_ends_all_where_it_ends_one(
    alone: Callable[[str], Path], two: Path, name: str
) -> None:
    one = alone(f"{name}.0").read_text()
    assert "row 54 of the dataset holds token -1" in one
    saved = re.compile(r"; the state before is saved in .*/(\d+)$")
    assert saved.sub(r" \1", told(two, name)) == saved.sub(r" \1", one)


def test_what_cannot_work_is_refused(two: Path) -> None:
    assert told(two, "refused") == (
        "ConfigError: with 2 processes prefetch_llm_batches cannot be used; leave it out"
    )


@pytest.fixture(scope="module")
def all_alone(
    alone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """What one process writes of all runs."""
    folder = alone("topk").parent
    others = from_others(folder)
    more: list[dict[str, Any]] = [{"run": name} for name in MORE_EXACT]
    more.append({**others[0], "run": "init"})
    more.append({"run": "cache drawn", "cached_activations_path": str(folder / "drawn rows")})
    made_once(tmp_path_factory, "all ranks alone", lambda _: trained(1, folder, more))
    return folder, [*more, *others, *({"run": name} for name in EXACT)]


def written_by(size: int, into: Path, alone: Path, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The files in which so many processes differ from one, of each run."""
    trained(size, into, runs)
    found = {run["run"]: differing(alone / run["run"], into / run["run"]) for run in runs}
    return {name: files for name, files in found.items() if files}


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 4, 5])
def test_more_processes_write_what_one_writes(
    all_alone: tuple[Path, list[dict[str, Any]]], tmp_path: Path, size: int
) -> None:
    """With more ranks than groups too. Each run is here once, the main ones of two above."""
    folder, runs = all_alone
    assert written_by(size, tmp_path, folder, runs[size - 3 :: 3]) == {}


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_any_number_of_processes_writes_what_one_writes(
    all_alone: tuple[Path, list[dict[str, Any]]], tmp_path: Path, size: int
) -> None:
    folder, runs = all_alone
    assert written_by(size, tmp_path, folder, runs) == {}


@pytest.mark.parametrize(
    ("before", "numbers_after"),
    [
        (2, (1,)),
        *(pytest.param(before, (1, 2, 4), marks=pytest.mark.slow) for before in (1, 2, 3)),
    ],
)
def test_a_run_goes_on_with_any_number_of_processes(
    alone: Callable[[str], Path], tmp_path: Path, before: int, numbers_after: tuple[int, ...]
) -> None:
    stop = {**STOPPED, "as": "stopped", "stop": [before - 1, 37], "checkpoint_path": "ckpt"}
    trained(before, tmp_path, [stop])
    for after in numbers_after:
        again = {**STOPPED, "as": f"with {after}", "resume": "ckpt", "checkpoint_path": f"{after}"}
        trained(after, tmp_path, [again])
        assert differing(alone("long text"), tmp_path / f"with {after}") == []


@pytest.mark.timeout(SECONDS)
def test_a_rank_that_is_killed_ends_the_others_and_the_run_goes_on(
    alone: Callable[[str], Path], tmp_path: Path
) -> None:
    run = {**STOPPED, "as": "gone", "kill": [1, 50], "checkpoint_path": "ckpt"}
    args = ("-m", "tests.ranked", str(tmp_path), json.dumps([run]))
    first, _ = (processes.start(*args, cwd=ROOT, env=env) for env in environments(2))
    assert first.wait(60) == 0, first.stderr.read()
    assert re.fullmatch(
        "TrainingError: another rank has ended or does not answer: RuntimeError: .*; the last "
        "checkpoint is .*/ckpt/.*",
        (tmp_path / "gone.0").read_text(),
    )
    again = {**STOPPED, "as": "again", "resume": "ckpt", "checkpoint_path": "ckpt"}
    trained(3, tmp_path, [again])
    assert differing(alone("long text"), tmp_path / "again") == []


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_torchrun_starts_all_again_when_one_is_killed(
    alone: Callable[[str], Path], tmp_path: Path
) -> None:
    auto = {"checkpoint_path": "ckpt", "resume_from_checkpoint": "auto"}
    run = {**STOPPED, **auto, "kill": [1, 50]}
    ended = subprocess.run(
        [*TORCHRUN, "--max-restarts", "1", "-m", "tests.ranked", str(tmp_path), json.dumps([run])],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert (tmp_path / "long text.0").exists()  # what the first attempt ended with
    assert differing(alone("long text"), tmp_path / "long text") == []


# --- the command ---


def flags(folder: Path, **more: str) -> list[str]:
    given = {
        "layer_groups": "3,4-5,6",
        "architecture": "topk",
        "k": "8",
        "d_sae": "128",
        "model_name": str(MODEL_FOLDER),
        "model_class_name": MODEL_CLASS_NAME,
        "hook_name": HOOK_NAME,
        "dataset_path": str(folder / "text"),
        "context_size": "32",
        "training_tokens": "2000",
        "train_batch_size_tokens": "128",
        "store_batch_size_prompts": "8",
        "n_batches_in_buffer": "16",
        "output_path": str(folder / "suite"),
        "checkpoint_path": str(folder / "ckpt"),
        **more,
    }
    return [*(f"--{name}={value}" for name, value in given.items()), "--nolog_to_wandb"]


@pytest.mark.timeout(SECONDS)
def test_one_message_and_status_2_on_every_rank(tmp_path: Path) -> None:
    ended = launched(2, "-m", "sae_lens_groups", "train", *flags(tmp_path))
    assert [one.returncode for one in ended] == [2, 2]
    assert "sae-lens-groups train: error: dataset_path" in ended[0].stderr
    assert "error" not in ended[1].stderr
    assert ended[1].stdout == ""


def test_other_commands_are_for_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    assert main(["evaluate", "a_suite"]) == 2
    assert (
        "4 processes were started (WORLD_SIZE), and only train is shared" in capsys.readouterr().err
    )
    monkeypatch.setenv("RANK", "1")
    assert main(["evaluate", "a_suite"]) == 2
    assert capsys.readouterr().err == ""


def test_signals_soon_after_the_first_are_the_same_request() -> None:
    stop = StopRequest(grace_seconds=10)
    with stop.listening():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert stop.signal_number == signal.SIGTERM


# --- who trains what ---


def test_groups_are_dealt_out() -> None:
    groups = [LayerGroup(n, n) for n in range(5)]
    assert [len(of) for of in owners(groups, 2)] == [3, 2]
    assert [len(of) for of in owners(groups, 7)] == [1, 1, 1, 1, 1, 0, 0]
    assert sorted(group for of in owners(groups, 3) for group in of) == groups
    assert placement_text(owners(groups[:2], 2)) == "rank 0: 0; rank 1: 1"
    assert placement_text(owners(groups[:2], 3)).endswith(
        "rank 2: the language model alone. 3 groups would take no longer on 3 ranks"
    )


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=3).filter(any),
    st.floats(0.03, 30),
)
def test_the_language_model_is_shared_so_that_a_round_takes_least(
    n_groups: list[int], lm_cost: float
) -> None:
    """A round takes what the slowest rank does between two meetings, of which each LM batch has one."""
    size = len(n_groups)
    cells = list(itertools.product(range(size), range(size)))

    def seconds(passes: Sequence[tuple[int, int]]) -> float:
        load = {cell: n_groups[cell[1]] + lm_cost * passes.count(cell) for cell in cells}
        return sum(max(load[n, rank] for rank in range(size)) for n in range(size))

    equal = lm_cost + size * max(n_groups)
    least = min(map(seconds, itertools.combinations_with_replacement(cells, size)))
    passes = unequal_passes(n_groups, lm_cost, 1.0)
    assert seconds(passes) <= 1.02 * least if passes else 0.88 * equal <= least
    assert len(passes) in (0, size)
    assert passes == sorted(passes)
    if len(set(n_groups)) == 1:
        assert passes == []


def test_torch_distributed_is_used_in_one_room_only() -> None:
    package = ROOT / "sae_lens_groups"
    using = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(
            r"torch\.distributed|\bdistributed import|import distributed", path.read_text()
        )
    }
    assert {Path(one).parent.as_posix() for one in using} == {"train/ranks"}
