"""SAEs that SAELens trained, one per layer, become a suite: as a source, a baseline, a new folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from sae_lens import (
    SAE,
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
)
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupSAETrainingRunner, LayerGroup, SAESuite, evaluate_suite
from sae_lens_groups.errors import ConfigError, InitSourceError, SuiteError, UnknownLayerError
from sae_lens_groups.evaluate.baseline import open_baseline

from .tiny import CONTEXT_SIZE, D_IN, group_config, make_tokens, sae_config, settings

LAYERS = (0, 1, 3)
HOOK_NAMES = [f"blocks.{layer}.hook_resid_post" for layer in LAYERS]
SCALED = {"normalize_activations": "expected_average_only_in"}


@pytest.fixture(scope="module")
def theirs(
    model: HookedTransformer, tokens: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What SAELens's own runner writes for three layers, in folders with names of somebody's."""
    folder = tmp_path_factory.mktemp("theirs")
    for layer, hook_name in zip(LAYERS, HOOK_NAMES):
        output_path = folder / "residual" / f"number {layer}"
        cfg = LanguageModelSAERunnerConfig(
            **settings(sae=sae_config(**SCALED), hook_name=hook_name, output_path=str(output_path))
        )
        LanguageModelSAETrainingRunner(cfg, override_dataset=tokens, override_model=model).run()
    return folder


def rows_BD() -> torch.Tensor:
    return 3 * torch.randn(7, D_IN, generator=torch.Generator().manual_seed(1))


@pytest.mark.seam
def test_a_folder_of_saes_becomes_a_suite(theirs: Path) -> None:
    suite = SAESuite.load(theirs)
    assert list(suite) == HOOK_NAMES
    assert [str(group) for group in suite.manifest.groups] == ["0", "1", "3"]
    assert repr(suite) == "SAESuite(3 layers of tiny, groups layers_0, layers_1, layers_3)"
    assert suite.path is None  # the folder is somebody's, and takes no results
    for layer, hook_name in zip(LAYERS, HOOK_NAMES):
        own = SAE.load_from_disk(theirs / "residual" / f"number {layer}")
        assert suite[hook_name].cfg.metadata.hook_name == hook_name
        assert torch.equal(suite[hook_name](rows_BD()), own(rows_BD()))


def test_what_such_saes_lack_is_said(theirs: Path) -> None:
    suite = SAESuite.load(theirs)
    with pytest.raises(SuiteError, match="plain SAEs only: they were not trained in groups"):
        suite.group(LayerGroup(0, 0))
    with pytest.raises(SuiteError, match="does not hold the scaling of layer 1"):
        suite.scaler(1)


def test_a_saved_import_is_a_suite_like_any_other(theirs: Path, tmp_path: Path) -> None:
    SAESuite.load(theirs).save(tmp_path / "suite")
    assert not (tmp_path / "suite" / "groups").exists()
    assert not (
        tmp_path / "suite" / "runner_cfg.json"
    ).exists()  # each layer had settings of its own
    again = SAESuite.load(tmp_path / "suite")
    assert again.path == tmp_path / "suite"
    for layer, hook_name in zip(LAYERS, HOOK_NAMES):
        own = SAE.load_from_disk(theirs / "residual" / f"number {layer}")
        assert torch.equal(again[hook_name](rows_BD()), own(rows_BD()))
        sparsity = theirs / "residual" / f"number {layer}" / "sparsity.safetensors"
        assert sparsity.exists()
        assert again.log_sparsity(layer).shape == (own.cfg.d_sae,)


@pytest.mark.seam
@pytest.mark.parametrize("form", ["folder", "saved"])
def test_training_starts_from_them(
    theirs: Path, model: HookedTransformer, tokens: Dataset, tmp_path: Path, form: str
) -> None:
    source = theirs
    if form == "saved":
        source = SAESuite.load(theirs).save(tmp_path / "suite")
    cfg = group_config("each", init_from=str(source), sae=sae_config(**SCALED), lr=1e-12)
    suite = GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model).run()
    assert suite.manifest.transfer is not None
    assert suite.manifest.transfer.source_layers == {0: 0, 1: 1, 2: 3, 3: 3}
    own = SAE.load_from_disk(theirs / "residual" / "number 1")
    torch.testing.assert_close(suite.layer(1)(rows_BD()), own(rows_BD()), rtol=1e-4, atol=1e-4)


def test_they_are_scored_and_compared(theirs: Path, model: HookedTransformer) -> None:
    before = sorted(theirs.rglob("*"))
    held_out = make_tokens(seed=5)
    suite = SAESuite.load(theirs)
    scores = evaluate_suite(
        suite, model, held_out, baseline=open_baseline(theirs), n_batches=2, batch_size_prompts=4
    )
    assert [score.hook_name for score in scores] == HOOK_NAMES
    assert [score.metrics["l0"] for score in scores] == [4.0, 4.0, 4.0]
    for score in scores:
        assert score.baseline is not None
        assert score.baseline.differences["explained_variance"].value == 0
    assert sorted(theirs.rglob("*")) == before


@pytest.mark.parametrize("relative", [False, True])
def test_a_star_in_a_folders_name_names_the_saes_of_several_layers(
    theirs: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    monkeypatch.chdir(theirs)
    place = "residual/number *" if relative else str(theirs / "res*" / "number *")
    suite, baseline = SAESuite.load(place), open_baseline(place)
    assert list(suite) == list(baseline.saes) == HOOK_NAMES
    for layer, hook_name in zip(LAYERS, HOOK_NAMES):
        own = SAE.load_from_disk(theirs / "residual" / f"number {layer}")
        assert torch.equal(suite[hook_name](rows_BD()), own(rows_BD()))
        assert torch.equal(baseline.saes[hook_name](rows_BD()), own(rows_BD()))


def test_a_star_leaves_out_what_it_does_not_match(theirs: Path, tmp_path: Path) -> None:
    shutil.copytree(theirs / "residual", tmp_path / "saes")
    shutil.copytree(tmp_path / "saes" / "number 1", tmp_path / "saes" / "other 1")
    suite = SAESuite.load(tmp_path / "saes" / "number *")
    assert list(suite) == HOOK_NAMES
    with pytest.raises(
        SuiteError, match=r"holds two SAEs for blocks\.1\.hook_resid_post, number 1"
    ):
        SAESuite.load(tmp_path / "saes" / "*")
    with pytest.raises(SuiteError, match=r"none' names no SAELens SAE: of the folders in '.*saes'"):
        SAESuite.load(f"{tmp_path}/saes/*/none")
    with pytest.raises(SuiteError, match=r"gone/number \*' does not exist; name a suite's folder"):
        open_baseline(f"{tmp_path}/gone/number *")


def test_training_starts_layer_by_layer_from_what_a_star_names(
    theirs: Path, model: HookedTransformer, tokens: Dataset
) -> None:
    place = str(theirs / "residual" / "number *")
    cfg = group_config("0,1,3", init_from=place, sae=sae_config(**SCALED), lr=1e-12)
    suite = GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model).run()
    for layer in LAYERS:
        own = SAE.load_from_disk(theirs / "residual" / f"number {layer}")
        torch.testing.assert_close(suite[layer](rows_BD()), own(rows_BD()), rtol=1e-4, atol=1e-4)


def test_settings_of_before_saelens_6_are_understood(theirs: Path, tmp_path: Path) -> None:
    shutil.copytree(theirs / "residual", tmp_path / "old")
    for layer in LAYERS:
        file = tmp_path / "old" / f"number {layer}" / "cfg.json"
        cfg = json.loads(file.read_text())
        metadata = cfg.pop("metadata")
        file.write_text(
            json.dumps(
                {
                    **{name: cfg[name] for name in ("architecture", "d_in", "d_sae", "dtype", "k")},
                    "device": "cpu",
                    "hook_point": metadata["hook_name"],
                    "model_name": "tiny",
                    "context_size": CONTEXT_SIZE,
                    "normalize_activations": "none",
                }
            )
        )
    suite = SAESuite.load(tmp_path / "old")
    assert list(suite) == HOOK_NAMES
    assert suite[HOOK_NAMES[2]](rows_BD()).shape == (7, D_IN)


def test_what_cannot_be_a_suite_is_refused(
    theirs: Path, tmp_path: Path, model: HookedTransformer, tokens: Dataset
) -> None:
    shutil.copytree(theirs / "residual", tmp_path / "saes")
    twice = tmp_path / "saes" / "twice"
    shutil.copytree(tmp_path / "saes" / "number 1", twice)
    two = r"holds two SAEs for blocks\.1\.hook_resid_post, number 1 and twice; name the folder"
    with pytest.raises(SuiteError, match=two):
        SAESuite.load(tmp_path / "saes")
    cfg = json.loads((twice / "cfg.json").read_text())
    cfg["metadata"]["hook_name"] = "blocks.1.hook_mlp_out"
    (twice / "cfg.json").write_text(json.dumps(cfg))
    kinds = r"2 kinds of hooks, blocks\.\{layer\}\.hook_mlp_out, blocks\.\{layer\}\.hook_resid_post"
    with pytest.raises(SuiteError, match=kinds):
        SAESuite.load(tmp_path / "saes")
    run = group_config("each", init_from=str(tmp_path / "saes"))
    with pytest.raises(InitSourceError, match="holds SAEs for 2 kinds of hooks"):
        GroupSAETrainingRunner(run, override_dataset=tokens, override_model=model)
    cfg["metadata"]["hook_name"] = "hook_embed"
    (twice / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(SuiteError, match="SAE in 'twice': hook_name 'hook_embed' has no layer"):
        SAESuite.load(tmp_path / "saes")
    (twice / "cfg.json").write_text("{")
    with pytest.raises(SuiteError, match=r"twice/cfg\.json cannot be read"):
        SAESuite.load(tmp_path / "saes")


@pytest.mark.parametrize("hook_name", ["../../escaped.0.x", "/tmp/escaped.0.x", "a\\b.0.x", "\0.0"])
def test_a_hook_name_cannot_lead_out_of_the_suite(
    theirs: Path, tmp_path: Path, hook_name: str
) -> None:
    shutil.copytree(theirs / "residual" / "number 1", tmp_path / "saes")
    cfg = json.loads((tmp_path / "saes" / "cfg.json").read_text())
    cfg["metadata"]["hook_name"] = hook_name
    (tmp_path / "saes" / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(SuiteError, match="which names a path"):
        SAESuite.load(tmp_path / "saes")


def test_saes_for_scaled_activations_are_refused_without_their_scaling(
    theirs: Path, tmp_path: Path
) -> None:
    shutil.copytree(theirs / "residual", tmp_path / "saes")
    file = tmp_path / "saes" / "number 3" / "cfg.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **SCALED}))
    with pytest.raises(SuiteError, match="number 3' holds an SAE for scaled activations, without"):
        SAESuite.load(tmp_path / "saes")


def test_a_suite_that_lost_its_manifest_is_no_import(
    model: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    cfg = group_config("0-1,2", output_path=str(tmp_path / "suite"))
    GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model).run()
    (tmp_path / "suite" / "suite.json").unlink()
    with pytest.raises(SuiteError, match=r"suite\.json is missing"):
        SAESuite.load(tmp_path / "suite")
    (tmp_path / "suite" / "checksums.json").unlink()
    with pytest.raises(SuiteError, match=r"has no suite\.json, and holds SAEs of a suite's groups"):
        SAESuite.load(tmp_path / "suite")


# --- some layers of a suite ---


def test_only_the_layers_asked_for_are_in_it(
    theirs: Path, model: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    cfg = group_config("0-2,3", output_path=str(tmp_path / "suite"))
    whole = GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model).run()
    part = SAESuite.load(tmp_path / "suite", layers=[3, 1])
    assert list(part) == ["blocks.1.hook_resid_post", "blocks.3.hook_resid_post"]
    assert "blocks.0.hook_resid_post" not in part
    assert len(part) == 2
    assert torch.equal(part.layer(1)(rows_BD()), whole.layer(1)(rows_BD()))
    with pytest.raises(UnknownLayerError, match=r"no SAE for layer 0; it has 2 layers, blocks\.1"):
        part.layer(0)
    with pytest.raises(SuiteError, match=r"2 of the 4 layers .* too few for a folder"):
        part.save(tmp_path / "part")
    assert not (tmp_path / "part").exists()
    with pytest.raises(SuiteError, match="too few for an evaluation; load it without layers="):
        evaluate_suite(part, model, make_tokens(seed=5))
    assert list(SAESuite.load(theirs, layers=[3])) == HOOK_NAMES[2:]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([0, 7], r"has no SAE for layers \[7\]; it has the layers 0,1,3"),
        ([], "has no SAE for an empty list of layers"),
    ],
)
def test_layers_that_it_lacks_are_named(theirs: Path, layers: list[int], message: str) -> None:
    with pytest.raises(UnknownLayerError, match=message):
        SAESuite.load(theirs, layers=layers)


def test_layers_that_were_trained_elsewhere_cannot_be_kept(
    theirs: Path, model: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    SAESuite.load(theirs).save(tmp_path / "suite")
    cfg = group_config("2", init_from=str(tmp_path / "suite"), init_keep_layers=True)
    with pytest.raises(ConfigError, match="init_keep_layers"):
        GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model).run()
