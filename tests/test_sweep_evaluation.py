"""A sweep evaluated on the same tokens, and what says that a folder is a sweep."""

import csv
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformer_lens import HookedTransformer

from sae_lens_groups import (
    GroupSAETrainingRunner,
    SAESuite,
    evaluate_suite,
    evaluate_sweep,
)
from sae_lens_groups.cli import main
from sae_lens_groups.errors import GroupSAEError, SuiteError
from sae_lens_groups.evaluate import SweepEvaluation, open_baseline
from sae_lens_groups.saved import write_sweep_index

from .sweeps import index_of, trained_sweep
from .test_evaluate_command import QUICK, failure, tokens_folder, train  # noqa: F401  # fixtures
from .tiny import N_LAYERS, group_config, make_model, make_tokens

SETTINGS: dict[str, dict[str, Any]] = {
    "k2-lr0.003": {"k": 2, "lr": 3e-3},
    "k8-lr0.003": {"k": 8, "lr": 3e-3},
    "k8-lr0.001": {"k": 8, "lr": 1e-3},
}
ASKED: dict[str, Any] = {"n_batches": 3, "batch_size_prompts": 8}


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return make_model()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_sweep(tmp_path_factory.mktemp("sweeps") / "OUT", SETTINGS)


@pytest.fixture(scope="module")
def found(sweep: Path, model: HookedTransformer) -> SweepEvaluation:
    return evaluate_sweep(sweep, model, make_tokens(seed=1), commands=["again"], **ASKED)


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


@pytest.mark.usefixtures("found")
def test_each_suite_has_the_files_of_its_own_evaluation(
    sweep: Path, model: HookedTransformer, tmp_path: Path
) -> None:
    for name in SETTINGS:
        alone = SAESuite.load(sweep / name).save(tmp_path / name)
        shutil.rmtree(alone / "evaluation")
        for left in ("evaluation.csv", "report.html"):
            (alone / left).unlink()
        evaluate_suite(alone, model, make_tokens(seed=1), **ASKED)
        files = [path.relative_to(alone) for path in alone.rglob("*") if path.is_file()]
        assert {*map(str, files)} >= {"evaluation.csv", "report.html", "evaluation/settings.json"}
        for file in files:
            if file.name != "report.html":  # which says how it was made
                assert (sweep / name / file).read_bytes() == (alone / file).read_bytes(), file
        assert "again" in (sweep / name / "report.html").read_text(encoding="utf-8")


def test_the_table_has_a_row_per_setting_and_layer(sweep: Path, found: SweepEvaluation) -> None:
    table = rows(sweep / "sweep.csv")
    assert [(row["setting"], int(row["layer"])) for row in table] == [
        (name, layer) for name in SETTINGS for layer in range(N_LAYERS)
    ]
    for row, of in zip(table, [one for one in found for _ in range(N_LAYERS)]):
        layer = int(row["layer"])
        own = rows(sweep / row["setting"] / "evaluation.csv")[layer]
        assert {name: row[name] for name in own} == own
        assert {name: float(row[name]) for name in ("k", "lr")} == of.setting.changes
        estimate = of.layers[layer]["explained_variance"]
        assert estimate.value == float(row["explained_variance"])
        assert float(row["explained_variance_low"]) < estimate.value
        assert float(row["explained_variance_high"]) > estimate.value
        assert (row["d_sae"], row["training_tokens"]) == ("48", "960")
        assert float(row["training_flops"]) == of.evaluation.costs[0].flops


def test_the_front_is_what_no_other_setting_beats(found: SweepEvaluation) -> None:
    at = {of.setting.name: (of.means["l0"].value, of.evaluation.mean("explained_variance")) for of in found}  # fmt: skip
    beaten = {
        name
        for name, (l0, ev) in at.items()
        if any(a <= l0 and b >= ev and (a, b) != (l0, ev) for a, b in at.values())
    }
    front = found.front("explained_variance")
    assert {*front} == {*at} - beaten
    assert len(front) < len(at)
    assert [at[name] for name in front] == sorted(at[name] for name in front)


def test_differences_are_those_of_a_comparison(
    sweep: Path, found: SweepEvaluation, model: HookedTransformer
) -> None:
    suites = [SAESuite(SAESuite.load(sweep / name).source) for name in SETTINGS]
    compared = evaluate_suite(suites[2], model, make_tokens(seed=1), baseline=suites[0], **ASKED)
    assert compared.comparison is not None
    for name, rows_of in found.differences.items():
        assert [len(row) for row in rows_of] == [0, 1, 2]
        ours, theirs = rows_of[2][0], compared.comparison.mean_differences[name]
        assert ours is not None  # all are of one site
        values = [ours.value, ours.low, ours.high]
        assert values == pytest.approx([theirs.value, theirs.low, theirs.high], abs=1e-12)


def test_passes_with_zeros_are_shared(sweep: Path, model: HookedTransformer) -> None:
    """Of every batch: for each suite one clean pass and one per layer, and one per layer for all."""
    n_passes = 0

    def count(*_: Any) -> None:
        nonlocal n_passes
        n_passes += 1

    handle = model.unembed.register_forward_hook(count)
    evaluate_sweep(sweep, model, make_tokens(seed=1), **ASKED)
    handle.remove()
    assert n_passes == 3 * (len(SETTINGS) * (1 + N_LAYERS) + N_LAYERS)


def test_suites_of_several_sites_are_one_sweep(model: HookedTransformer, tmp_path: Path) -> None:
    sites = {name: f"blocks.1.hook_{name}" for name in ("mlp_out", "resid_post")}
    changes: dict[str, dict[str, Any]] = {name: {"hook_name": of} for name, of in sites.items()}
    sweep = trained_sweep(tmp_path / "OUT", changes, layer_groups="1-2")
    evaluate_sweep(sweep, model, make_tokens(seed=1), **ASKED)
    hook_names = [row["hook_name"] for row in rows(sweep / "sweep.csv")]
    assert hook_names == [f"blocks.{n}.hook_{site}" for site in sites for n in (1, 2)]
    for name in sites:
        alone = evaluate_suite(SAESuite.load(sweep / name), model, make_tokens(seed=1), **ASKED)
        ours = [float(row["mse"]) for row in rows(sweep / name / "evaluation.csv")]
        assert ours == [of.metrics["mse"] for of in alone]


OPENED: dict[str, Callable[[Path], Any]] = {
    "load": SAESuite.load,
    "evaluate_suite": lambda folder: evaluate_suite(folder, make_model(), make_tokens()),
    "baseline": lambda folder: open_baseline(folder),
    "init_from": lambda folder: GroupSAETrainingRunner(
        group_config(init_from=str(folder)), make_tokens(), make_model()
    ).run(),
}


@pytest.mark.parametrize("opened", OPENED)
def test_a_sweep_is_not_taken_for_a_suite(sweep: Path, opened: str) -> None:
    with pytest.raises(GroupSAEError) as error:
        OPENED[opened](sweep)
    message = str(error.value)
    assert f"{str(sweep)!r} is a sweep of 3 suites; name one of them: " in message
    assert all(str(sweep / name) in message for name in SETTINGS)
    assert "\n" not in message


def test_of_many_suites_some_are_named(tmp_path: Path) -> None:
    write_sweep_index(tmp_path, index_of({f"k{k}": {"k": k} for k in range(1, 25)}))
    with pytest.raises(SuiteError, match=r"sweep of 24 suites; .*k8 and 16 more \("):
        SAESuite.load(tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        ["publish", "OUT", "somebody/suite"],
        ["features", "OUT"],
        ["refit", "OUT", "--output_path", "refitted"],
        ["evaluate", "OUT/k2-lr0.003", "--baseline", "OUT"],
    ],
    ids=lambda command: command[0],
)
def test_commands_say_that_it_is_a_sweep(
    sweep: Path,
    command: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(sweep.parent)
    assert main(command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert "'OUT' is a sweep of 3 suites; name one of them: OUT/k2-lr0.003, OUT/k8" in line


@pytest.fixture(scope="module")
def command_sweep(tokens_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("sweeps") / "OUT"
    for k in ("4", "16"):
        train(folder / f"k{k}", tokens_folder, k=k)
    write_sweep_index(folder, index_of({"k4": {"k": 4}, "k16": {"k": 16}}))
    return folder


def test_the_command_evaluates_every_suite(
    command_sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(command_sweep.parent)
    assert main(["evaluate", "OUT", "--baseline", "OUT/k4", *QUICK]) == 0
    shown = capsys.readouterr().out
    for name in ("k4", "k16"):
        (line,) = [line for line in shown.splitlines() if line.startswith(f"{name} ")]
        own = rows(command_sweep / name / "evaluation.csv")
        mean = sum(float(row["explained_variance"]) for row in own) / len(own)
        assert f" {mean:.4f} [" in line
        assert {row["baseline"] for row in own} == {"k4"}
    assert max(map(len, shown.splitlines())) <= 120
    assert "Choose one: OUT/sweep.html" in shown
    assert "Held out: the rows of " in shown
    page = (command_sweep / "sweep.html").read_text(encoding="utf-8").partition("<body>")[2]
    assert "sae-lens-groups evaluate OUT --baseline k4 --n_eval_batches 2" in page
    assert str(command_sweep.parent) not in page


def test_the_page_gives_a_command_that_trains_on(
    command_sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(command_sweep.parent)
    assert main(["evaluate", "OUT", *QUICK]) == 0
    page = (command_sweep / "sweep.html").read_text(encoding="utf-8")
    command = "sae-lens-groups train --config_file OUT/k16/runner_cfg.json --k 16 --training_tokens 8192 --output_path k16-longer --checkpoint_path checkpoints"
    assert f'"{command}"' in page
    assert main(shlex.split(command)[1:]) == 0
    longer = SAESuite.load("k16-longer")
    assert longer.runner_cfg is not None
    assert (longer.runner_cfg["training_tokens"], longer.runner_cfg["sae"]["k"]) == (8192, 16)


def test_mistakes_are_found_before_the_model_loads(
    command_sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(command_sweep / "k4" / "runner_cfg.json")
    words = ["--init_from", str(command_sweep), "--output_path", str(tmp_path / "new")]
    assert main(["train", "--config_file", config, *words]) == 2
    assert f"init_from {str(command_sweep)!r} is a sweep of 2 suites" in capsys.readouterr().err
    broken = Path(shutil.copytree(command_sweep, tmp_path / "broken"))
    shutil.rmtree(broken / "k16")
    message = failure(capsys, str(broken), "--model_name", "no such model")
    assert message.startswith(f"{str(broken / 'k16')!r} does not exist")
    (broken / "sweep.json").write_text("{}")
    message = failure(capsys, str(broken), "--model_name", "no such model")
    assert "sweep.json cannot be read: format_version is missing" in message
