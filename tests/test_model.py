"""The language model that a run loads: SAELens's, without what training has no use for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens.load_model import HookedProxyLM, load_model
from transformer_lens import HookedRootModule

from sae_lens_groups import GroupSAETrainingRunner, evaluate_suite
from sae_lens_groups.activations import load_hooked_model
from sae_lens_groups.demo.model import D_IN, MODEL_CLASS_NAME, MODEL_FOLDER
from sae_lens_groups.demo.run import demo_config

from .tiny import make_tokens

HOOK_NAMES = [f"gpt_neox.layers.{layer}" for layer in range(3)]


def activations(model: HookedRootModule, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        cache = model.run_with_cache(tokens, names_filter=HOOK_NAMES)[1]
    return {name: cache[name] for name in HOOK_NAMES}


def test_a_run_keeps_no_keys_and_values_and_has_the_same_activations() -> None:
    cfg = demo_config("0-2", None, context_size=16)
    model = GroupSAETrainingRunner(cfg, override_dataset=make_tokens()).model
    assert isinstance(model, HookedProxyLM)
    tokens = torch.randint(0, 1000, (2, 16), generator=torch.Generator().manual_seed(0))
    assert model.model(tokens).past_key_values is None

    plain = load_model(MODEL_CLASS_NAME, str(MODEL_FOLDER), device="cpu")
    assert isinstance(plain, HookedProxyLM)
    assert plain.model(tokens).past_key_values is not None
    ours, theirs = activations(model, tokens), activations(plain, tokens)
    assert ours[HOOK_NAMES[-1]].shape == (2, 16, D_IN)
    for name in HOOK_NAMES:
        assert torch.equal(ours[name], theirs[name])


@pytest.mark.parametrize(
    ("setting", "advice"),
    [
        ({"autocast_lm": True}, "leave autocast_lm out"),
        ({"model_from_pretrained_kwargs": {"dtype": "bfloat16"}}, '{"dtype": "float32"}'),
    ],
)
def test_bfloat16_on_a_processor_without_it_is_told(
    setting: dict[str, Any], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with pytest.warns(UserWarning, match="bfloat16, which this processor") as caught:
        load_hooked_model(demo_config("0-2", None, **setting), None)
    assert advice in str(caught[0].message)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    load_hooked_model(demo_config("0-2", None, **setting), None)


def test_a_model_that_transformers_spreads_gives_the_same_suite_and_scores(tmp_path: Path) -> None:
    """Layers from the third on lie on the disk, from where each comes for its part of a pass."""
    here = ("gpt_neox.embed_in", "gpt_neox.rotary_emb", "gpt_neox.final_layer_norm", "lm_head")
    spread = dict.fromkeys(here, "cpu") | {
        f"gpt_neox.layers.{layer}": "cpu" if layer < 2 else "disk" for layer in range(12)
    }
    found, devices = {}, {}
    for name, placed in {
        "plain": {},
        "spread": {"device_map": spread, "offload_folder": str(tmp_path / "offloaded")},
    }.items():
        cfg = demo_config(
            "1-2,3",
            tmp_path / name,
            model_from_pretrained_kwargs=placed,
            context_size=16,
            training_tokens=1024,
            n_batches_in_buffer=64,
            n_batches_for_norm_estimate=1,
        )
        runner = GroupSAETrainingRunner(cfg, override_dataset=make_tokens())
        scores = evaluate_suite(runner.run(), runner.model, make_tokens(), n_batches=1)
        weights = {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in (tmp_path / name).rglob("sae_w*")
        }
        found[name] = weights, [score.metrics for score in scores]
        devices[name] = {parameter.device.type for parameter in runner.model.parameters()}
    assert "meta" in devices["spread"]
    assert found["plain"] == found["spread"]


def test_the_model_of_a_run_that_fills_in_a_suite_evaluates_all_of_it(tmp_path: Path) -> None:
    short = {
        "context_size": 16,
        "training_tokens": 1024,
        "n_batches_in_buffer": 64,
        "n_batches_for_norm_estimate": 1,
    }
    source = demo_config("0,2", tmp_path / "source", **short)
    GroupSAETrainingRunner(source, override_dataset=make_tokens()).run()
    cfg = demo_config("1", None, init_from=str(tmp_path / "source"), init_keep_layers=True, **short)
    runner = GroupSAETrainingRunner(cfg, override_dataset=make_tokens())
    scores = evaluate_suite(runner.run(), runner.model, make_tokens(), n_batches=1)
    assert [score.hook_name for score in scores] == HOOK_NAMES
