"""Whole releases that SAELens lists, by name: a registry on loopback with SAEs of 12 layers."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, TopKTrainingSAE, TopKTrainingSAEConfig

from sae_lens_groups import SAESuite
from sae_lens_groups.demo.model import D_IN, MODEL_FOLDER

from .hub import serving
from .processes import run

N_LAYERS = 12
REGISTERED = """
import contextlib, io, json, sys
import torch
from sae_lens.loading.pretrained_saes_directory import PretrainedSAELookup, get_pretrained_saes_directory
import sae_lens_groups.cli.scoring, sae_lens_groups.train.run
from sae_lens_groups.cli import main
from sae_lens_groups.errors import ConfigError
from sae_lens_groups.evaluate.baseline import open_baseline

def register(name, layers, model, more=()):
    ids = {f"layer_{n}/k_8": f"layer_{n}" for n in layers} | dict(more)
    get_pretrained_saes_directory()[name] = PretrainedSAELookup(
        release=name, repo_id="owner/" + model, model=model, conversion_func=None, saes_map=ids,
        expected_var_explained={}, expected_l0={}, neuronpedia_id={}, norm_scaling_factor={},
        config_overrides=None,
    )

register("twelve", range(12), "model_files")
register("six", range(6), "model_files")
register("two-of-five", range(12), "model_files", {"layer_5/k_16": "layer_5"}.items())
register("other-model", range(12), "other_model")
"""
TRAIN = """
status = main(json.loads(sys.argv[1]))
rows = torch.load(sys.argv[2])
saes = open_baseline("twelve").saes
torch.save([saes[f"blocks.{n}.hook_resid_post"](rows) for n in range(12)], sys.argv[3])
print(status)
"""
REFUSED = """
def load(*_, **__):
    raise ConfigError("the model is loaded now")
sae_lens_groups.train.run.load_hooked_model = sae_lens_groups.cli.scoring.load_with_hooks = load
answers = []
for args in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        answers.append([main(args), said.getvalue()])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAEs of 12 layers for the demo's model in one repository, and for another model in another."""
    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    for model_name in ("model_files", "other_model"):
        for layer in range(N_LAYERS):
            sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D_IN, d_sae=128, k=8))
            sae.b_enc.data.normal_()
            sae.cfg.metadata.model_name = model_name
            sae.cfg.metadata.hook_name = f"blocks.{layer}.hook_resid_post"
            sae.save_inference_model(folder / "owner" / model_name / f"layer_{layer}")
    return folder


def flags(text: Path, *more: str) -> list[str]:
    """A run that moves no weight."""
    return [
        *("train", "--model_name", str(MODEL_FOLDER), "--hook_name", "gpt_neox.layers.0"),
        *("--model_class_name", "AutoModelForCausalLM", "--dataset_path", str(text)),
        *("--architecture", "topk", "--d_in", str(D_IN), "--d_sae", "128", "--k", "8"),
        *("--context_size", "16", "--training_tokens", "64", "--train_batch_size_tokens", "64"),
        *("--store_batch_size_prompts", "16", "--n_batches_in_buffer", "4", "--lr", "1e-30"),
        *("--log_to_wandb", "false", "--layer_groups", "each", *more),
    ]


def in_process(hub_folder: Path, home: Path, code: str, *args: str, offline: bool = False) -> Any:
    """What a process with SAELens's list and this cache of the Hub prints last."""
    with serving(hub_folder) as endpoint:
        of_hub = {
            "HF_HOME": str(home),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_OFFLINE": str(int(offline)),
        }
        shown = run("-c", REGISTERED + code, *args, env={**os.environ, **of_hub})
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_release_of_12_layers_is_start_and_baseline_layer_by_layer(
    hub_folder: Path, text_folder: Path, tmp_path: Path
) -> None:
    rows_BD = 3 * torch.randn(7, D_IN, generator=torch.Generator().manual_seed(1))
    torch.save(rows_BD, tmp_path / "rows")
    own = [SAE.load_from_disk(hub_folder / f"owner/model_files/layer_{n}") for n in range(N_LAYERS)]
    args = flags(text_folder, "--init_from", "twelve", "--output_path", str(tmp_path / "suite"))
    for offline in (False, True):  # once more, all SAEs are found and read
        given = [json.dumps([*args, "--dry_run"] if offline else args)]
        given += [str(tmp_path / "rows"), str(tmp_path / f"baseline {offline}")]
        if offline:
            (tmp_path / "suite").rename(tmp_path / "trained")
        assert in_process(hub_folder, tmp_path / "home", TRAIN, *given, offline=offline) == 0
        for found, sae in zip(torch.load(given[2]), own, strict=True):
            assert torch.equal(found, sae(rows_BD))
    suite = SAESuite.load(tmp_path / "trained")
    assert suite.manifest.transfer is not None
    assert suite.manifest.transfer.source_layers == {n: n for n in range(N_LAYERS)}
    for layer, sae in enumerate(own):
        torch.testing.assert_close(suite[layer](rows_BD), sae(rows_BD), rtol=1e-5, atol=1e-5)


def test_only_the_layers_that_a_run_starts_from_are_downloaded(
    hub_folder: Path, text_folder: Path, tmp_path: Path
) -> None:
    args = flags(text_folder, "--init_from", "twelve", "--layer_groups", "2,4-6")
    ((status, said),) = in_process(hub_folder, tmp_path / "home", REFUSED, json.dumps([args]))
    assert (status, said) == (2, "sae-lens-groups train: error: the model is loaded now\n")
    weights = (tmp_path / "home/hub").glob("*/snapshots/*/*/sae_weights.safetensors")
    assert sorted(path.parent.name for path in weights) == ["layer_2", "layer_5"]


@pytest.mark.slow
def test_what_a_release_cannot_give_is_one_line_before_the_model_loads(
    hub_folder: Path, text_folder: Path, tmp_path: Path
) -> None:
    expected = {
        "six": "init_from 'six' has no SAE for layers 6-11; it has layers 0-5; leave the others out "
        "of layer_groups, or name six:* to start each of them from the nearest layer's",
        "two-of-five": "init_from 'two-of-five' has 2 SAEs for layer 5, such as layer_5/k_8 and "
        "layer_5/k_16; name one of each layer with a pattern, such as two-of-five:layer_*/k_8",
        "other-model": "init_from 'other-model' is for the model 'other_model', and this run trains "
        "on 'model_files'; name a release of that model, or other-model:* to start from this one",
    }
    runs = [flags(text_folder, "--init_from", release) for release in expected]
    runs.append(flags(text_folder, "--init_from", "twelve", "--d_in", "64"))
    suite = SAESuite.load(hub_folder / "owner/model_files").save(tmp_path / "suite")
    runs.append(["evaluate", str(suite), "--baseline", "other-model"])
    *answers, narrow, evaluated = in_process(
        hub_folder, tmp_path / "home", REFUSED, json.dumps(runs)
    )
    for (status, said), message in zip(answers, expected.values(), strict=True):
        assert (status, said) == (2, f"sae-lens-groups train: error: {message}\n")
    assert narrow[0] == evaluated[0] == 2
    assert (
        "the baseline 'other-model' is for the model 'other_model', and the suite" in evaluated[1]
    )
    assert "of init_from 'twelve' has d_in=96, and the config asks for 64" in narrow[1]
