"""When checkpoints are made, which are kept, and what a run does when one cannot be written."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupSAETrainingRunner, SAESuite
from sae_lens_groups.errors import (
    CheckpointError,
    ConfigError,
    DivergedError,
    GroupSAEError,
    NonFiniteActivationsError,
    OutputFolderError,
    TrainingInterrupted,
)
from sae_lens_groups.field_values import Every, parse_every
from sae_lens_groups.files.checksums import write_checksums
from sae_lens_groups.files.writing import new_folder, only_writer
from sae_lens_groups.train.checkpoints.folder import checkpoints_in, damage_of
from sae_lens_groups.train.checkpoints.schedule import CheckpointSchedule
from sae_lens_groups.train.trainer import GroupSAETrainer

from . import processes
from .test_exact_resume import files_of, stop_after
from .tiny import SMALL_LM_BATCHES, group_config, make_model, make_tokens, sae_config


def run(model: HookedTransformer, layer_groups: str = "0-2,3", **changes: Any) -> SAESuite:
    cfg = group_config(layer_groups, **changes)
    return GroupSAETrainingRunner(cfg, override_dataset=make_tokens(), override_model=model).run()


def names_in(folder: Path) -> list[str]:
    """The checkpoints of the one run in a folder."""
    (run_folder,) = (path for path in folder.iterdir() if path.is_dir())
    return [path.name for path in checkpoints_in(run_folder)]


# --- when ---


@pytest.mark.parametrize(
    ("text", "every"),
    [
        ("30s", Every(seconds=30)),
        ("10m", Every(seconds=600)),
        ("1.5 h", Every(seconds=5400)),
        ("500", Every(tokens=500)),
        ("1_000_000", Every(tokens=1_000_000)),
    ],
)
def test_how_often_is_a_time_or_a_number_of_tokens(text: str, every: Every) -> None:
    assert parse_every(text) == every


@given(st.text(max_size=12))
def test_any_other_text_is_refused(text: str) -> None:
    try:
        every = parse_every(text)
    except ConfigError:
        return
    assert (every.seconds is None) != (every.tokens is None)
    assert (every.seconds or every.tokens or 0) > 0


def test_a_checkpoint_is_due_once_the_time_is_over_and_not_by_the_wall_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("sae_lens_groups.train.checkpoints.schedule.monotonic", lambda: now)
    schedule = CheckpointSchedule([], Every(seconds=60))
    found: dict[float, bool] = {}
    for now in (159.0, 160.0, 161.0, 219.0, 220.0, 400.0, 401.0):
        found[now] = schedule.is_due(n_tokens=0)
    assert [time for time, is_due in found.items() if is_due] == [160.0, 220.0, 400.0]


@given(st.integers(1, 50), st.integers(1, 30), st.integers(0, 500))
def test_every_multiple_of_the_tokens_is_followed_by_one_checkpoint(
    tokens: int, step: int, first: int
) -> None:
    schedule = CheckpointSchedule([], Every(tokens=tokens), n_tokens=first)
    counts = range(first + step, first + 1000, step)
    due = [n for n in counts if schedule.is_due(n)]
    assert due == [n for n in counts if n // tokens > (n - step) // tokens]


@pytest.mark.seam
def test_a_run_that_goes_on_makes_the_same_checkpoints(
    model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"checkpoint_every": "200", "n_checkpoints": 2}
    run(model, checkpoint_path=str(tmp_path / "whole"), **settings)
    killed = {**settings, "checkpoint_path": str(tmp_path / "killed")}
    with monkeypatch.context() as patch:
        stop_after(patch, 15)
        with pytest.raises(TrainingInterrupted):
            run(model, **killed)
    run(model, resume_from_checkpoint="auto", **killed)
    assert names_in(tmp_path / "whole") == ["224", "352", "416", "608", "672", "800"]
    assert names_in(tmp_path / "killed") == ["224", "352", "416", "480", "608", "672", "800"]


# --- which are kept ---


def test_the_newest_and_the_best_are_kept(
    model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"checkpoint_every": "160", "keep_checkpoints": 2}
    run(model, checkpoint_path=str(tmp_path / "all"), checkpoint_every="160")
    assert names_in(tmp_path / "all") == ["160", "320", "480", "640", "800", "960"]
    best_of = {320: 0.9, 160: 0.5}

    def facts(self: Any, points: Any) -> Any:
        n = self.n_training_samples
        return type(real(self, points))(training_tokens=n, explained_variance=best_of.get(n, 0.1))

    from sae_lens_groups.train.group_trainer import GroupTrainer

    real = GroupTrainer._facts  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(GroupTrainer, "_facts", facts)
    run(model, checkpoint_path=str(tmp_path / "kept"), **settings)
    assert names_in(tmp_path / "kept") == ["320", "800", "960"]


# --- going on by itself ---


@pytest.fixture
def stopped(
    model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The settings of a run that has checkpoints at 256, 512 and 640 tokens, and was stopped."""
    settings: dict[str, Any] = {
        "checkpoint_path": str(tmp_path / "ckpt"),
        "checkpoint_every": "256",
    }
    with monkeypatch.context() as patch:
        stop_after(patch, 20)
        with pytest.raises(TrainingInterrupted):
            run(model, **settings)
    assert names_in(tmp_path / "ckpt") == ["256", "512", "640"]
    return settings


def run_folder(settings: dict[str, Any]) -> Path:
    (folder,) = (path for path in Path(settings["checkpoint_path"]).iterdir() if path.is_dir())
    return folder


def test_auto_starts_anew_where_there_is_nothing(model: HookedTransformer, tmp_path: Path) -> None:
    suite = run(model, resume_from_checkpoint="auto", checkpoint_path=str(tmp_path / "none"))
    assert len(suite) == 4


def test_auto_goes_on_from_the_newest_in_the_runs_own_folder(
    model: HookedTransformer, stopped: dict[str, Any], tmp_path: Path
) -> None:
    run(model, output_path=str(tmp_path / "whole"))
    run(model, resume_from_checkpoint="auto", output_path=str(tmp_path / "auto"), **stopped)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "auto")
    assert names_in(tmp_path / "ckpt") == ["256", "512", "640", "768"]


def test_auto_takes_the_one_before_a_damaged_one_and_names_it(
    model: HookedTransformer, stopped: dict[str, Any], tmp_path: Path
) -> None:
    run(model, output_path=str(tmp_path / "whole"))
    damaged = run_folder(stopped) / "640" / "layers_3" / "trainer_state.pt"
    damaged.write_bytes(damaged.read_bytes()[:-7])
    with pytest.warns(UserWarning, match="is damaged") as caught:
        run(model, resume_from_checkpoint="auto", output_path=str(tmp_path / "auto"), **stopped)
    (message,) = [str(one.message) for one in caught if "damaged" in str(one.message)]
    assert "640' is damaged: layers_3/trainer_state.pt is " in message
    assert message.endswith("; the one before it is used")
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "auto")


def test_a_damaged_one_that_was_named_is_refused_with_the_one_before(
    model: HookedTransformer, stopped: dict[str, Any]
) -> None:
    folder = run_folder(stopped)
    (folder / "640" / "training_curves.csv").unlink()
    with pytest.raises(CheckpointError) as caught:
        run(model, resume_from_checkpoint=str(folder / "640"))
    assert str(caught.value) == (
        f"checkpoint '{folder / '640'}' is damaged and cannot be resumed: training_curves.csv is "
        f"missing; resume from the one before it, '{folder / '512'}'"
    )


@pytest.mark.parametrize("name", ["runner_cfg.json", "checkpoint.json"])
@pytest.mark.parametrize(
    "content",
    [b"{", b"null", b"\xff{}", b"[" * 100_000, b'{"training_tokens": Infinity}'],
    ids=["cut", "null", "no text", "deep", "infinite"],
)
def test_auto_refuses_where_all_are_damaged(
    model: HookedTransformer, stopped: dict[str, Any], name: str, content: bytes
) -> None:
    for checkpoint in checkpoints_in(run_folder(stopped)):
        (checkpoint / name).write_bytes(content)
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(CheckpointError, match=r"all 3 checkpoints in .* are damaged; remove"),
    ):
        run(model, resume_from_checkpoint="auto", **stopped)


def test_auto_does_not_take_an_altered_run_for_another_one(
    model: HookedTransformer, stopped: dict[str, Any], tmp_path: Path
) -> None:
    path = run_folder(stopped) / "640" / "runner_cfg.json"
    path.write_text(path.read_text().replace('"d_sae": 48', '"d_sae": 47'))
    with pytest.warns(UserWarning, match=r"runner_cfg.json was altered .*; the one before it is"):
        run(model, resume_from_checkpoint="auto", output_path=str(tmp_path / "auto"), **stopped)
    run(model, output_path=str(tmp_path / "whole"))
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "auto")


def test_auto_refuses_to_choose_between_two_runs(
    model: HookedTransformer, stopped: dict[str, Any]
) -> None:
    folder = run_folder(stopped)
    shutil.copytree(folder, folder.with_name("other"))
    with pytest.raises(CheckpointError, match=r"2 runs could be meant: .*; name a checkpoint of"):
        run(model, resume_from_checkpoint="auto", **stopped)


def test_auto_leaves_the_runs_of_other_groups_alone(
    model: HookedTransformer, stopped: dict[str, Any], tmp_path: Path
) -> None:
    suite = run(model, "0,1-3", resume_from_checkpoint="auto", **stopped)
    assert [group.name for group in suite.manifest.groups] == ["layers_0", "layers_1-3"]
    assert len(list((tmp_path / "ckpt").glob("[!.]*"))) == 2


def test_other_settings_are_gone_on_with_and_named(
    model: HookedTransformer, stopped: dict[str, Any]
) -> None:
    changes = {"lr": 1e-3, "seed": 8, "sae": sae_config(k=2)}
    told = r"lr was 0\.003 and is 0\.001; [^{]*sae\.k was 4 and is 2; seed was 7 and is 8$"
    with pytest.warns(UserWarning, match=told):
        run(model, resume_from_checkpoint="auto", **changes, **stopped)


def test_fewer_tokens_than_a_checkpoint_has_had_are_refused(
    model: HookedTransformer, stopped: dict[str, Any]
) -> None:
    with pytest.raises(CheckpointError, match=r"has had 640 training tokens.*training_tokens=512"):
        run(model, resume_from_checkpoint="auto", training_tokens=512, **stopped)


def test_another_learning_rate_is_used(
    model: HookedTransformer, stopped: dict[str, Any], tmp_path: Path
) -> None:
    """A group that diverged is trained on alone from its last checkpoint with a lower one."""
    settings = {**stopped, "checkpoint_path": str(tmp_path / "next"), "save_final_checkpoint": True}
    checkpoint = str(run_folder(stopped) / "512")
    with pytest.warns(UserWarning, match="lr was"):
        run(model, "3", resume_from_checkpoint=checkpoint, lr=1e-4, **settings)
    (folder,) = (path for path in (tmp_path / "next").iterdir() if path.is_dir())
    state = torch.load(checkpoints_in(folder)[-1] / "layers_3" / "trainer_state.pt")
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(1e-4)
    assert not (checkpoints_in(folder)[-1] / "layers_0-2").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint_every": "soon"}, "checkpoint_every is 'soon'; give a time such as 10m"),
        ({"checkpoint_every": "10m"}, "checkpoint_every needs checkpoint_path"),
        ({"resume_from_checkpoint": "auto"}, "resume_from_checkpoint auto needs checkpoint_path"),
        ({"keep_checkpoints": 0}, "keep_checkpoints is 0; it has to be at least 1"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        group_config(**changes)


# --- damage ---


def test_whatever_damages_a_checkpoint_is_found(
    model: HookedTransformer, stopped: dict[str, Any]
) -> None:
    """Every file, cut, emptied, altered in one bit, missing, a folder, or swapped with another's."""
    checkpoint = run_folder(stopped) / "640"
    names = [str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file()]
    n_damages = 0
    for name in sorted(names):
        path = checkpoint / name
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 3] ^= 4
        other = checkpoint / name.replace("layers_0-2", "layers_3")
        damages = {content[:-1], content[: len(content) // 2], b"", bytes(flipped), content + b" "}
        damages |= {other.read_bytes()} if other.is_file() else set()
        for damaged in damages - {content}:
            path.write_bytes(damaged)
            found = damage_of(checkpoint)
            if name == "checksums.json" and found is None:
                assert json.loads(damaged) == json.loads(content)  # only its spaces changed
            else:
                assert found is not None
                assert Path(name).name in found or name == "checksums.json"
            n_damages += 1
        path.unlink()
        assert damage_of(checkpoint) == f"{name} is missing"
        path.mkdir()
        assert damage_of(checkpoint) is not None
        path.rmdir()
        n_damages += 2
        path.write_bytes(content)
    assert damage_of(checkpoint) is None
    (checkpoint / "layers_7").mkdir()
    (checkpoint / "layers_7" / "layer_statistics.safetensors").write_bytes(b"foreign")
    assert damage_of(checkpoint) is None
    assert n_damages >= 100
    suite = run(model, resume_from_checkpoint=str(checkpoint))
    assert len(suite) == 4  # nothing reads what is not known


def test_a_checkpoint_that_contradicts_itself_is_refused(
    model: HookedTransformer, stopped: dict[str, Any]
) -> None:
    """Whole by its checksums, and still not what a run could have written."""
    checkpoint = run_folder(stopped) / "640"
    path = checkpoint / "layers_3" / "sae_weights.safetensors"
    weights = load_file(path)
    save_file({**weights, "W_enc": weights["W_enc"][:, :5].contiguous()}, path)
    write_checksums(checkpoint)
    with pytest.raises(CheckpointError, match="640' is damaged and cannot be resumed: RuntimeErr"):
        run(model, resume_from_checkpoint=str(checkpoint))


# --- places that cannot be written to ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a file system takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    model: HookedTransformer, small_disk: Path, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="no checkpoint after") as caught:
        run(
            model,
            checkpoint_path=str(small_disk / "ckpt"),
            checkpoint_every="160",
            output_path=str(tmp_path / "suite"),
        )
    messages = [str(one.message) for one in caught if "no checkpoint after" in str(one.message)]
    assert messages
    assert all("training goes on" in text and "the last checkpoint is" in text for text in messages)
    assert any("No space left" in text or "os error 28" in text for text in messages)
    (folder,) = (path for path in (small_disk / "ckpt").iterdir() if path.is_dir())
    kept = checkpoints_in(folder)
    assert kept
    assert [damage_of(path) for path in kept] == [None] * len(kept)
    assert not list(folder.glob(".*"))
    assert len(SAESuite.load(tmp_path / "suite")) == 4
    resumed = run(model, resume_from_checkpoint=str(kept[-1]))
    assert len(resumed) == 4


def test_a_suite_that_does_not_fit_the_disk_is_saved_as_a_checkpoint(
    model: HookedTransformer, small_disk: Path, tmp_path: Path
) -> None:
    (small_disk / "other").write_bytes(bytes(180 * 1024))
    settings: dict[str, Any] = {"checkpoint_path": str(tmp_path / "ckpt")}
    with pytest.raises(OutputFolderError) as caught:
        run(model, output_path=str(small_disk / "suite"), **settings)
    assert "the suite could not be written to" in str(caught.value)
    assert "the state before is saved in" in str(caught.value)
    assert not (small_disk / "suite").exists()
    checkpoint = checkpoints_in(run_folder(settings))[-1]
    run(model, output_path=str(tmp_path / "whole"))
    run(model, output_path=str(tmp_path / "later"), resume_from_checkpoint=str(checkpoint))
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "later")


def test_an_interrupted_run_says_why_it_could_not_save(
    model: HookedTransformer, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small_disk / "other").write_bytes(bytes(190 * 1024))
    with monkeypatch.context() as patch:
        stop_after(patch, 10)
        with pytest.raises(TrainingInterrupted) as caught:
            run(model, checkpoint_path=str(small_disk / "ckpt"))
    assert "training stopped by SIGTERM; its progress could not be saved: " in str(caught.value)
    assert "there is no checkpoint yet" in str(caught.value)


def test_a_folder_that_cannot_be_is_refused_at_once(
    model: HookedTransformer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputFolderError, match=r"Not a directory.*; name another output_path"):
        run(model, output_path=str(tmp_path / "file" / "suite"))


def test_missing_rights_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    process = os.fork()
    if process == 0:
        if os.geteuid() == 0:
            os.setuid(65534)  # rights do not stop root
        try:
            with only_writer(tmp_path / "closed" / "suite"):
                os._exit(1)
        except OutputFolderError as error:
            is_named = "cannot be written: Permission denied; name a folder that you" in str(error)
            os._exit(0 if is_named else 2)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_disk_that_is_read_only_is_refused_at_once(
    model: HookedTransformer, small_disk: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OutputFolderError, match="cannot be written: Read-only file system; name a"):
        run(model, output_path=str(small_disk / "suite"))


def test_a_mounted_disk_itself_is_refused(model: HookedTransformer, small_disk: Path) -> None:
    with pytest.raises(OutputFolderError, match="is where a disk is mounted; name a folder inside"):
        run(model, output_path=str(small_disk))


# --- two runs ---


def _hold(folder: str, is_held: Any) -> None:
    with only_writer(folder), new_folder(folder) as partial:
        (partial / "half").touch()
        is_held.set()
        signal.pause()


def test_a_second_run_on_a_folder_is_refused_until_the_first_is_killed_and_removes_what_it_left(
    model: HookedTransformer, tmp_path: Path
) -> None:
    folder = tmp_path / "suite"
    spawn = multiprocessing.get_context("forkserver")  # with what `processes` has imported
    is_held = spawn.Event()
    first = spawn.Process(target=_hold, args=(str(folder), is_held))
    first.start()
    assert is_held.wait(60)
    with pytest.raises(OutputFolderError) as caught:
        run(model, output_path=str(folder))
    assert str(caught.value) == (
        f"another run is writing to output_path '{folder}'; wait for it, or name another "
        "output_path"
    )
    first.kill()
    first.join()
    assert len(run(model, output_path=str(folder))) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["suite"]


def test_two_runs_do_not_go_on_from_the_same_checkpoints(
    model: HookedTransformer, stopped: dict[str, Any]
) -> None:
    with (
        only_writer(run_folder(stopped), "checkpoint_path"),
        pytest.raises(OutputFolderError, match="another run is writing to checkpoint_path"),
    ):
        run(model, resume_from_checkpoint="auto", **stopped)


# --- signals ---


def test_a_second_signal_ends_at_once_and_breaks_nothing(
    model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one comes while the checkpoint that the first one asked for is written."""
    from sae_lens_groups.files import checksums
    from sae_lens_groups.train import group_trainer as trainer

    def interrupted_write(folder: Path, **_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        checksums.write_checksums(folder)

    monkeypatch.setattr(trainer, "write_checksums", interrupted_write)
    stop_after(monkeypatch, 10)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            run(model, checkpoint_path=str(tmp_path / "ckpt"))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert not isinstance(caught.value, TrainingInterrupted)
    assert list(run_folder({"checkpoint_path": tmp_path / "ckpt"}).iterdir()) == []


# --- health ---


def test_a_loss_that_is_not_finite_stops_the_run_and_names_group_layers_and_step(
    model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = GroupSAETrainer.step

    def diverging(self: GroupSAETrainer, batch: Any) -> Any:
        if self.group.name == "layers_0-2" and self.n_training_steps == 17:
            self.sae.b_dec.data.fill_(float("inf"))
        return step(self, batch)

    monkeypatch.setattr(GroupSAETrainer, "step", diverging)
    settings = {"checkpoint_path": str(tmp_path / "ckpt"), "checkpoint_every": "256"}
    with pytest.raises(DivergedError) as caught:
        run(model, **settings)
    assert str(caught.value) == (
        "group layers_0-2 (layers 0, 1, 2) diverged: its loss is since training step 17 NaN or "
        "infinite; lower lr, or check the activations of these layers; the last checkpoint is "
        f"{run_folder(settings) / '512'}"
    )
    weights = load_file(run_folder(settings) / "512" / "layers_0-2" / "sae_weights.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())


def test_an_sae_in_float16_that_diverges_is_told_to_take_another_dtype(
    model: HookedTransformer,
) -> None:
    with pytest.raises(DivergedError, match=r"set sae\.dtype to float32 or bfloat16"):
        run(model, sae=sae_config(dtype="float16"))


def test_weights_that_are_not_finite_are_not_saved(
    model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = GroupSAETrainer.step

    def breaking(self: GroupSAETrainer, batch: Any) -> Any:
        output = step(self, batch)
        if self.n_training_steps == 7:
            self.sae.W_dec.data[0, 0] = float("nan")
        return output

    monkeypatch.setattr(GroupSAETrainer, "step", breaking)
    with pytest.raises(DivergedError, match=r"diverged: its weights are NaN or infinite.*there is"):
        run(model, checkpoint_path=str(tmp_path / "ckpt"), checkpoint_every="256")


def test_nan_activations_at_once_leave_nothing(tmp_path: Path) -> None:
    model = make_model()
    model.blocks[2].mlp.W_out.data.fill_(float("nan"))  # pyright: ignore
    with pytest.raises(NonFiniteActivationsError) as caught:
        run(model, checkpoint_path=str(tmp_path / "ckpt"))
    assert str(caught.value).startswith("before training step 0: ")
    assert str(caught.value).endswith(
        "nothing was saved, because checkpoint_path is None or no step was complete"
    )
    assert not (tmp_path / "ckpt").exists()


def test_nan_activations_leave_a_checkpoint_from_which_the_run_would_be_the_same(
    tmp_path: Path,
) -> None:
    model = make_model()
    run(model, output_path=str(tmp_path / "whole"), **SMALL_LM_BATCHES)
    settings = {"checkpoint_path": str(tmp_path / "ckpt"), **SMALL_LM_BATCHES}
    cfg = group_config(**settings)
    runner = GroupSAETrainingRunner(cfg, override_dataset=make_tokens(), override_model=model)
    store = runner.activations_store
    capture = store.capture
    n_passes = 0

    def broken(batch_tokens: torch.Tensor, take: Any) -> None:
        nonlocal n_passes
        n_passes += 1
        factor = float("nan") if n_passes == 14 else 1.0
        capture(batch_tokens, lambda name, acts: take(name, acts * factor))

    store.capture = broken  # type: ignore[method-assign]
    with pytest.raises(NonFiniteActivationsError) as caught:
        runner.run()
    message = str(caught.value)
    assert message.startswith("before training step ")
    assert "activations at layer 0 (group layers_0-2) hold NaN or infinity" in message
    checkpoint = checkpoints_in(run_folder(settings))[-1]
    assert message.endswith(f"; the state before is saved in {checkpoint}")
    later: dict[str, Any] = {"output_path": str(tmp_path / "later"), **SMALL_LM_BATCHES}
    run(model, resume_from_checkpoint=str(checkpoint), **later)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "later")


def test_everything_that_stops_a_run_is_documented() -> None:
    assert issubclass(DivergedError, GroupSAEError)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = (Path(__file__).parent.parent / "tutorials" / "long_runs.md").read_text()
    for status in ("130", "143", "2"):
        assert f"`{status}`" in text


def test_the_command_line_knows_the_flags() -> None:
    done = processes.run("-m", "sae_lens_groups", "train", "--help")
    assert "--checkpoint_every" in done.stdout
    assert "--keep_checkpoints" in done.stdout
