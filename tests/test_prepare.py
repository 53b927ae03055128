"""What a run's settings name is asked once, before the model loads; a config asks nothing."""

import builtins
import io
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sae_lens import LanguageModelSAERunnerConfig
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupSAETrainingRunner, SAESuite, files
from sae_lens_groups.config import INIT_DIRECTIONS
from sae_lens_groups.errors import ConfigError, GroupSAEError, OutputFolderError
from sae_lens_groups.plan import choose
from sae_lens_groups.train import prepare
from sae_lens_groups.train.cache.manifest import CacheManifest
from sae_lens_groups.train.cache.run import cache_activations
from sae_lens_groups.train.cost import flops_of_sae_step
from sae_lens_groups.train.prepare import settle
from sae_lens_groups.transfer.start import DIRECTIONS, Transfer

from .tiny import group_config, make_model, make_tokens, sae_config, settings


def test_the_directions_that_a_config_knows_are_those_of_the_table() -> None:
    assert tuple(DIRECTIONS) == INIT_DIRECTIONS


# Each names something that is not there, or that its other settings rule out.
NAMING = [
    ({"layer_groups": "nowhere/plan.json"}, "plan 'nowhere/plan.json' cannot be read"),
    ({"layer_groups": "halves"}, "layer_groups 'halves' is not known; known rules: auto, each"),
    ({"layer_groups": "0-3,2"}, "groups 0-3 and 2 overlap in layer 2"),
    ({"layer_alignment": "linear"}, "layer_alignment 'linear' is not known"),
    ({"init_alignment": "linear"}, "init_alignment 'linear' is not known"),
    (
        {"fast_step": "always", "sae": sae_config("gated")},
        "fast_step is always, but architecture gated is none of",
    ),
    ({"init_from": "./gone", "token_fraction": 0.5}, "init_from './gone' does not exist"),
    (
        {"init_from": "no/body", "token_fraction": 0.5},
        "'no/body' is not a folder, and cannot be fetched",
    ),
]


def test_a_config_of_saelens_is_told_how_to_become_one_of_ours() -> None:
    theirs: Any = LanguageModelSAERunnerConfig(**settings())
    for take in (GroupSAETrainingRunner, cache_activations):
        with pytest.raises(ConfigError, match=r"GroupSAERunnerConfig\.from_sae_lens\(cfg, layer_g"):
            take(theirs)


@pytest.mark.parametrize(("changes", "message"), NAMING)
def test_a_config_opens_nothing_and_settling_it_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    def opened(*args: Any, **_: Any) -> Any:
        raise AssertionError(f"a config asked for {args}")

    with monkeypatch.context() as patch:
        for where, name in (
            (builtins, "open"),
            (io, "open"),
            (Path, "open"),
            (Path, "read_text"),
            (Path, "exists"),
            (socket, "socket"),
        ):
            patch.setattr(where, name, opened)
        patch.setattr("sae_lens_groups.plugins.plugin_manager", opened)
        cfg = group_config(**changes)
    with pytest.raises(GroupSAEError) as caught:
        settle(cfg)
    assert message in str(caught.value)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what is asked of settings and disk from here on."""
    counts: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    parse = counted("layer_groups", choose.parse_layer_groups)
    monkeypatch.setattr(choose, "parse_layer_groups", parse)
    monkeypatch.setattr(CacheManifest, "require_fit", counted("cache", CacheManifest.require_fit))
    monkeypatch.setattr(Transfer, "__init__", counted("transfer", Transfer.__init__))
    monkeypatch.setattr(prepare, "resolve", counted("groups", prepare.resolve))
    read_text = Path.read_text

    def read(self: Path, *args: Any, **kwargs: Any) -> str:
        counts[self.name] += 1
        return read_text(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read)
    return counts


def test_a_resumed_run_asks_its_checkpoint_cache_and_groups_once(
    model: HookedTransformer, tmp_path: Path, asked: Counter[str]
) -> None:
    tokens = make_tokens()
    flags: dict[str, Any] = {
        "cached_activations_path": str(tmp_path / "cache"),
        "checkpoint_path": str(tmp_path / "checkpoints"),
    }
    cache_activations(
        group_config("even:2", **flags), override_dataset=tokens, override_model=model
    )
    flags["use_cached_activations"] = True
    first = group_config("even:2", n_checkpoints=1, **flags)
    GroupSAETrainingRunner(first, tokens, model).run()
    asked.clear()
    resumed = group_config("even:2", resume_from_checkpoint="auto", **flags)
    runner = GroupSAETrainingRunner(resumed, tokens, model)
    runner.run()
    assert runner.cfg.resume_from_checkpoint is not None
    assert resumed.resume_from_checkpoint == "auto"
    assert (asked["layer_groups"], asked["groups"], asked["runner_cfg.json"]) == (1, 1, 1)
    # Before the model loads, and once more for its groups, which a given model alone tells.
    assert asked["cache"] == 2


def test_groups_known_before_the_model_loads_are_checked_once(
    model: HookedTransformer,
    tokens: Dataset,
    tmp_path: Path,
    asked: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    GroupSAETrainingRunner(
        group_config("0,1-2", output_path=str(tmp_path / "s")), tokens, model
    ).run()
    monkeypatch.setattr(prepare, "n_layers_before_loading", lambda _: 4)
    monkeypatch.setattr("sae_lens_groups.train.run.load_hooked_model", lambda *_: model)
    asked.clear()
    cfg = group_config("3", init_from=str(tmp_path / "s"), init_keep_layers=True)
    assert len(GroupSAETrainingRunner(cfg, tokens).run()) == 4
    assert (asked["layer_groups"], asked["groups"], asked["transfer"]) == (1, 1, 1)


def test_measured_groups_read_their_rule_once(
    model: HookedTransformer, tokens: Dataset, asked: Counter[str]
) -> None:
    runner = GroupSAETrainingRunner(group_config("auto:2", plan_tokens=2000), tokens, model)
    assert runner.plan is not None
    assert asked["layer_groups"] == 1


def test_a_suite_says_what_a_step_of_its_saes_costs(
    model: HookedTransformer, tokens: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = group_config(output_path=str(tmp_path / "s"))
    suite = GroupSAETrainingRunner(cfg, tokens, model).run()
    before = torch.get_rng_state()
    expected = flops_of_sae_step(cfg)
    assert torch.equal(torch.get_rng_state(), before)
    assert suite.manifest.sae_step_flops == expected > 0
    assert SAESuite.load(tmp_path / "s").manifest.sae_step_flops == expected

    def no_room(_: Any) -> float:
        raise torch.OutOfMemoryError("another SAE")

    monkeypatch.setattr("sae_lens_groups.train.cost.flops_of_sae_step", no_room)
    again = GroupSAETrainingRunner(group_config(), tokens, model).run()
    assert again.manifest.sae_step_flops is None
    assert torch.equal(again.layer(0).W_dec, suite.layer(0).W_dec)


def test_a_home_folder_is_meant_by_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves it as it is in `--output_path=~/suite`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    saving = {"checkpoint_path": "~/ckpt", "save_final_checkpoint": True}
    cfg = group_config("0", output_path="~/suite", **saving)
    suite = GroupSAETrainingRunner(cfg, make_tokens(), make_model()).run()
    assert suite.path == tmp_path / "suite"
    assert {path.name for path in tmp_path.iterdir()} >= {"suite", "ckpt"}
    with pytest.raises(OutputFolderError, match="already holds"):
        files.require_free("~/suite")
    assert SAESuite.load("~/suite").save("~/copy") == tmp_path / "copy"
    assert not Path("~").exists()
