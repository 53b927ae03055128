"""The package from outside: what it exports, what importing it does, what its documents say."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
import torch
from datasets import config as datasets_config
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from sae_lens import constants

import sae_lens_groups
from sae_lens_groups import demo, errors, files
from sae_lens_groups.demo import corpus
from sae_lens_groups.demo.model import MODEL_FOLDER

from . import processes
from .hub import Token, hub

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def run_python(code: str, cwd: Path) -> str:
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=600
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_the_public_names_are_these() -> None:
    assert sae_lens_groups.__all__ == [
        "GroupPlan",
        "GroupSAERunnerConfig",
        "GroupSAETrainingRunner",
        "LayerDistances",
        "LayerGroup",
        "SAESuite",
        "SweepTrainingRunner",
        "__version__",
        "cache_activations",
        "collect_features",
        "evaluate_suite",
        "evaluate_sweep",
        "hookimpl",
        "measure_layer_distances",
        "plan_groups",
        "refit_suite",
        "report_page",
        "steer",
    ]
    for name in sae_lens_groups.__all__:
        assert getattr(sae_lens_groups, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'SAEsuite'"):
        _ = sae_lens_groups.SAEsuite  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_is_quick_and_silent(tmp_path: Path) -> None:
    shown = run_python(
        "import sys, sae_lens_groups, sae_lens_groups.cli\n"
        "print(sorted({'torch', 'sae_lens', 'transformers', 'datasets'} & set(sys.modules)))",
        tmp_path,
    )
    assert shown == "[]\n"


def test_every_error_is_of_the_one_kind_that_callers_catch() -> None:
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    mine = {kind for kind in kinds if kind.__module__ == errors.__name__}
    assert len(mine) > 15
    other = {kind for kind in mine if not issubclass(kind, errors.GroupSAEError)}
    assert other == {errors.TrainingInterrupted}


@pytest.mark.seam
def test_saelens_file_names_are_written_out_correctly() -> None:
    assert files.RUNNER_CFG == constants.RUNNER_CFG_FILENAME
    assert files.SCALER == constants.ACTIVATION_SCALER_CFG_FILENAME


def test_the_changelog_starts_with_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == sae_lens_groups.__version__


def test_the_demo_model_ships_with_the_package_and_is_small() -> None:
    names = {path.name for path in MODEL_FOLDER.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert sum(path.stat().st_size for path in MODEL_FOLDER.iterdir()) < 4_000_000


def test_the_demo_text_is_the_same_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(demo.model, "stdlib_texts", lambda split: [f"# {split}\n"] * 40)
    before = demo.stdlib_tokens("train", 16)["tokens"][:]
    (cached,) = (tmp_path / "cache").rglob("*.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(demo.model, "_tokenised", None)
        assert demo.stdlib_tokens("train", 16)["tokens"][:] == before
    assert demo.stdlib_tokens("held_out", 16)["tokens"][:] != before
    cached.parent.parent.rename(tmp_path / "moved")
    (tmp_path / "cache").write_text("no folder, so that nothing can be written")
    assert demo.stdlib_tokens("train", 16)["tokens"][:] == before


def test_the_demo_text_is_split_by_file() -> None:
    train, held_out = set(corpus.stdlib_files("train")), set(corpus.stdlib_files("held_out"))
    assert not train & held_out
    assert 0.05 < len(held_out) / len(train | held_out) < 0.15


@pytest.mark.slow
def test_the_demo_models_held_out_loss_is_far_below_a_unigram_models() -> None:
    from transformers import AutoTokenizer, GPTNeoXForCausalLM

    from tests.benchmarks.demo_model import held_out_loss, tokenize, unigram_loss

    train = torch.tensor(demo.stdlib_tokens("train")["tokens"][:]).flatten()

    tokenizer = AutoTokenizer.from_pretrained(MODEL_FOLDER)
    held_out = tokenize(tokenizer, "held_out")[: 256 * 200]
    model = GPTNeoXForCausalLM.from_pretrained(MODEL_FOLDER)
    assert model.dtype.is_floating_point
    assert str(model.dtype) == "torch.float32"
    assert unigram_loss(train, held_out) > 6
    assert held_out_loss(model, held_out) < 2.9


@pytest.mark.seam
def test_floor_and_newest_are_those_that_the_package_names() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    oldest = re.search(r"sae-lens==(\S+)", (ROOT / "tests/floor.txt").read_text())
    assert oldest is not None
    assert f"sae-lens>={oldest[1]},<7" in dependencies
    assert "torch>=2.6" in dependencies  # whose torch.load runs no code of a checkpoint


def imported_distributions() -> set[str]:
    """The distributions that any module of the package imports, wherever in it."""
    modules: set[str] = set()
    for path in (ROOT / "sae_lens_groups").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module.partition(".")[0])
    modules -= {*sys.stdlib_module_names, "sae_lens_groups"}
    providers = metadata.packages_distributions()
    return {providers[module][0].lower().replace("_", "-") for module in modules}


def test_what_is_imported_is_declared_and_nothing_else() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [re.split(r"[<>=]", requirement)[0] for requirement in declared]
    assert names == sorted(imported_distributions())


# --- documents ---


def numbers_masked(text: str) -> list[str]:
    """Lines with each decimal number replaced, so that rounding does not matter."""
    return [re.sub(r"-?\d+\.\d+", "#", line).rstrip() for line in text.strip().splitlines()]


def test_the_readmes_program_prints_what_the_readme_shows(tmp_path: Path) -> None:
    block = re.search(r"```python\n(.*?)```\n\nIt prints:\n\n```\n(.*?)```", README, re.DOTALL)
    assert block is not None
    done = processes.run("-c", block[1], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    assert numbers_masked(shown) == numbers_masked(block[2])
    for found, written in zip(re.findall(r"\d+\.\d+", shown), re.findall(r"\d+\.\d+", block[2])):
        assert float(found) == pytest.approx(float(written), abs=0.03)


_KERNEL = """
import os, runpy, sys
sys.executable = {python!r}  # whose neighbour is `sae-lens-groups`
os.environ.pop("JPY_PARENT_PID")  # the parent is another one here
runpy.run_module("ipykernel_launcher", run_name="__main__")
"""


NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore")  # of Jupyter
def test_tutorials_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(path, as_version=4)
    (tmp_path / "work").mkdir()
    resources = {"metadata": {"path": str(tmp_path / "work")}}
    with hub(mode="lfs", tokens={"hf_reader": Token("your-name")}) as server:
        for name, value in server.environment(tmp_path / "home", "hf_reader").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HF_DATASETS_CACHE", str(datasets_config.HF_DATASETS_CACHE))
        require_statuses_of_commands(notebook)
        with processes.commands(tmp_path / "bin") as bin_folder:
            client = NotebookClient(notebook, timeout=600, resources=resources)
            kernel_spec = client.create_kernel_manager().kernel_spec
            assert kernel_spec is not None
            python = str(bin_folder / "python")
            code = _KERNEL.format(python=python)
            kernel_spec.argv = [python, "-c", code, "-f", "{connection_file}"]
            client.execute()
    for cell in notebook.cells:  # of a pipe the status is that of its end
        if is_command(cell):
            assert any(output.get("text") for output in cell.outputs), cell.source


def is_command(cell: nbformat.NotebookNode) -> bool:
    return cell.cell_type == "code" and cell.source.startswith("!")


def require_statuses_of_commands(notebook: nbformat.NotebookNode) -> None:
    """Lets a command that fails stop the notebook, which it would not by itself."""
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if is_command(cell):
            status = 2 if "refused" in cell.metadata.get("tags", []) else 0
            check = f"assert _exit_code == {status}, f'the command ended with {{_exit_code}}'"
            cells.append(nbformat.v4.new_code_cell(check))
    notebook.cells = cells


def test_a_command_that_fails_stops_a_tutorial(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("!echo so; false")])
    require_statuses_of_commands(notebook)
    with pytest.raises(CellExecutionError, match="the command ended with 1"):
        NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()


def test_every_flag_of_ours_is_in_the_readme() -> None:
    from dataclasses import fields

    from sae_lens import LanguageModelSAERunnerConfig

    theirs = {field.name for field in fields(LanguageModelSAERunnerConfig)}
    ours = {field.name for field in fields(sae_lens_groups.GroupSAERunnerConfig)} - theirs
    assert ours == {
        "layer_groups",
        "amad_threshold",
        "plan_tokens",
        "layers_per_token",
        "max_activation_norm_multiple",
        "fast_step",
        "layer_alignment",
        "refit_tokens",
        "ranks_per_group",
        "init_features",
        "init_from",
        "init_direction",
        "init_parameters",
        "init_alignment",
        "init_keep_layers",
        "sweep",
        "token_fraction",
        "checkpoint_every",
        "keep_checkpoints",
    }
    for name in ours:
        assert f"`--{name}" in README or f"`{name}`" in README


def test_relative_links_in_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "tutorials").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def linked_pages(text: str) -> list[str]:
    """The tutorials that a text links to, each once, in its order."""
    links = re.findall(r"\]\((?:tutorials/)?([\w.]+\.(?:md|ipynb))\)", text)
    return list(dict.fromkeys(links))


def test_readme_and_index_lead_through_every_tutorial_in_one_order() -> None:
    tutorials = ROOT / "tutorials"
    index = linked_pages((tutorials / "README.md").read_text(encoding="utf-8"))
    read_on = README.partition("## Where to read on\n")[2].partition("\n## ")[0]
    in_readme = [name for name in linked_pages(read_on) if name != "README.md"]
    assert in_readme == index
    pages = {path.name for path in tutorials.iterdir() if path.suffix in {".md", ".ipynb"}}
    assert set(index) == pages - {"README.md"}


def test_documents_import_from_public_doors_alone() -> None:
    """`sae_lens_groups`, one of its rooms or a hook's file, never a module inside a room."""
    for document in [ROOT / "README.md", *(ROOT / "tutorials").iterdir()]:
        if document.suffix not in {".md", ".ipynb"}:
            continue
        text = document.read_text(encoding="utf-8")
        # Inside a room, as in this class of saved/, modules import one another.
        text = text.replace("from sae_lens_groups.saved.suite import SavedSuite", "")
        for name in re.findall(r"from (sae_lens_groups[\w.]*) import", text):
            assert name.count(".") <= 1, f"{document.name}: {name}"
