"""SAEBench and sae-probes score a suite's layers: the programs of tutorials/saebench.md.

They run as the page shows them, in processes that cannot import this package.
"""

import contextlib
import json
import os
import re
import shutil
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from datasets import Dataset

from sae_lens_groups import GroupSAETrainingRunner, SAESuite
from sae_lens_groups.demo.model import stdlib_tokens
from sae_lens_groups.demo.run import demo_config

from . import processes
from .hub import serving

PAGE = (Path(__file__).parent.parent / "tutorials" / "saebench.md").read_text(encoding="utf-8")
PREPARE, CORE, FROM_HUB, PROBES = re.findall(
    r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE
)
FOLDER = os.environ.get("SAEBENCH_FOLDER", "")
"""SAEBench and what it brings may be in a folder that these programs alone look into."""
NEEDED = ("sae_bench", "sae_probes", "sklearn", "tabulate", "xgboost", "zstandard")
LAYERS = [2, 3, 11]  # a group of two and one alone
HF_HOOK = "gpt_neox.layers.{}"
TL_HOOK = "blocks.{}.hook_resid_post"
TL_MODEL = "EleutherAI/pythia-14m"

FEW_BATCHES = (
    ("n_eval_reconstruction_batches=4", "n_eval_reconstruction_batches=1"),
    ("n_eval_sparsity_variance_batches=16", "n_eval_sparsity_variance_batches=1"),
)
SHORT_PROMPTS = ('"96_spam_is"', '"117_us_state_FL"')

_WITHOUT_US = """
import sys
sys.modules["sae_lens_groups"] = None  # importing it fails
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _saebench() -> None:
    missing = [name for name in NEEDED if PathFinder.find_spec(name, [FOLDER, *sys.path]) is None]
    if missing:
        # CI sets it, so that SAEBench cannot go untested there.
        assert not os.environ.get("REQUIRE_SAEBENCH"), f"{', '.join(missing)} not installed"
        pytest.skip("needs SAEBench and sae-probes, see tutorials/saebench.md")


@pytest.fixture(scope="module")
def tokens() -> Dataset:
    return stdlib_tokens("held_out")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokens: Dataset) -> Path:
    """Where the programs run: the model and the text, as on the page, and a shorter suite."""
    folder = tmp_path_factory.mktemp("saebench")
    run(PREPARE, folder).check_returncode()
    train(folder / "my_suite", tokens)
    return folder


@pytest.fixture(scope="module")
def hooked_suite(folder: Path, tokens: Dataset) -> Path:
    """A suite whose files have TransformerLens's names of the model and the hooks."""
    with contextlib.chdir(folder):
        train(
            folder / "hooked_suite",
            tokens,
            model_class_name="HookedTransformer",
            model_name=TL_MODEL,
            hook_name=TL_HOOK.format(0),
        )
    return folder / "hooked_suite"


def train(suite_folder: Path, tokens: Dataset, **flags: Any) -> SAESuite:
    """The demo with few layers and tokens."""
    cfg = demo_config("2-3,11", suite_folder, training_tokens=50_000, **flags)
    return GroupSAETrainingRunner(cfg, override_dataset=tokens).run()


def run(program: str, folder: Path, **environment: str) -> CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": FOLDER, **environment}
    return processes.run("-c", program, cwd=folder, env=environment)


def run_without_us(program: str, folder: Path, **environment: str) -> str:
    process = run(_WITHOUT_US + program, folder, **environment)
    assert process.returncode == 0, process.stderr
    return process.stdout


def changed(program: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert program.count(old) == 1, old
        program = program.replace(old, new)
    return program


ON_HOOKED_SUITE = changed(
    CORE,
    *FEW_BATCHES,
    ('Path("my_suite")', 'Path("hooked_suite")'),
    ('    sae.cfg.metadata.model_name = "EleutherAI/pythia-14m"\n', ""),
    ("    sae.cfg.metadata.hook_name = f\"blocks.{facts['layer']}.hook_resid_post\"\n", ""),
)


def core_metrics(file: Path) -> dict[str, float]:
    """All metrics in a result file of SAEBench, whose name lacks its end."""
    path = file.with_name(f"{file.name}_eval_results.json")
    by_section = json.loads(path.read_text())["eval_result_metrics"]
    return {name: value for section in by_section.values() for name, value in section.items()}


def core_scores(shown: str) -> list[tuple[str, float]]:
    """Name and explained variance of each line that the page's program prints."""
    found = re.findall(r"^(\S+) +EV (\S+)  CE-loss score \S+  L0 16\.0$", shown, re.MULTILINE)
    return [(name, float(variance)) for name, variance in found]


def require_scores_of_these_layers(suite_folder: Path, shown: str, hook_template: str) -> None:
    scores = core_scores(shown)
    assert [name for name, _ in scores] == [
        f"{suite_folder.name}_{hook_template.format(layer)}" for layer in LAYERS
    ]
    assert all(0 < variance < 1 for _, variance in scores)
    in_suite = json.loads((suite_folder / "suite.json").read_text())["layers"]
    trained, measured = [], []
    for (name, _), layer in zip(scores, LAYERS):
        file = suite_folder.parent / "saebench_core" / f"{name}_custom_sae_eval_results.json"
        result = json.loads(file.read_text())
        metadata = result["sae_cfg_dict"]["metadata"]
        assert metadata["hook_name"] == TL_HOOK.format(layer)  # where SAEBench put the SAE
        assert metadata["sae_lens_groups"]["layer"] == layer  # which SAE it was
        trained.append(1 / in_suite[hook_template.format(layer)]["scaling_factor"])
        measured.append(result["eval_result_metrics"]["shrinkage"]["l2_norm_in"])
    # What it saw there grows from layer to layer as in training. The order, not the values: every
    # layer gets the same tokens, but few tokens move all norms more than layers 2 and 3 differ.
    assert trained == sorted(set(trained))
    assert measured == sorted(set(measured))


def test_these_processes_cannot_import_us(folder: Path) -> None:
    process = run(_WITHOUT_US + "import sae_lens_groups.layers", folder)
    assert "ModuleNotFoundError" in process.stderr


def test_core_scores_every_layer_of_the_demos_suite(folder: Path) -> None:
    shown = run_without_us(CORE, folder)
    require_scores_of_these_layers(folder / "my_suite", shown, HF_HOOK)


def test_core_scores_a_hooked_transformers_suite_under_its_own_names(
    folder: Path, hooked_suite: Path
) -> None:
    shown = run_without_us(ON_HOOKED_SUITE, folder)
    require_scores_of_these_layers(hooked_suite, shown, TL_HOOK)


def test_core_scores_a_suite_on_the_hub_as_it_does_its_saes(
    folder: Path, hooked_suite: Path, tmp_path: Path
) -> None:
    shutil.copytree(hooked_suite, tmp_path / "hub/me/my_suite")
    with serving(tmp_path / "hub") as endpoint:
        shown = run_without_us(
            changed(FROM_HUB, *FEW_BATCHES),
            folder,
            HF_ENDPOINT=endpoint,
            HF_HOME=str(tmp_path / "home"),
            HF_HUB_OFFLINE="0",
        )
    hook_names = [TL_HOOK.format(layer) for layer in LAYERS]
    assert [name for name, _ in core_scores(shown)] == hook_names

    run_without_us(ON_HOOKED_SUITE, folder)
    for hook_name in hook_names:
        from_hub = core_metrics(folder / f"saebench_core/me_my_suite_{hook_name}")
        of_object = core_metrics(folder / f"saebench_core/hooked_suite_{hook_name}_custom_sae")
        assert from_hub.keys() == of_object.keys()
        for metric, value in of_object.items():
            assert from_hub[metric] == pytest.approx(value, rel=1e-5, abs=1e-6), metric


def test_a_hook_name_that_the_hub_does_not_have_stops_saebench(
    folder: Path, hooked_suite: Path, tmp_path: Path
) -> None:
    """As the page says; it would be a result less otherwise."""
    shutil.copytree(hooked_suite, tmp_path / "hub/me/my_suite")
    shutil.rmtree(tmp_path / "hub/me/my_suite" / TL_HOOK.format(3))
    with serving(tmp_path / "hub") as endpoint:
        process = run(
            _WITHOUT_US + changed(FROM_HUB, *FEW_BATCHES),
            folder,
            HF_ENDPOINT=endpoint,
            HF_HOME=str(tmp_path / "home"),
            HF_HUB_OFFLINE="0",
        )
    assert process.returncode == 1
    assert "EntryNotFoundError" in process.stderr


def test_a_layer_that_saebench_drops_is_named(folder: Path) -> None:
    """Here one that keeps its Hugging Face name; SAEBench itself goes on and says nothing."""
    program = changed(
        CORE,
        *FEW_BATCHES,
        (
            "    sae.cfg.metadata.hook_name",
            "    if facts['layer'] != 3: sae.cfg.metadata.hook_name",
        ),
    )
    process = run(_WITHOUT_US + program, folder)
    assert process.returncode == 1
    assert (
        "RuntimeError: SAEBench gave 2 results for 3 SAEs, none for ['my_suite_gpt_neox.layers.3']"
        in process.stderr
    )
    assert "Failed to evaluate SAE custom_sae from my_suite_gpt_neox.layers.3" in process.stderr


def test_saebench_loses_every_result_with_its_own_defaults(folder: Path) -> None:
    """As the page says; once this fails, the page and its program can be simpler."""
    program = changed(
        CORE,
        *FEW_BATCHES,
        ("    compute_featurewise_density_statistics=True,\n", ""),
        ("    compute_featurewise_weight_based_metrics=True,\n", ""),
    )
    process = run(_WITHOUT_US + program, folder)
    assert process.returncode == 1
    assert "RuntimeError: SAEBench gave 0 results for 3 SAEs, none for" in process.stderr


def test_probes_score_every_layer(folder: Path) -> None:
    shown = run_without_us(changed(PROBES, SHORT_PROMPTS), folder)
    line = r"^(\S+) +117_us_state_FL  AUC  k 1: (\S+)  k 16: (\S+)$"
    found = re.findall(line, shown, re.MULTILINE)
    assert [hook for hook, _, _ in found] == [TL_HOOK.format(layer) for layer in LAYERS]
    assert all(0 < float(auc) < 1 for _, *aucs in found for auc in aucs)
    of_16_features = [float(auc) for _, _, auc in found]
    assert sum(of_16_features) / len(LAYERS) > 0.5  # chance


def test_a_missing_probe_raises(folder: Path) -> None:
    program = changed(
        PROBES,
        SHORT_PROMPTS,
        ('Path("probes_of_my_suite")', 'Path("probes_with_one_less")'),
        ("for hook_name, hook in hooks.items():", "for hook_name, hook in [*hooks.items()][:-1]:"),
    )
    process = run(_WITHOUT_US + program, folder)
    assert process.returncode == 1
    assert "RuntimeError: sae-probes gave 4 results where 6 are due" in process.stderr
