"""Exported layers are what older versions of SAELens load, by what was recorded of these versions.

`tests/older_saelens_schema.py` records it, and test_older_saelens loads layers with the versions
themselves.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sae_lens import TrainingSAE
from sae_lens.registry import SAE_CLASS_REGISTRY
from safetensors.torch import load_file

from sae_lens_groups import GroupSAETrainingRunner

from .test_older_saelens import CAME_LATER, suite_settings
from .tiny import group_config, make_model

if not hasattr(TrainingSAE, "fold_activation_whitening"):
    pytest.skip("this SAELens cannot train all kinds of suites", allow_module_level=True)

SCHEMA = json.loads(Path(__file__).with_name("older_saelens_schema.json").read_text())


@pytest.fixture(scope="module", params=sorted(suite_settings()))
def layers(
    request: pytest.FixtureRequest, tokens: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[Path]]:
    """The name of a suite, and the folders of its layers."""
    folder = tmp_path_factory.mktemp("older") / request.param
    settings = {"layer_groups": "0-2,3", **suite_settings()[request.param]}
    model = make_model(norms=(1, 4, 16, 16))
    cfg = group_config(**settings, output_path=str(folder), training_tokens=32 * 4)
    suite = GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model).run()
    return request.param, [folder / hook_name for hook_name in suite]


@pytest.mark.parametrize("version", sorted(SCHEMA))
def test_every_layer_is_one_that_the_version_loads(
    layers: tuple[str, list[Path]], version: str
) -> None:
    name, folders = layers
    assert len(folders) == 4
    for folder in folders:
        config = json.loads((folder / "cfg.json").read_text())
        known = SCHEMA[version].get(config["architecture"])
        assert (known is None) == (name in CAME_LATER[version])
        if known is not None:
            weights = load_file(folder / "sae_weights.safetensors")
            require_loadable(config, known, weights["W_dec"])
            assert {key: list(weight.shape) for key, weight in weights.items()} == {
                key: [config.get(size, size) for size in sizes]
                for key, sizes in known["tensors"].items()
            }


def require_loadable(config: dict[str, Any], known: dict[str, Any], W_dec_FD: torch.Tensor) -> None:
    """All keys that the version needs, with values that it takes; none it lacks changes outputs."""
    assert set(known["required"]) <= config.keys()
    for key, values in known["values"].items():
        assert config[key] in values, key
    newest = SAE_CLASS_REGISTRY[config["architecture"]][1](d_in=1, d_sae=1).to_dict()
    for key in config.keys() - set(known["keys"]) - {"architecture"}:
        if key == "rescale_acts_by_decoder_norm":
            torch.testing.assert_close(W_dec_FD.norm(dim=1), torch.ones(len(W_dec_FD)))
        else:
            assert config[key] == newest[key], f"{key}, which this version passes over"


def test_the_versions_are_those_that_are_loaded_for_real() -> None:
    assert set(SCHEMA) == set(CAME_LATER) - {"installed"}
