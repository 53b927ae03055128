"""Checkpoints, signals and resuming."""

import json
import os
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupSAETrainingRunner, SAESuite
from sae_lens_groups.activations.shuffle_buffer import ShuffleBuffer
from sae_lens_groups.errors import CheckpointError, TrainingInterrupted

from .tiny import (
    CONTEXT_SIZE,
    D_IN,
    SMALL_LM_BATCHES,
    group_config,
    make_model,
    make_tokens,
    sae_config,
)

NORMALISED = {"normalize_activations": "expected_average_only_in"}


def make_runner(
    model: HookedTransformer, layer_groups: str = "0-2,3", **changes: Any
) -> GroupSAETrainingRunner:
    cfg = group_config(layer_groups, **{"sae": sae_config("topk", **NORMALISED), **changes})
    return GroupSAETrainingRunner(cfg, override_dataset=make_tokens(), override_model=model)


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of the one run in a folder, oldest first."""
    (run,) = folder.iterdir()
    return sorted(run.iterdir(), key=lambda path: int(path.name.removeprefix("final_")))


def send_at_step(runner: GroupSAETrainingRunner, step: int, signal_number: int) -> None:
    """Sends this process a signal while the LM works on that step's batch."""
    store = runner.activations_store
    original = store.get_batch_tokens
    calls = 0

    def read(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal_number)
        return original(*args, **kwargs)

    store.get_batch_tokens = read  # type: ignore[method-assign]


@pytest.mark.seam
def test_checkpoints_hold_what_a_run_needs_to_go_on(
    model: HookedTransformer, tmp_path: Path
) -> None:
    make_runner(model, checkpoint_path=str(tmp_path / "ckpt"), n_checkpoints=2).run()
    first, second = checkpoints_in(tmp_path / "ckpt")
    assert 320 < int(first.name) < 400
    assert int(second.name) > 640
    files = {str(path.relative_to(first)) for path in first.rglob("*") if path.is_file()}
    assert files == {
        "runner_cfg.json",
        "training_curves.csv",
        "activations_store_state.safetensors",
        "checkpoint.json",
        "checksums.json",
        *(
            f"{group}/{file}"
            for group, layers in (("layers_0-2", (0, 1, 2)), ("layers_3", (3,)))
            for file in (
                "cfg.json",
                "sae_weights.safetensors",
                "sparsity.safetensors",
                "trainer_state.pt",
                "activation_scaler.json",
                "layer_statistics.safetensors",
                "shuffle_buffer.safetensors",
                "step_state.safetensors",
                *(f"layer_{layer}/activation_scaler.json" for layer in layers),
            )
        ),
    }


@pytest.mark.seam
@pytest.mark.parametrize("save_final_checkpoint", [True, False])
def test_a_final_checkpoint_only_where_it_is_asked_for(
    model: HookedTransformer, tmp_path: Path, save_final_checkpoint: bool
) -> None:
    changes = {
        "checkpoint_path": str(tmp_path / "ckpt"),
        "save_final_checkpoint": save_final_checkpoint,
    }
    make_runner(model, **changes).run()
    written = (tmp_path / "ckpt").exists()
    assert written == save_final_checkpoint
    if written:
        assert [path.name for path in checkpoints_in(tmp_path / "ckpt")] == ["final_960"]


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_whole_step_and_says_where(
    tmp_path: Path, signal_number: int, prefetch: bool
) -> None:
    runner = make_runner(
        make_model(),
        checkpoint_path=str(tmp_path / "ckpt"),
        prefetch_llm_batches=prefetch,
        **SMALL_LM_BATCHES,
    )
    send_at_step(runner, step=14, signal_number=signal_number)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(TrainingInterrupted) as caught:
        runner.run()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    (checkpoint,) = checkpoints_in(tmp_path / "ckpt")
    assert caught.value.signal_number == signal_number
    assert caught.value.checkpoint == checkpoint
    assert f"progress is saved in {checkpoint}, continue with" in str(caught.value)
    n_samples = int(checkpoint.name)
    assert n_samples % 32 == 0
    for group in ("layers_0-2", "layers_3"):
        state = torch.load(checkpoint / group / "trainer_state.pt")
        assert state["n_training_samples"] == n_samples
        assert state["n_training_steps"] == n_samples // 32


def test_a_signal_without_a_checkpoint_path_says_that_nothing_was_saved(
    model: HookedTransformer,
) -> None:
    runner = make_runner(model, **SMALL_LM_BATCHES)
    send_at_step(runner, step=14, signal_number=signal.SIGINT)
    with pytest.raises(TrainingInterrupted, match="nothing was saved, because checkpoint_path is"):
        runner.run()


def test_a_signal_while_the_suite_is_written_lets_it_be_written(
    model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = SAESuite.save

    def interrupted_save(self: SAESuite, path: str | Path) -> Path:
        os.kill(os.getpid(), signal.SIGINT)
        return save(self, path)

    monkeypatch.setattr(SAESuite, "save", interrupted_save)
    # SAELens's own runners leave their handler behind, in whatever test came before.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            make_runner(model, output_path=str(tmp_path / "suite")).run()
    finally:
        signal.signal(signal.SIGINT, handler)
    assert len(SAESuite.load(tmp_path / "suite")) == 4


def test_training_works_in_a_thread_that_cannot_listen_to_signals(
    model: HookedTransformer,
) -> None:
    suites: list[SAESuite] = []
    runner = make_runner(model)
    thread = threading.Thread(target=lambda: suites.append(runner.run()))
    thread.start()
    thread.join()
    assert len(suites[0]) == 4


@pytest.mark.seam
def test_a_resumed_run_goes_on_with_weights_optimiser_scaling_and_data(tmp_path: Path) -> None:
    model = make_model(norms=(1, 4, 16, 16))
    first = make_runner(model, checkpoint_path=str(tmp_path / "ckpt"), **SMALL_LM_BATCHES)
    send_at_step(first, step=14, signal_number=signal.SIGINT)
    with pytest.raises(TrainingInterrupted) as caught:
        first.run()
    checkpoint = caught.value.checkpoint
    assert checkpoint is not None
    factors = [
        json.loads(
            (checkpoint / "layers_0-2" / f"layer_{n}" / "activation_scaler.json").read_text()
        )
        for n in range(3)
    ]
    n_rows_before = first.activations_store.n_dataset_processed

    resumed = make_runner(
        model,
        checkpoint_path=str(tmp_path / "ckpt2"),
        save_final_checkpoint=True,
        resume_from_checkpoint=str(checkpoint),
        **SMALL_LM_BATCHES,
    )
    suite = resumed.run()
    assert resumed.activations_store.n_dataset_processed > n_rows_before
    (final,) = checkpoints_in(tmp_path / "ckpt2")
    state = torch.load(final / "layers_0-2" / "trainer_state.pt")
    assert (state["n_training_steps"], state["n_training_samples"]) == (30, 960)
    # Adam counts its own steps: it started from the saved moments, not anew.
    assert {int(moments["step"]) for moments in state["optimizer"]["state"].values()} == {30}
    statistics = load_file(final / "layers_0-2" / "layer_statistics.safetensors")
    assert statistics["n_rows"].sum() == 960
    restored = [suite.manifest.scaling_factors[n] for n in range(3)]
    assert restored == [factor["scaling_factor"] for factor in factors]
    assert len(set(restored)) == 3


@pytest.mark.slow
def test_a_run_resumes_also_near_the_end_of_the_dataset(
    model: HookedTransformer, tmp_path: Path
) -> None:
    """Less than one buffer is left then, which is no reason to call the dataset too small."""
    tokens = make_tokens(n_prompts=40)

    def runner(**changes: Any) -> GroupSAETrainingRunner:
        cfg = group_config("3", training_tokens=32 * 40, **SMALL_LM_BATCHES, **changes)
        return GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model)

    with pytest.warns(UserWarning, match="starts over"):
        runner(checkpoint_path=str(tmp_path / "ckpt"), n_checkpoints=20).run()
    for checkpoint in checkpoints_in(tmp_path / "ckpt"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the dataset starting over
            runner(resume_from_checkpoint=str(checkpoint)).run()


def test_a_resumed_run_makes_only_the_checkpoints_still_due(
    model: HookedTransformer, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"n_checkpoints": 3}
    make_runner(model, checkpoint_path=str(tmp_path / "a"), **changes).run()
    second = checkpoints_in(tmp_path / "a")[1]
    resumed = make_runner(
        model,
        checkpoint_path=str(tmp_path / "b"),
        resume_from_checkpoint=str(second),
        **changes,
    )
    resumed.run()
    assert [path.name for path in checkpoints_in(tmp_path / "b")] == [
        checkpoints_in(tmp_path / "a")[2].name
    ]


def test_the_draws_go_on_where_the_checkpoint_left_them(
    model: HookedTransformer, tmp_path: Path
) -> None:
    store = make_runner(model, **SMALL_LM_BATCHES).activations_store
    buffer = ShuffleBuffer(1, 999, batch_size=1, mix_fraction=0, d_in=D_IN)
    fills = store.fill(buffer)
    for _ in range(3):
        next(fills)
    list(iter(buffer.next_batch, None))
    (tmp_path / "ckpt").mkdir()
    store.save_to_checkpoint(tmp_path / "ckpt")
    after = make_runner(model, **SMALL_LM_BATCHES).activations_store
    after.load_from_checkpoint(tmp_path / "ckpt")
    again = ShuffleBuffer(1, 999, batch_size=1, mix_fraction=0, d_in=D_IN)
    next(fills)
    next(after.fill(again))
    expected, found = (
        [int(batch["layers_0-2"].position_B) for batch in iter(buffers.next_batch, None)]
        for buffers in (buffer, again)
    )
    assert len(found) == 4 * CONTEXT_SIZE
    assert expected == found


def test_a_checkpoint_that_cannot_be_finished_leaves_none(
    model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("sae_lens_groups.train.run.save_runner_files", no_space)
    runner = make_runner(model, checkpoint_path=str(tmp_path / "ckpt"), n_checkpoints=1)
    with pytest.warns(UserWarning, match="no checkpoint after 512 tokens, training goes on: No sp"):
        assert len(runner.run()) == 4
    (run,) = (tmp_path / "ckpt").iterdir()
    assert list(run.iterdir()) == []


# --- wrong checkpoints ---


@pytest.fixture
def checkpoint(model: HookedTransformer, tmp_path: Path) -> Path:
    make_runner(model, checkpoint_path=str(tmp_path / "ckpt"), n_checkpoints=1).run()
    return checkpoints_in(tmp_path / "ckpt")[0]


def refusal(model: HookedTransformer, path: Path, layer_groups: str = "0-2,3", **sae: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        make_runner(
            model,
            layer_groups,
            resume_from_checkpoint=str(path),
            sae=sae_config(**{"architecture": "topk", **NORMALISED, **sae}),
        )
    return str(caught.value)


def test_a_folder_that_is_no_checkpoint_is_refused(
    model: HookedTransformer, tmp_path: Path
) -> None:
    assert refusal(model, tmp_path / "nowhere").endswith(
        "is not a checkpoint of a grouped run: it has no runner_cfg.json; name a folder such as "
        "checkpoints/<run id>/<tokens>"
    )


def test_a_checkpoint_of_other_groups_is_refused(
    model: HookedTransformer, checkpoint: Path
) -> None:
    assert refusal(model, checkpoint, "0-1,2-3").endswith(
        "holds layers_0-2, layers_3, and this run asks for layers_0-1, layers_2-3; resume with "
        "the first run's layer_groups, or some of its groups"
    )


def test_a_checkpoint_of_another_sae_is_refused(model: HookedTransformer, checkpoint: Path) -> None:
    assert "was made with d_sae=48, and this run asks for 96" in refusal(
        model, checkpoint, d_sae=96
    )
    assert "was made with architecture='topk', and this run asks for 'standard'" in refusal(
        model, checkpoint, architecture="standard"
    )
    assert "was made with normalize_activations='expected_average_only_in'" in refusal(
        model, checkpoint, normalize_activations="none"
    )


def test_a_checkpoint_of_another_model_or_hook_is_refused(
    model: HookedTransformer, checkpoint: Path
) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model_name": "models/other"}, "was made with model_name='tiny', and this run asks for"),
        ({"hook_name": "blocks.1.hook_mlp_out"}, "hook_name='blocks.{layer}.hook_resid_post'"),
        ({"hook_head_index": 1}, "was made with hook_head_index=None, and this run asks for 1"),
    ]
    for changes, message in cases:
        with pytest.raises(CheckpointError) as caught:
            make_runner(model, resume_from_checkpoint=str(checkpoint), **changes)
        assert message in str(caught.value)
    # The same model at another place, and another layer of the same hook, are the same run.
    same: dict[str, Any] = {
        "model_name": "/elsewhere/tiny",
        "hook_name": "blocks.3.hook_resid_post",
    }
    make_runner(model, resume_from_checkpoint=str(checkpoint), **same)


def test_a_checkpoint_with_a_missing_file_is_refused(
    model: HookedTransformer, checkpoint: Path
) -> None:
    (checkpoint / "activations_store_state.safetensors").unlink()
    assert "activations_store_state.safetensors is missing; there is none" in refusal(
        model, checkpoint
    )
    (checkpoint / "checksums.json").unlink()
    assert "has no checksums.json: it is incomplete, or of sae-lens-groups before" in refusal(
        model, checkpoint
    )


@pytest.mark.parametrize(
    "file",
    [
        "activations_store_state.safetensors",
        "layers_0-2/trainer_state.pt",
        "layers_0-2/sae_weights.safetensors",
        "layers_0-2/layer_statistics.safetensors",
        "layers_0-2/layer_1/activation_scaler.json",
    ],
)
@pytest.mark.parametrize("damage", ["cut", "empty", "zeros"])
def test_a_damaged_checkpoint_is_named(
    model: HookedTransformer, checkpoint: Path, file: str, damage: str
) -> None:
    path = checkpoint / file
    content = path.read_bytes()
    damaged = {"cut": content[: len(content) // 2], "empty": b"", "zeros": bytes(len(content))}
    path.write_bytes(damaged[damage])
    message = refusal(model, checkpoint)
    assert f"checkpoint '{checkpoint}' is damaged and cannot be resumed: {file} " in message
