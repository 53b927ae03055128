"""`sae-lens-groups suite`: groups, then every layer from its group's SAE, and scores, in one command."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from sae_lens_groups import SAESuite
from sae_lens_groups.cli import main
from sae_lens_groups.demo.model import MODEL_CLASS_NAME, MODEL_FOLDER, stdlib_tokens
from sae_lens_groups.train.cache.run import CacheRun

from .test_exact_resume import stop_after

SETTINGS = [
    *("--model_class_name", MODEL_CLASS_NAME, "--hook_name", "gpt_neox.layers.0"),
    *("--dataset_path", "../text", "--context_size", "32", "--d_sae", "128", "--k", "8"),
    *("--normalize_activations", "expected_average_only_in", "--training_tokens", "8192"),
    *("--train_batch_size_tokens", "256", "--store_batch_size_prompts", "16"),
    *("--n_batches_in_buffer", "32", "--lr", "3e-3", "--nolog_to_wandb"),
    *("--layer_groups", "3-4,5-6", "--refit_tokens", "1024"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and text enough to train and to evaluate on."""
    folder = tmp_path_factory.mktemp("recipe")
    stdlib_tokens("train", 32).select(range(600)).save_to_disk(folder / "text")
    (folder / "model").symlink_to(MODEL_FOLDER)
    return folder


@pytest.fixture
def cook(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command in a folder of this name, with the same words in each."""

    def run(name: str, *words: str, architecture: str = "batchtopk") -> int:
        (place / name).mkdir(exist_ok=True)
        monkeypatch.chdir(place / name)
        given = ["--output_path", "suite", "--model_name", "../model", *SETTINGS]
        return main(["suite", "--architecture", architecture, *given, *words])

    return run


def hashes(folder: Path) -> dict[str, str]:
    """Of every file in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_a_stopped_recipe_goes_on_with_the_same_command_and_ends_with_the_same_files(
    place: Path, cook: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cook("whole") == 0
    over_all = _bar_over_all(capsys)
    assert list(dict.fromkeys(part for part, _ in over_all)) == ["cache", "groups", "layers"]
    shares = [share for _, share in over_all]
    assert shares == sorted(shares)
    assert shares[0] < 50 < 95 < shares[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CacheRun, "run", _killed)
        assert cook("stopped") == 128 + 2
    for n_steps, part in ((20, "groups"), (5, "layers")):
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, n_steps)
            assert cook("stopped") == 128 + 15
        assert capsys.readouterr().out.rstrip().endswith(f"done, now {part}")
    assert cook("stopped") == 0
    assert _bar_over_all(capsys)[0][0] == "layers"
    whole, stopped = (hashes(place / name / "suite") for name in ("whole", "stopped"))
    assert stopped == whole

    suite = SAESuite.load(place / "whole" / "suite")
    assert [len(group) for group in suite.groups] == [1, 1, 1, 1]
    assert suite.manifest.recipe is not None
    assert "groups 3-4,5-6, begun with rows as features, on 8,192 tokens" in suite.manifest.recipe
    assert "refitted to 1,024" in suite.manifest.recipe
    assert suite.manifest.transfer is not None
    assert (place / "whole" / "suite" / "evaluation.csv").exists()
    assert {path.name for path in (place / "whole" / "suite-parts").iterdir()} == {
        "groups",
        "recipe.json",
    }
    groups = SAESuite.load(place / "whole" / "suite-parts" / "groups")
    assert groups.manifest.refit_tokens == 1024
    assert groups.manifest.recipe is None

    before = hashes(place / "whole")
    assert cook("whole") == 0  # which has nothing left to do
    assert hashes(place / "whole") == before
    capsys.readouterr()
    assert cook("whole", "--lr", "1e-3") == 2
    assert "begun with another lr" in capsys.readouterr().err

    (place / "whole" / "suite" / "evaluation.csv").unlink()
    (place / "text").rename(place / "elsewhere")
    assert cook("whole") == 0  # the suite is there all the same
    assert "not evaluated: " in capsys.readouterr().out
    (place / "elsewhere").rename(place / "text")


def _bar_over_all(capsys: pytest.CaptureFixture[str]) -> list[tuple[str, int]]:
    """The parts and per cents that it has shown."""
    shown = re.findall(r"Whole suite, (\w+): +(\d+)%", capsys.readouterr().err)
    return [(part, int(share)) for part, share in shown]


def _killed(_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("architecture", ["topk", "matryoshka_batchtopk"])
def test_the_plan_costs_what_the_budget_allows_and_writes_nothing(
    architecture: str, place: Path, cook: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--matryoshka_widths", "32", "64", "128"] * (architecture != "topk")
    assert cook("dry", "--dry_run", "--budget", "0.3", *own, architecture=architecture) == 0
    shown = capsys.readouterr().out
    assert float(_found(r"([\d.]+) of its FLOPs", shown)) == pytest.approx(0.3, abs=0.011)
    assert hashes(place / "dry") == {}
    tokens = {part: _tokens(part, shown) for part in ("cache", "groups", "layers")}
    assert tokens["layers"] == pytest.approx(0.3 * tokens["groups"], abs=1)
    assert tokens["cache"] == pytest.approx(0.2 * tokens["groups"], abs=1)


def test_a_time_scales_the_parts_by_measured_speed(
    cook: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cook("dry", "--dry_run", "--budget", "2m") == 0
    assert float(_found(r"in all .* ([\d.]+) m ", capsys.readouterr().out)) == pytest.approx(
        2, abs=0.02
    )


def test_nothing_is_cached_where_the_disk_has_no_room(
    cook: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    assert cook("dry", "--dry_run") == 0
    shown = capsys.readouterr().out
    assert "cache" not in shown
    assert _tokens("groups", shown) == 8192


def test_a_cache_that_the_budget_makes_too_large_for_the_disk_is_left_out(
    cook: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four layers of width 96 take 768 bytes a token, and half of the disk holds 8,000 tokens."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=12_500_000))
    assert cook("dry", "--dry_run") == 0
    assert _tokens("cache", capsys.readouterr().out) == 1638
    assert cook("dry", "--dry_run", "--budget", "10m") == 0
    shown = capsys.readouterr().out
    assert "cache" not in shown
    assert float(_found(r"in all .* ([\d.]+) m ", shown)) == pytest.approx(10, abs=0.1)


def test_mistakes_are_one_line_and_come_before_the_model_is_loaded(
    cook: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("sae_lens_groups.train.recipe.load_hooked_model", loaded)
    for words, told in {
        ("--budget", "1.5"): "neither a share such as 0.15 nor a time",
        ("--budget", "0"): "neither a share",
        ("--init_from", "groups"): "--init_from is decided by the recipe",
        ("--lr_decay_steps", "10"): "--lr_decay_steps is decided by the recipe",
        ("--output_path", ""): "--output_path is not given",
        ("--layer_groups", "each"): "each group has one layer",
        ("--layer_groups", "auto"): "name its plan.json",
        ("--layer_groups", "3-40"): "40",
        ("--output_path", "../text"): "already holds",
        ("--dataset_path", "nowhere"): "nowhere",
    }.items():
        assert cook("mistakes", *words) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if "Importing" not in line]
        assert len(lines) == 1
        assert told in lines[0]


def test_layers_are_grouped_in_fours_where_no_groups_are_named(
    capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    words = [word for word in SETTINGS if word not in ("--layer_groups", "3-4,5-6")]
    given = ["--output_path", str(place / "fours"), "--model_name", str(place / "model"), *words]
    given[given.index("../text")] = str(place / "text")
    assert main(["suite", "--architecture", "topk", *given, "--dry_run"]) == 0
    assert "3 SAEs: 0-3,4-7,8-11" in capsys.readouterr().out


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, text
    return found[1]


def _tokens(part: str, shown: str) -> int:
    return int(_found(rf"(?m)^{part} +([\d,]+) tokens", shown).replace(",", ""))
