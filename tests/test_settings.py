"""Settings that do not fit the run, the model or the machine are found before training, with numbers."""

from typing import Any

import pytest
import torch
from datasets import Dataset
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupSAERunnerConfig, GroupSAETrainingRunner
from sae_lens_groups.errors import ConfigError
from sae_lens_groups.train.prepare import settle

from .conftest import group_config, sae_config

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
