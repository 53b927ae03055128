"""tutorials/contributing.md is true: its paths and names exist, and its examples work."""

import csv
import importlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from textwrap import indent
from types import ModuleType
from typing import Any

import pytest
import torch
from datasets import Dataset
from sae_lens import TopKTrainingSAE
from sae_lens.saes.sae import TrainStepInput
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupSAETrainingRunner, SAESuite, files
from sae_lens_groups.cli import main
from sae_lens_groups.errors import ConfigError
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan.rule import PartitionRule, parse_layer_groups, resolve
from sae_lens_groups.plugins import fast_steps, partitions, plugin_manager
from sae_lens_groups.train.fast_step import Scratch

from .processes import run
from .tiny import group_config, sae_config, settings

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sae_lens_groups"
PAGE = (ROOT / "tutorials" / "contributing.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """What stands under a heading of the page, up to the next."""
    start = PAGE.index(f"\n## {heading}\n")
    return PAGE[start : PAGE.find("\n## ", start + 1)]


def blocks(heading: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", section(heading), re.DOTALL | re.MULTILINE)


def module_of(code: str, name: str) -> ModuleType:
    module = ModuleType(name)
    exec(compile(code, name, "exec"), module.__dict__)
    return module


def namespace_of(module: str) -> dict[str, Any]:
    """A copy of what code in a module of the package finds there."""
    return dict(vars(importlib.import_module(module)))


# --- what the page names ---


def test_every_path_on_the_page_exists() -> None:
    named = set(re.findall(r"`((?:[\w.]+/)+[\w.]*|\w+\.(?:py|md|toml))`", PAGE))
    assert len(named) > 20
    missing = {
        path
        for path in named
        if not any((base / path).exists() for base in (ROOT, PACKAGE, ROOT / "tutorials"))
    }
    assert missing == set()


def test_every_import_on_the_page_works() -> None:
    imports = re.findall(r"^from (sae_lens_groups[\w.]*) import (.+)$", PAGE, re.MULTILINE)
    assert imports
    for module, names in imports:
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_the_rooms_of_the_page_are_those_of_the_package() -> None:
    (drawn,) = blocks("The rooms", "")
    words = [re.split(r" {3,}", line[13:])[0] for line in drawn.splitlines()]
    rooms = [room.rstrip("/") for line in words for room in line.split()]
    present = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert sorted(rooms) == sorted(present - {"__pycache__"})
    assert rooms == importlib.import_module("tests.test_rooms").ORDER


# --- a new rule ---


RULE = "A new rule for `layer_groups`"


def test_the_rule_of_the_page_groups_layers_once_it_is_registered() -> None:
    (code,) = blocks(RULE)
    plugin = module_of(code, "early_layers")
    plugin_manager().register(plugin, name="early_layers")
    try:
        rule = parse_layer_groups("early:3")
        assert isinstance(rule, PartitionRule)
        assert resolve(rule, 6, partitions()) == (
            *(LayerGroup(0, 0), LayerGroup(1, 1), LayerGroup(2, 4)),
            LayerGroup(5, 5),
        )
    finally:
        plugin_manager().unregister(plugin)
    assert "early" not in partitions()


def test_the_rule_of_the_page_is_found_in_an_installed_package(tmp_path: Path) -> None:
    (code,), (toml,) = blocks(RULE), blocks(RULE, "toml")
    (tmp_path / "early_layers.py").write_text(code)
    installed = tmp_path / "early_layers-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: early-layers\nVersion: 1\n")
    entry = re.search(r"^(\w+) = \"(\w+)\"$", toml, re.MULTILINE)
    assert entry is not None
    assert "[project.entry-points.sae_lens_groups]" in toml
    (installed / "entry_points.txt").write_text(f"[sae_lens_groups]\n{entry[1]} = {entry[2]}\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = run("-m", "sae_lens_groups", "plugins", env={**os.environ, "PYTHONPATH": path})
    assert re.search(r"register_partitions +early +early_layers", done.stdout), done.stderr


# --- a fast step ---


def test_the_step_of_the_page_gives_autograds_gradients() -> None:
    class AboveHalf(TopKTrainingSAE):
        """As the page's architecture."""

        def get_activation_fn(self) -> Callable[[torch.Tensor], torch.Tensor]:
            return lambda hidden: hidden * (hidden > 0.5)

    (code,) = blocks("A fast step for another architecture")
    plugin = module_of(code, "above_half")
    plugin_manager().register(plugin, name="above_half")
    try:
        step = fast_steps()["above_half"]
    finally:
        plugin_manager().unregister(plugin)
    cfg: Any = sae_config("topk", d_in=8, d_sae=24)
    sae = AboveHalf(cfg)
    sae.W_enc.data.mul_(90)
    rows_BD, n_steps_F = torch.randn(16, 8), torch.zeros(24)
    step(sae, 9, Scratch())(rows_BD, n_steps_F, {})
    found = {name: parameter.grad for name, parameter in sae.named_parameters()}
    sae.zero_grad()
    sae.training_forward_pass(TrainStepInput(rows_BD, {}, n_steps_F > 9, 0, False)).loss.backward()
    for name, parameter in sae.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)
        assert parameter.grad is not None
        assert parameter.grad.any()


# --- a new metric ---


METRIC = "A new metric"
EVALUATE = """
import sys
from sae_lens_groups import SAESuite, evaluate_suite, report_page
from sae_lens_groups.evaluate.report.text import evaluation_text
from tests.tiny import make_model, make_tokens
suite, baseline = (SAESuite.load(sys.argv[1]) for _ in range(2))
tokens = make_tokens(n_prompts=16, seed=1)
found = evaluate_suite(
    suite, make_model(), tokens, baseline=baseline, n_batches=2, batch_size_prompts=8
)
print(evaluation_text(found))
print(report_page(suite, found))
"""


@pytest.fixture(scope="module")
def suite_folder(
    model: HookedTransformer, tokens: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("contributing") / "suite"
    cfg = group_config("0-2,3", output_path=str(folder))
    GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model).run()
    return folder


def test_the_metric_of_the_page_is_in_every_table_of_scores(
    suite_folder: Path, tmp_path: Path
) -> None:
    edited = Path(shutil.copytree(PACKAGE, tmp_path / "edited/sae_lens_groups"))
    file = edited / "evaluate" / "metrics.py"
    text = file.read_text()
    for diff in blocks(METRIC, "diff"):
        before, after = (
            "".join(line[1:] for line in diff.splitlines(keepends=True) if line[0] in marks)
            for marks in (" ", " +")
        )
        assert text.count(before) == 1
        text = text.replace(before, after)
    file.write_text(text)
    folder = Path(shutil.copytree(suite_folder, tmp_path / "suite"))
    path = os.pathsep.join([str(edited.parent), str(ROOT)])
    done = run("-c", EVALUATE, str(folder), env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    with (folder / "evaluation.csv").open(newline="") as rows:
        for row in csv.DictReader(rows):
            assert 0 < float(row["normalized_mse"]) <= 1.001 - float(row["explained_variance"])
            assert float(row["normalized_mse_diff"]) == 0
    terminal, page = done.stdout.split("<!DOCTYPE html>")
    for table in (terminal, page, (folder / "evaluation" / "layers.md").read_text()):
        assert "normalized_mse" in table


# --- a new form of source ---


SOURCE = "A new form of source for `init_from`"


def test_the_source_of_the_page_can_be_loaded_and_started_from(
    suite_folder: Path,
    model: HookedTransformer,
    tokens: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    the_class, the_line = blocks(SOURCE)
    opener = importlib.import_module("sae_lens_groups.saved.open")
    zipped_suite = module_of(the_class, "zipped").ZippedSuite
    in_folder = module_of(
        f"def in_folder(folder, name):\n{indent(the_line, ' ' * 4)}    return ordinary(folder, name)\n",
        "in_folder",
    )
    vars(in_folder).update(ZippedSuite=zipped_suite, ordinary=opener._in_folder)
    monkeypatch.setattr(opener, "_in_folder", in_folder.in_folder)

    suite = SAESuite.load(suite_folder)
    file = Path(shutil.make_archive(str(tmp_path / "suite"), "zip", suite_folder))

    loaded = SAESuite.load(file)
    assert all(torch.equal(loaded[name].W_dec, suite[name].W_dec) for name in suite)
    cfg = group_config("each", init_from=str(file), output_path=str(tmp_path / "each"))
    started = GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model).run()
    assert started.manifest.transfer is not None
    assert started.manifest.transfer.init_from == str(file)


# --- a new flag ---


FLAG = "A new flag"


def test_the_flag_of_the_page_is_a_setting_and_is_checked() -> None:
    the_field, the_check = blocks(FLAG)
    in_config = namespace_of("sae_lens_groups.config")
    exec(
        "@dataclass(kw_only=True)\n"
        f"class Config(GroupSAERunnerConfig):\n{indent(the_field, ' ' * 4)}",
        in_config,
    )
    in_prepare = namespace_of("sae_lens_groups.train.prepare")
    exec(the_check, in_prepare)
    check = in_prepare["require_tokens_per_layer"]
    flags = {flag.name: flag.metadata for flag in fields(in_config["Config"])}
    assert flags["min_tokens_per_layer"] == flags["layer_groups"]  # in the cache's identity or not

    groups = (LayerGroup(0, 2), LayerGroup(3, 3))
    given = {**settings(training_tokens=960), "layer_groups": "0-2,3"}
    check(in_config["Config"](**given), groups)
    check(in_config["Config"](**given, min_tokens_per_layer=320), groups)
    with pytest.raises(ConfigError, match="group 0-2 draws each layer for 320 tokens, fewer than"):
        check(in_config["Config"](**given, min_tokens_per_layer=321), groups)
    with pytest.raises(ConfigError, match="min_tokens_per_layer is 'many'; it takes a whole"):
        in_config["Config"](**given, min_tokens_per_layer="many")


# --- a new published file ---


FILE = "A new published file"


def test_the_file_of_the_page_is_published_once_it_is_in_the_table(
    suite_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    the_row, the_line = blocks(FILE)
    names = importlib.import_module("sae_lens_groups.files.names")
    in_names = namespace_of("sae_lens_groups.files.names")
    exec(the_row, in_names)
    _, row = in_names["FILES"]  # the first stands for all others
    monkeypatch.setattr(files, "STRONGEST_TOKENS", in_names["STRONGEST_TOKENS"], raising=False)
    folder = Path(shutil.copytree(suite_folder, tmp_path / "suite"))
    details = folder / "evaluation"
    details.mkdir()
    exec(the_line, {"files": files, "details": details, "rows": [{"feature": 3, "token": "the"}]})
    assert (details / "strongest_tokens.csv").read_text() == "feature,token\n3,the\n"

    publish = ["publish", str(folder), "your-name/my-suite", "--dry_run"]
    assert main(publish) == 0
    assert "evaluation/strongest_tokens.csv" not in capsys.readouterr().out
    monkeypatch.setattr(names, "FILES", (*names.FILES, row))
    assert main(publish) == 0
    assert "evaluation/strongest_tokens.csv" in capsys.readouterr().out
    assert not names.is_covered("evaluation/strongest_tokens.csv")  # every evaluation rewrites it
