"""What 0.7.0 wrote is read, resumed and started from: `tests/written_by.py` wrote it then."""

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sae_lens import SAE
from safetensors.torch import load_file
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupPlan, GroupSAETrainingRunner, LayerGroup, SAESuite

from .tiny import D_IN, D_SAE, group_config
from .written_by import CACHED, PLANNED, STARTED, STOPPED, train

ARCHIVE = Path(__file__).parent / "assets" / "written_by_0_7_0.tar.xz"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("0_7_0")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "w"


@pytest.fixture
def written(unpacked: Path, tmp_path: Path) -> Path:
    """A copy in the working folder, where the run that wrote it named its folders."""
    shutil.copytree(unpacked, tmp_path, dirs_exist_ok=True)
    return tmp_path


def require_equal_weights(folder: Path, other: Path) -> None:
    """All SAEs are equal but for rounding, which depends on the machine, and for BatchTopK's
    threshold, which began at 0 then (tests/test_threshold.py)."""
    names = [path.relative_to(other) for path in other.rglob("sae_weights.safetensors")]
    assert len(names) > 3
    for name in names:
        ours, theirs = load_file(folder / name), load_file(other / name)
        for weights in (ours, theirs):
            weights.pop("threshold", None)
            weights.pop("topk_threshold", None)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_a_suite_is_read_whole(written: Path) -> None:
    suite = SAESuite.load(written / "planned")
    assert suite.layers == (0, 1, 2, 3)
    assert suite.manifest.groups == (LayerGroup(0, 0), LayerGroup(1, 2), LayerGroup(3, 3))
    assert suite.manifest.plan is not None
    assert suite.manifest.plan.groups == suite.manifest.groups
    assert len(suite.training_curves) > 0
    x_BD = torch.randn(8, D_IN, generator=torch.Generator().manual_seed(0))
    for hook_name, sae in suite.items():
        plain = SAE.load_from_disk(written / "planned" / hook_name)
        torch.testing.assert_close(sae(x_BD), plain(x_BD), rtol=0, atol=0)
    for group in suite.manifest.groups:
        assert suite.group(group).cfg.architecture() == "batchtopk"
        for layer in group.layers:
            x_again_BD = suite.scaler(layer).unscale(suite.scaler(layer).scale(x_BD))
            torch.testing.assert_close(x_again_BD, x_BD)
            assert suite.log_sparsity(layer).shape == (D_SAE,)


def test_what_a_suite_started_from_is_read(written: Path) -> None:
    transfer = SAESuite.load(written / "started").manifest.transfer
    assert transfer is not None
    assert dict(transfer.source_layers) == {1: 1, 2: 2}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("planned", PLANNED),
        ("whole", STOPPED),
        ("started", {**STARTED, "init_from": "planned", "init_alignment": "affine"}),
        (
            "from_cache",
            {**CACHED, "use_cached_activations": True, "cached_activations_path": "cache"},
        ),
    ],
)
def test_the_same_settings_give_the_same_weights(
    written: Path, name: str, settings: dict[str, Any]
) -> None:
    train("again", **settings)
    require_equal_weights(written / "again", written / name)


@pytest.mark.filterwarnings("ignore:the run goes on from:UserWarning")  # of another SAELens
def test_a_checkpoint_is_resumed(written: Path) -> None:
    (checkpoint,) = (written / "checkpoints").glob("*/*")
    train("resumed", **STOPPED, resume_from_checkpoint=str(checkpoint))
    require_equal_weights(written / "resumed", written / "whole")


def test_a_plan_names_groups(written: Path, model: HookedTransformer, tokens: Dataset) -> None:
    plan = GroupPlan.load(written / "plan.json")
    runner = GroupSAETrainingRunner(group_config("plan.json"), tokens, model)
    assert runner.groups == plan.groups
    assert plan.groups == (LayerGroup(0, 0), LayerGroup(1, 2), LayerGroup(3, 3))
