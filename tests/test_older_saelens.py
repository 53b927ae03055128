"""A published suite loads with older versions of SAELens, which cannot train it, and equal outputs.

They run in environments of their own, without this package:

    for version in 6.0 6.28; do
        python3 -m venv .venv-$version
        .venv-$version/bin/pip install -q -c tests/constraints-$version.txt sae-lens torch
    done
    export OLDER_SAELENS_PYTHONS="6.0.0=$PWD/.venv-6.0/bin/python:6.28.0=$PWD/.venv-6.28/bin/python"
    REQUIRE_OLDER_SAELENS=1 .venv/bin/python -m pytest tests/test_older_saelens.py

CI runs them where OLDER_SAELENS_PYTHONS is given. On every change, test_older_saelens_schema tests
exported layers by what these versions are known to load.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from datasets import Dataset
from sae_lens import SAE, HookedSAETransformer, TrainingSAE
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupSAETrainingRunner, SAESuite
from sae_lens_groups.scaling.group_scaling import MEAN_NORM, WHITENING

from . import processes
from .hub import serving
from .tiny import ARCHITECTURES, D_IN, group_config, make_model, sae_config

INSTALLED = "installed"
VERSIONS = ("6.0.0", "6.28.0", INSTALLED)
CAME_LATER = {"6.0.0": {"abstopk", "matching_pursuit"}, "6.28.0": {"abstopk"}, INSTALLED: set()}
"""Architectures that a version does not know. BatchTopK and Matryoshka are exported as JumpReLU."""
TENSORS = "tensors.safetensors"

_START = """
import importlib.util, json, sys
if sys.argv[1] == "installed":
    sys.modules["sae_lens_groups"] = None  # importing it fails
else:
    assert importlib.util.find_spec("sae_lens_groups") is None
import sae_lens
from sae_lens import SAE, HookedSAETransformer
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformerConfig

task = json.loads(sys.argv[2])
given, outputs = load_file(task["given"]), {}
"""
_LOAD = """
unknown = []
for repo_id, hook_names in task["repos"].items():
    for hook_name in hook_names:
        try:
            sae = SAE.from_pretrained(repo_id, hook_name)
        except KeyError as error:  # SAELens's list of architectures
            unknown.append(error.args[0])
            continue
        rows = given[repo_id]
        outputs[f"{repo_id}/{hook_name}"] = sae(rows).detach()
        outputs[f"{repo_id}/{hook_name}/features"] = sae.encode(rows).detach()
"""
_ATTACH = """
unknown = []
model = HookedSAETransformer(HookedTransformerConfig(**task["model"]))
weights = {name: tensor for name, tensor in given.items() if name != "tokens"}
assert weights.keys() == dict(model.named_parameters()).keys()
model.load_state_dict(weights, strict=False)  # versions have other buffers
saes = [SAE.from_pretrained(task["repo_id"], hook_name) for hook_name in task["hook_names"]]
logits, cache = model.run_with_cache_with_saes(given["tokens"], saes=saes)
outputs = {name: cache[f"{name}.hook_sae_acts_post"].detach() for name in task["hook_names"]}
outputs["logits"] = logits.detach()
"""
_END = """
save_file({name: tensor.contiguous() for name, tensor in outputs.items()}, task["outputs"])
print(json.dumps([sae_lens.__version__, unknown]))
"""

pytestmark = pytest.mark.slow


class Published(NamedTuple):
    """Suites by the name of their repository, which is `owner/<name>`."""

    folder: Path
    suites: dict[str, SAESuite]
    rows: dict[str, torch.Tensor]

    @property
    def hook_names(self) -> dict[str, list[str]]:
        return {f"owner/{name}": list(suite) for name, suite in self.suites.items()}


class User(NamedTuple):
    """Someone with a version of SAELens and a cache of their own."""

    version: str
    python: str
    home: Path

    def run(
        self, program: str, task: dict[str, Any], given: dict[str, torch.Tensor], **environment: str
    ) -> tuple[dict[str, torch.Tensor], list[str]]:
        """What the program puts into `outputs`, and into `unknown`."""
        files = {name: str(self.home / f"{name}-{TENSORS}") for name in ("given", "outputs")}
        save_file(given, files["given"])
        args = "-c", _START + program + _END, self.version, json.dumps({**task, **files})
        env = {**os.environ, "HF_HOME": str(self.home), **environment}
        if self.version == INSTALLED:
            process = processes.run(*args, env=env)
        else:
            command = [self.python, *args]
            process = subprocess.run(command, env=env, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        version, unknown = json.loads(process.stdout.splitlines()[-1])
        assert self.version in (version, INSTALLED)
        return load_file(files["outputs"]), unknown


@pytest.fixture(scope="module", params=VERSIONS)
def user(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> User:
    version = request.param
    named = os.environ.get("OLDER_SAELENS_PYTHONS", "")
    pythons = dict(part.split("=", 1) for part in named.split(":") if part)
    pythons[INSTALLED] = sys.executable
    if version not in pythons:
        # CI sets it, so that older versions cannot go untested there.
        required = os.environ.get("REQUIRE_OLDER_SAELENS")
        assert not required, f"OLDER_SAELENS_PYTHONS {named!r} has no {version}"
        pytest.skip(f"needs an environment with sae-lens {version}, see {Path(__file__).name}")
    return User(version, pythons[version], tmp_path_factory.mktemp(f"user-{version}"))


@pytest.fixture(scope="module")
def published(tokens: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A suite of each architecture, and of each way in which layers differ by more than scaling."""
    if not hasattr(TrainingSAE, "fold_activation_whitening"):
        pytest.skip("this SAELens cannot train all kinds of suites")
    folder = tmp_path_factory.mktemp("hub")
    suites = {}
    for name, settings in suite_settings().items():
        cfg = group_config(
            **{"layer_groups": "0-2,3", "output_path": str(folder / "owner" / name), **settings}
        )
        runner = GroupSAETrainingRunner(
            cfg, override_dataset=tokens, override_model=make_model(norms=(1, 4, 16, 16))
        )
        suites[name] = runner.run()
    generator = torch.Generator().manual_seed(0)
    rows = {name: 4 * torch.randn(32, D_IN, generator=generator) for name in suites}
    rows["heads"] = rows["heads"].reshape(32, 2, -1)
    return Published(folder, suites, rows)


def suite_settings() -> dict[str, dict[str, Any]]:
    scaled: dict[str, Any] = {"normalize_activations": MEAN_NORM}
    return {
        **{name: {"sae": sae_config(name, **scaled)} for name in ARCHITECTURES},
        "aligned": {
            "sae": sae_config("topk", **scaled),
            "layer_alignment": "orthogonal",
            "plan_tokens": 500,
        },
        "whitened": {"sae": sae_config("standard", normalize_activations=WHITENING)},
        "normed": {"sae": sae_config("jumprelu", normalize_activations="layer_norm")},
        "heads": {
            "sae": sae_config("gated", reshape_activations="hook_z", **scaled),
            "hook_name": "blocks.1.attn.hook_z",
        },
    }


def loaded(
    user: User, published: Published, **environment: str
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The outputs of every layer's SAE, by repository and hook."""
    rows = {f"owner/{name}": of_suite for name, of_suite in published.rows.items()}
    return user.run(_LOAD, {"repos": published.hook_names}, rows, **environment)


def require_equal_outputs(
    user: User, published: Published, outputs: dict[str, torch.Tensor]
) -> None:
    n_compared = 0
    for name, suite in published.suites.items():
        if name in CAME_LATER[user.version]:
            continue
        for hook_name, sae in suite.items():
            rows = published.rows[name]
            expected = {"": sae(rows), "/features": sae.encode(rows)}
            for kind, tensor in expected.items():
                found = outputs[f"owner/{name}/{hook_name}{kind}"]
                torch.testing.assert_close(found, tensor.detach(), rtol=1e-5, atol=1e-5)
                n_compared += 1
    assert n_compared == len(outputs) == 8 * (len(published.suites) - len(CAME_LATER[user.version]))


def test_every_layer_loads_with_equal_outputs_and_once_more_without_a_network(
    user: User, published: Published
) -> None:
    with serving(published.folder) as endpoint:
        outputs, unknown = loaded(user, published, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="0")
    require_equal_outputs(user, published, outputs)
    assert set(unknown) == CAME_LATER[user.version]
    assert "owner/standard/blocks.3.hook_resid_post" in outputs

    again, unknown = loaded(user, published, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1")
    assert again.keys() == outputs.keys()
    assert all(torch.equal(again[name], outputs[name]) for name in outputs)
    assert set(unknown) == CAME_LATER[user.version]


def test_three_layers_attach_to_a_model_at_once(
    user: User, published: Published, model: HookedTransformer, tokens: Dataset
) -> None:
    batch = torch.tensor(tokens[:2]["tokens"])
    suite = published.suites["topk"]
    hook_names = list(suite)[:3]
    newest = HookedSAETransformer(model.cfg)
    newest.load_state_dict(model.state_dict())
    saes: list[SAE[Any]] = list(suite.values())[:3]
    logits, cache = newest.run_with_cache_with_saes(batch, saes=saes)
    assert isinstance(logits, torch.Tensor)
    assert (logits - newest(batch)).abs().max() > 0.01  # the SAEs do something

    fields = ("n_layers", "d_model", "n_ctx", "d_head", "n_heads", "d_vocab", "act_fn", "device")
    task = {
        "model": {name: getattr(model.cfg, name) for name in fields},
        "repo_id": "owner/topk",
        "hook_names": hook_names,
    }
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    with serving(published.folder) as endpoint:
        outputs, _ = user.run(
            _ATTACH,
            task,
            {**weights, "tokens": batch},
            HF_ENDPOINT=endpoint,
            HF_HUB_OFFLINE="0",
        )
    expected = {name: cache[f"{name}.hook_sae_acts_post"] for name in hook_names}
    for name, tensor in {**expected, "logits": logits}.items():
        torch.testing.assert_close(outputs[name], tensor.detach(), rtol=1e-5, atol=1e-5)
