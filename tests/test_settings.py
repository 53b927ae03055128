"""Settings that do not fit the run, the model or the machine are found before training, with numbers."""

from typing import Any

import pytest
import torch
from datasets import Dataset
from sae_lens.load_model import HookedProxyLM
from transformer_lens import HookedTransformer
from transformers import AutoConfig, AutoModelForCausalLM

from sae_lens_groups import (
    GroupSAERunnerConfig,
    GroupSAETrainingRunner,
    evaluate_suite,
    measure_layer_distances,
)
from sae_lens_groups.errors import ConfigError, HookNameError
from sae_lens_groups.train.prepare import settle

from .conftest import D_IN, group_config, make_model, sae_config

WARM_RESTARTS = "cosineannealingwarmrestarts"
LONG_SCHEDULES = [
    ({"lr_warm_up_steps": 31}, "and lr_warm_up_steps takes 31"),
    ({"lr_decay_steps": 31}, "and lr_decay_steps takes 31"),
    (
        {"lr_warm_up_steps": 16, "lr_decay_steps": 15},
        "and lr_warm_up_steps and lr_decay_steps take 31",
    ),
    (
        {"lr_decay_steps": 30, "lr_scheduler_name": "cosineannealing"},
        "and lr_decay_steps and a step of cosineannealing take 31",
    ),
    (
        {"n_restart_cycles": 31, "lr_scheduler_name": WARM_RESTARTS},
        "and n_restart_cycles takes 31",
    ),
    ({"sae": sae_config("standard", l1_warm_up_steps=31)}, "and l1_warm_up_steps takes 31"),
    ({"sae": sae_config("jumprelu", l0_warm_up_steps=31)}, "and l0_warm_up_steps takes 31"),
]


@pytest.mark.parametrize(("changes", "message"), LONG_SCHEDULES)
def test_a_schedule_longer_than_the_run_is_refused_before_the_model_loads(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        settle(group_config(**changes))
    assert f"training_tokens leaves 30 training steps, {message}" in str(caught.value)
    assert str(caught.value).endswith("lower that, or raise training_tokens")


def test_schedules_that_fill_the_run_are_trained(model: HookedTransformer, tokens: Dataset) -> None:
    fitting: list[dict[str, Any]] = [
        {"lr_warm_up_steps": 15, "lr_decay_steps": 15},
        {"lr_decay_steps": 29, "lr_scheduler_name": "cosineannealing"},
        {"n_restart_cycles": 30, "lr_scheduler_name": WARM_RESTARTS},
        {"sae": sae_config("standard", l1_warm_up_steps=30)},
    ]
    for changes in fitting:
        GroupSAETrainingRunner(group_config("3", **changes), tokens, model).run()


@pytest.mark.parametrize(
    "changes", [{"lr": 0.0}, {"lr_end": 0.0, "lr_scheduler_name": "cosineannealing"}]
)
def test_a_decay_that_begins_at_0_is_refused_before_the_model_loads(
    changes: dict[str, Any],
) -> None:
    with pytest.raises(ConfigError, match=r"lr_decay_steps is 5, .* begin at (lr|lr_end) = 0"):
        settle(group_config(lr_decay_steps=5, **changes))


def test_saes_are_trained_on_device_where_their_own_cannot_be_used(
    model: HookedTransformer, tokens: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(UserWarning, match=r"sae.device is 'cuda', which .* on device, 'cpu'"):
        cfg = group_config("3", sae=sae_config(device="cuda"))
    suite = GroupSAETrainingRunner(cfg, tokens, model).run()
    plain = GroupSAETrainingRunner(group_config("3"), tokens, model).run()
    assert torch.equal(suite.layer(3).W_dec, plain.layer(3).W_dec)


def test_the_settings_of_a_run_on_another_device_are_used_with_device(
    model: HookedTransformer, tokens: Dataset
) -> None:
    saved = group_config("3").to_dict()
    for name in ("device", "llm_device", "act_store_device"):
        saved[name] = "cuda"
    saved["sae"]["device"] = "cuda"
    with pytest.warns(UserWarning, match="sae.device is 'cuda'"):
        cfg = GroupSAERunnerConfig.from_saved(saved, device="cpu")
    assert len(GroupSAETrainingRunner(cfg, tokens, model).run()) == 1


def test_the_number_that_a_buffer_needs_is_named() -> None:
    with pytest.raises(ConfigError, match="raise n_batches_in_buffer to 32"):
        group_config(
            context_size=128,
            n_batches_in_buffer=20,
            train_batch_size_tokens=4096,
            training_tokens=8192,
        )


SILENT_HOOKS = [
    ("hook_mlp_in", "use_hook_mlp_in"),
    ("hook_attn_in", "use_attn_in"),
    ("attn.hook_result", "use_attn_result"),
    ("hook_q_input", "use_split_qkv_input"),
]


@pytest.mark.parametrize(("hook", "flag"), SILENT_HOOKS)
def test_a_hook_that_the_model_does_not_compute_names_the_flag_that_makes_it(
    tokens: Dataset, hook: str, flag: str
) -> None:
    model = make_model(n_layers=1)
    d_in = D_IN if hook == "hook_mlp_in" else 2 * D_IN  # two heads
    cfg = group_config("0", hook_name=f"blocks.0.{hook}", sae=sae_config(d_in=d_in))
    with pytest.raises(HookNameError, match=rf"call model\.set_{flag}\(True\)"):
        GroupSAETrainingRunner(cfg, tokens, model)
    with pytest.raises(HookNameError, match=rf"call model\.set_{flag}\(True\)"):
        measure_layer_distances(cfg, override_dataset=tokens, override_model=model)
    getattr(model, f"set_{flag}")(True)
    assert len(GroupSAETrainingRunner(cfg, tokens, model).run()) == 1


NO_ROWS = [
    ("attn.hook_pattern", 0, HookNameError, r"of shape \(1, 2, 7, 7\) for a prompt of 7 tokens"),
    ("attn.hook_pattern", None, HookNameError, r"of shape \(1, 2, 7, 7\)"),
    ("attn.hook_z", 2, ConfigError, "hook_head_index is 2, but .* has the heads 0 to 1"),
    ("hook_resid_post", 0, ConfigError, "hook_head_index is 0, but .* has no heads"),
    ("hook_resid_post", None, ConfigError, "d_in is 8, but .* is 16 wide; set d_in to 16"),
]


@pytest.mark.parametrize(("hook", "head", "error", "message"), NO_ROWS)
def test_a_hook_that_gives_no_rows_of_d_in_is_refused_before_training(
    model: HookedTransformer,
    tokens: Dataset,
    hook: str,
    head: int | None,
    error: type[Exception],
    message: str,
) -> None:
    cfg = group_config(
        "1", hook_name=f"blocks.1.{hook}", hook_head_index=head, sae=sae_config(d_in=8)
    )
    with pytest.raises(error, match=message):
        GroupSAETrainingRunner(cfg, tokens, model)


def hf_model(kind: str, n_positions: int, **changes: Any) -> HookedProxyLM:
    """A random transformers model of one or two layers."""
    sizes = {
        "vocab_size": 60,
        "hidden_size": D_IN,
        "intermediate_size": D_IN,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": n_positions,
    }
    config = AutoConfig.for_model(kind, **{**sizes, **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    return HookedProxyLM(model, None)  # type: ignore[arg-type]  # the tests give it tokens


def test_a_hook_without_a_position_axis_is_not_blamed_on_heads(tokens: Dataset) -> None:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    model = hf_model("mixtral", 64, **experts)
    cfg = group_config(
        "0", hook_name="model.layers.0.mlp.gate", model_class_name="AutoModelForCausalLM"
    )
    with pytest.raises(HookNameError, match=r"gives activations of shape .* row of each token"):
        GroupSAETrainingRunner(cfg, tokens, model)


def test_a_wrong_argument_of_the_models_pass_is_refused_before_training(
    model: HookedTransformer, tokens: Dataset
) -> None:
    with pytest.raises(ConfigError, match=r"model_kwargs \{'stop_here': 1\} cannot be passed"):
        GroupSAETrainingRunner(group_config(model_kwargs={"stop_here": 1}), tokens, model)


long_tokens = Dataset.from_dict({"tokens": [[n % 60] * 32 for n in range(100)]})
OPT = {"ffn_dim": D_IN, "word_embed_proj_dim": D_IN, "pad_token_id": 1}
LEARNED_POSITIONS = [
    ("gpt2", "transformer.h.0", {}),
    ("opt", "model.decoder.layers.0", OPT),
    ("gptj", "transformer.h.0", {"rotary_dim": 8}),
]


@pytest.mark.parametrize(("kind", "hook_name", "changes"), LEARNED_POSITIONS)
def test_prompts_beyond_the_positions_of_a_model_are_refused(
    kind: str, hook_name: str, changes: dict[str, Any]
) -> None:
    cfg = group_config(
        "0",
        hook_name=hook_name,
        model_class_name="AutoModelForCausalLM",
        context_size=32,
    )
    with pytest.raises(ConfigError, match="context_size is 32, and the model has 31 positions"):
        GroupSAETrainingRunner(cfg, long_tokens, hf_model(kind, 31, **changes))
    assert GroupSAETrainingRunner(cfg, long_tokens, hf_model(kind, 32, **changes)).run()


def test_prompts_beyond_the_positions_of_transformerlens_are_refused(
    model: HookedTransformer, tokens: Dataset
) -> None:
    with pytest.raises(ConfigError, match="context_size is 32, and the model has 16 positions"):
        GroupSAETrainingRunner(group_config(context_size=32), long_tokens, model)
    suite = GroupSAETrainingRunner(group_config("3"), tokens, model).run()
    with pytest.raises(ConfigError, match="context_size is 32, and the model has 16 positions"):
        evaluate_suite(suite, model, long_tokens, context_size=32)


def test_prompts_longer_than_a_rotary_model_was_made_for_are_warned_of() -> None:
    cfg = group_config(
        "0",
        hook_name="model.layers.0",
        model_class_name="AutoModelForCausalLM",
        context_size=32,
    )
    with pytest.warns(UserWarning, match="the model was made for prompts of up to 16 tokens"):
        runner = GroupSAETrainingRunner(cfg, long_tokens, hf_model("llama", 16))
    assert runner.run()
    GroupSAETrainingRunner(cfg, long_tokens, hf_model("llama", 32))  # no warning
