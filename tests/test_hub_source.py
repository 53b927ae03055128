"""`init_from` on the Hub: the real client over HTTP, against a Hub on loopback."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupSAETrainingRunner
from sae_lens_groups.scaling.group_scaling import MEAN_NORM

from .hub import serving
from .processes import run
from .tiny import group_config, sae_config

OPEN = """
import json, sys
import sae_lens_groups
from sae_lens.loading.pretrained_saes_directory import PretrainedSAELookup, get_pretrained_saes_directory
from sae_lens_groups.errors import InitSourceError
from sae_lens_groups.saved.open import named_by, open_saes, training_tokens_of
from sae_lens_groups.evaluate.baseline import open_baseline
ids = {f"layer_{layer}/k_4": f"blocks.{layer}.hook_resid_post" for layer in range(3)}
get_pretrained_saes_directory()["our-release"] = PretrainedSAELookup(
    release="our-release", repo_id="owner/suite", model="a", conversion_func=None,
    saes_map={**ids, "layer_1/k_8": ids["layer_1/k_4"]}, expected_var_explained={}, expected_l0={},
    neuronpedia_id={}, norm_scaling_factor={}, config_overrides=None,
)
answers = []
for init_from in sys.argv[1:]:
    if init_from.startswith("--baseline="):
        baseline = open_baseline(init_from.removeprefix("--baseline="))
        norms = {name: sae.W_dec.norm().item() for name, sae in baseline.saes.items()}
        answers.append([baseline.name, norms])
        continue
    try:
        with named_by("init_from", InitSourceError):
            source = open_saes(init_from, groups_only=True)
    except InitSourceError as error:
        answers.append(str(error))
        continue
    groups = source.manifest.groups
    group = groups[0]
    scaling_factor = source.scaler(group.first).scaling_factor
    norm = source.group(group).W_dec.norm().item()
    answers.append([[str(group) for group in groups], training_tokens_of(init_from), scaling_factor, norm])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def hub_folder(
    model: HookedTransformer, tokens: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A suite in the repository owner/suite, and a repository of something else."""
    folder = tmp_path_factory.mktemp("hub")
    scaled = sae_config(normalize_activations=MEAN_NORM)
    cfg = group_config("0-1,2", sae=scaled, output_path=str(folder / "owner/suite"))
    GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model).run()
    (folder / "owner/other").mkdir()
    (folder / "owner/other/README.md").write_text("# Something else")
    return folder


def opened(hub_folder: Path, home: Path, *init_from: str, **environment: str) -> list[Any]:
    """What a process with an empty cache finds at each of these."""
    with serving(hub_folder) as endpoint:
        shown = run(
            *("-c", OPEN, *init_from),
            env={
                **os.environ,
                "HF_ENDPOINT": endpoint,
                "HF_HOME": str(home),
                "HF_HUB_OFFLINE": "0",
                **environment,
            },
        )
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout.splitlines()[-1])


def test_a_suite_and_its_saes_are_found_on_the_hub(hub_folder: Path, tmp_path: Path) -> None:
    hook_name = "blocks.1.hook_resid_post"
    found = opened(
        hub_folder,
        tmp_path / "home",
        "owner/suite",
        f"owner/suite:{hook_name}",
        str(hub_folder / "owner/suite"),
        str(hub_folder / "owner/suite" / hook_name),
    )
    suite, sae, local_suite, local_sae = found
    assert suite == local_suite
    assert suite[:2] == [["0-1", "2"], 960]
    assert suite[2] > 0
    assert sae == [["1"], None, None, local_sae[3]]
    assert local_sae == [["1"], 960, None, sae[3]]
    downloaded = [path.name for path in (tmp_path / "home/hub").glob("*/snapshots/*/*")]
    # The suite's groups and the one layer that was asked for; no other layers.
    facts = ["checksums.json", "runner_cfg.json", "suite.json"]
    assert sorted(downloaded) == sorted([hook_name, "groups", *facts])


def test_a_baseline_is_found_in_the_same_places(hub_folder: Path, tmp_path: Path) -> None:
    place = "owner/suite:blocks.1.hook_resid_post"
    of_suite, of_sae, of_source = opened(
        hub_folder, tmp_path / "home", "--baseline=owner/suite", f"--baseline={place}", place
    )
    assert of_suite[0] == "owner/suite"
    assert list(of_suite[1]) == [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
    assert of_sae == [place, {"blocks.1.hook_resid_post": of_source[3]}]


def test_several_saes_of_a_release_that_saelens_knows_are_named_by_a_star(
    hub_folder: Path, tmp_path: Path
) -> None:
    places = ["--baseline=owner/suite", "--baseline=our-release:layer_*/k_4", "our-release:*/k_4"]
    suite, release, source = opened(hub_folder, tmp_path / "home", *places)
    assert release == ["our-release:layer_*/k_4", suite[1]]  # layer by layer the same SAE
    assert source[0] == ["0", "1", "2"]
    again = opened(hub_folder, tmp_path / "home", *places[1:], HF_HUB_OFFLINE="1")
    assert again == [release, source]


def test_a_star_that_names_no_sae_or_two_of_a_layer_is_refused(
    hub_folder: Path, tmp_path: Path
) -> None:
    two, none, unknown = opened(
        hub_folder, tmp_path / "home", "our-release:*", "our-release:*/k_5", "owner/suite:*"
    )
    assert (
        "'our-release:*' names two SAEs for blocks.1.hook_resid_post, layer_1/k_4 and layer_1/k_8"
        in two
    )
    assert "'our-release' has no SAE '*/k_5'; it has layer_0/k_4, layer_1/k_4, layer_2/k_4" in none
    assert "of a repository on the Hub name the whole, owner/repo, or one SAE" in unknown


def test_a_groups_own_sae_is_not_taken_without_its_scaling(
    hub_folder: Path, tmp_path: Path
) -> None:
    (message,) = opened(hub_folder, tmp_path / "home", "owner/suite:groups/layers_0-1")
    assert "is a group's own SAE, whose scaling lies beside it; name the whole suite" in message


def test_what_is_not_on_the_hub_is_named(hub_folder: Path, tmp_path: Path) -> None:
    no_repo, no_suite, no_sae, no_layer = opened(
        hub_folder,
        tmp_path / "home",
        "owner/nothing",
        "owner/other",
        "owner/nothing:layer_3",
        "owner/suite:blocks.7.hook_resid_post",
    )
    assert (
        "init_from 'owner/nothing' is not a folder, and cannot be fetched from the Hub" in no_repo
    )
    assert "'owner/other' is neither a suite nor a folder of SAELens SAEs" in no_suite
    assert "SAELens finds no SAE 'layer_3' in 'owner/nothing'" in no_sae
    assert "SAELens finds no SAE 'blocks.7.hook_resid_post' in 'owner/suite'" in no_layer


def test_without_a_network_the_message_says_so(hub_folder: Path, tmp_path: Path) -> None:
    (found,) = opened(hub_folder, tmp_path / "home", "owner/suite", HF_HUB_OFFLINE="1")
    assert "init_from 'owner/suite' is not a folder, and cannot be fetched from the Hub" in found


def other_formats(hub_folder: Path) -> dict[str, torch.Tensor]:
    """SAEs of layer 1 as dictionary_learning and sparsify write them: decoders, by place."""
    d_in, d_sae = 16, 48
    encoder_FD, decoder_FD = torch.randn(d_sae, d_in), torch.randn(d_sae, d_in)
    folder = hub_folder / "owner" / "formats" / "layer_1"
    folder.mkdir(parents=True)
    trainer = {"layer": 1, "dict_class": "AutoEncoderTopK", "k": 4, "lm_name": "a/model"}
    trainer |= {"activation_dim": d_in, "dict_size": d_sae}
    cfg = {"trainer": trainer, "buffer": {"ctx_len": 32}}
    (folder / "config.json").write_text(json.dumps(cfg))
    biases = {"encoder.bias": torch.zeros(d_sae), "b_dec": torch.zeros(d_in)}
    weights = {"encoder.weight": encoder_FD, "decoder.weight": decoder_FD.T.contiguous()}
    torch.save({**weights, **biases}, folder / "ae.pt")
    folder = folder.with_name("layers.1")
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps({"d_in": d_in, "num_latents": d_sae, "k": 4}))
    # Of sparsify's names for the decoder this one is read in the right shape by SAELens 6.54.
    save_file(weights, folder / "sae.safetensors")
    places = ("dictionary_learning_1:owner/formats:layer_1", "sparsify:owner/formats:layers.1")
    return dict.fromkeys(places, decoder_FD)


def test_formats_of_other_libraries_come_in_through_saelens_converters(tmp_path: Path) -> None:
    decoders = other_formats(tmp_path)
    places = [*decoders, "sparsify:owner/formats:layers.7"]
    *found, gone = opened(tmp_path, tmp_path / "home", *places)
    for (groups, _, _, norm), decoder_FD in zip(found, decoders.values(), strict=True):
        assert groups == ["1"]
        assert norm == pytest.approx(decoder_FD.norm().item(), rel=1e-5)
    assert "SAELens finds no SAE 'layers.7' in 'owner/formats'" in gone


@pytest.mark.slow
def test_a_star_names_the_layers_of_a_format_too(tmp_path: Path) -> None:
    other_formats(tmp_path)
    first = tmp_path / "owner/formats/layer_1"
    second = shutil.copytree(first, first.with_name("layer_2"))
    cfg = json.loads((first / "config.json").read_text())
    cfg["trainer"]["layer"] = 2
    (second / "config.json").write_text(json.dumps(cfg))
    weights = torch.load(first / "ae.pt")
    torch.save(weights | {"decoder.weight": 2 * weights["decoder.weight"]}, second / "ae.pt")
    starred = "dictionary_learning_1:owner/formats:layer_*"
    places = [f"--baseline={starred}", f"--baseline={starred.replace('*', '1')}"]
    several, one = opened(tmp_path, tmp_path / "home", *places)
    (norm,) = one[1].values()
    name, norms = several
    assert name == starred
    assert list(norms) == ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
    assert list(norms.values()) == pytest.approx([norm, 2 * norm])
    assert opened(tmp_path, tmp_path / "home", *places, HF_HUB_OFFLINE="1") == [several, one]
    (gone,) = opened(tmp_path, tmp_path / "home", "sparsify:owner/formats:layer_*/x")
    assert "'owner/formats' has no folder 'layer_*/x' with a JSON file of settings in it" in gone
