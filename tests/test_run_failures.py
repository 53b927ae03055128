"""What goes wrong while a run goes on costs no progress, and what can be known before is said before."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from datasets import Dataset, IterableDataset
from sae_lens import LoggingConfig
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookedRootModule
from wandb.errors import CommError, UsageError

from sae_lens_groups import GroupSAETrainingRunner, SAESuite, evaluate_suite
from sae_lens_groups.activations.shuffle_buffer import ShuffleBuffer
from sae_lens_groups.cli import main
from sae_lens_groups.demo.model import MODEL_CLASS_NAME, MODEL_FOLDER
from sae_lens_groups.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
    OutputFolderError,
    TrainingError,
    TrainingInterrupted,
)
from sae_lens_groups.train.checkpoints.folder import checkpoints_in
from sae_lens_groups.train.trainer import GroupSAETrainer

from . import processes
from .test_exact_resume import TEXTS, files_of, stop_after, text_model
from .test_run_checkpoints import run_folder
from .tiny import (
    CONTEXT_SIZE,
    SMALL_LM_BATCHES,
    group_config,
    make_model,
    make_tokens,
    sae_config,
)

assert text_model  # a fixture
Rows = list[dict[str, Any]]


def run(
    model: HookedRootModule, dataset: Dataset | IterableDataset | None = None, **changes: Any
) -> SAESuite:
    cfg = group_config(changes.pop("layer_groups", "0-2,3"), **changes)
    given = make_tokens() if dataset is None else dataset
    return GroupSAETrainingRunner(cfg, override_dataset=given, override_model=model).run()


# --- a late bad row ---


def stream_of(rows: Callable[[], Iterator[dict[str, Any]]]) -> IterableDataset:
    dataset = IterableDataset.from_generator(rows)
    assert isinstance(dataset, IterableDataset)
    return dataset


def with_row(rows: Rows, number: int, bad: Any) -> IterableDataset:
    """A stream whose row of this number holds, or raises, something else."""

    def generate() -> Iterator[dict[str, Any]]:
        for n, row in enumerate(rows, start=1):
            if n == number and isinstance(bad, Exception):
                raise bad
            yield dict.fromkeys(row, bad) if n == number else row

    return stream_of(generate)


TOKEN_ROWS: Rows = list(make_tokens())  # type: ignore[arg-type]
PROMPT = [1] * CONTEXT_SIZE


@pytest.fixture(scope="module")
def whole(model: HookedTransformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite of a run whose dataset has no bad row."""
    folder = tmp_path_factory.mktemp("whole") / "suite"
    run(model, training_tokens=32 * 60, output_path=str(folder))
    return folder


@pytest.mark.parametrize(
    ("bad", "what", "prefetch"),
    [
        ([*PROMPT[1:], 60], "holds token 60, but the model's vocabulary ends at 59", 0),
        ([*PROMPT[1:], -100], "holds token -100, but the model's vocabulary ends at 59", 0),
        (PROMPT[1:], "gives tokens of shape (15,), and context_size is 16", 0),
        (None, "cannot be read: TypeError: ", 2),
        ([PROMPT, PROMPT], "gives tokens of shape (2, 16), and context_size is 16", 0),
        (["a"] * CONTEXT_SIZE, "cannot be read: ", 0),
        (ConnectionError("server gone"), "cannot be read: ConnectionError: server gone", 2),
    ],
    ids=["beyond", "negative", "ragged", "null", "nested", "strings", "stream"],
)
def test_a_late_bad_row_of_tokens_is_named_and_the_progress_saved(
    model: HookedTransformer, whole: Path, tmp_path: Path, bad: Any, what: str, prefetch: int
) -> None:
    settings: dict[str, Any] = {"prefetch_llm_batches": prefetch, "training_tokens": 32 * 60}
    with pytest.raises(DatasetError) as caught:
        run(
            model,
            with_row(TOKEN_ROWS, 103, bad),
            checkpoint_path=str(tmp_path / "ckpt"),
            **settings,
        )
    assert "row 103 of the dataset " in str(caught.value)
    assert what in str(caught.value)
    (checkpoint,) = checkpoints_in(run_folder({"checkpoint_path": tmp_path / "ckpt"}))
    assert str(caught.value).endswith(f"; the state before is saved in {checkpoint}")
    assert "\n" not in str(caught.value)
    # With the row mended, the run ends as if nothing had been.
    later = {**settings, "output_path": str(tmp_path / "later")}
    run(model, make_tokens(), resume_from_checkpoint=str(checkpoint), **later)
    assert files_of(whole) == files_of(tmp_path / "later")


def text_settings(**changes: Any) -> dict[str, Any]:
    return {
        "hook_name": "gpt_neox.layers.3",
        "sae": sae_config(d_in=96),
        "layer_groups": "3,4-5",
        "training_tokens": 32 * 60,
        **changes,
    }


def test_a_late_row_without_text_is_named_and_the_progress_saved(
    text_model: HookedRootModule, tmp_path: Path
) -> None:
    texts = with_row([{"text": text} for text in TEXTS], 20, None)
    settings = text_settings(checkpoint_path=str(tmp_path))
    with pytest.raises(
        DatasetError, match=r"row 20 of the dataset cannot be read.*; the state bef"
    ):
        run(text_model, texts, **settings)
    assert len(checkpoints_in(run_folder(settings))) == 1


def test_a_late_chat_turn_that_the_template_refuses_is_named_and_the_progress_saved(
    text_model: HookedRootModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}"
        "{% else %}{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
    )
    monkeypatch.setattr(text_model.tokenizer, "chat_template", template)
    chats = [{"messages": [{"role": "user", "content": text}]} for text in TEXTS]
    chats = with_row(chats, 20, [{"role": "system", "content": "late"}])
    settings = text_settings(checkpoint_path=str(tmp_path), use_chat_formatting=True)
    with pytest.raises(DatasetError, match=r"row 20 .*: roles must alternate; the state before is"):
        run(text_model, chats, **settings)


def test_a_language_model_that_fails_late_leaves_a_checkpoint(tmp_path: Path) -> None:
    model = make_model()
    cfg = group_config(checkpoint_path=str(tmp_path), **SMALL_LM_BATCHES)
    runner = GroupSAETrainingRunner(cfg, override_dataset=make_tokens(), override_model=model)
    n_passes = 0

    def fail_late(*_: Any) -> None:
        nonlocal n_passes
        n_passes += 1
        if n_passes == 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    model.blocks[0].register_forward_pre_hook(fail_late)
    with pytest.raises(TrainingError) as caught:
        runner.run()
    (checkpoint,) = checkpoints_in(run_folder({"checkpoint_path": tmp_path}))
    assert str(caught.value).startswith("before training step ")
    assert str(caught.value).endswith(
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB; the state before is saved "
        f"in {checkpoint}"
    )
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_a_training_step_that_fails_names_the_last_checkpoint(
    model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the groups have made the step, so this state is not to be saved."""
    step = GroupSAETrainer.step

    def failing(self: GroupSAETrainer, batch: Any) -> Any:
        if self.group.name == "layers_3" and self.n_training_steps == 17:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, batch)

    monkeypatch.setattr(GroupSAETrainer, "step", failing)
    settings: dict[str, Any] = {
        "checkpoint_path": str(tmp_path / "ckpt"),
        "checkpoint_every": "256",
    }
    with pytest.raises(TrainingError) as caught:
        run(model, **settings)
    assert str(caught.value) == (
        "in training step 17: OutOfMemoryError: CUDA out of memory; the last checkpoint is "
        f"{run_folder(settings) / '512'}"
    )


@pytest.mark.slow
def test_the_command_line_gives_one_message_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from .test_cli import FLAGS

    text = "def f(x):\n    return x * f(x)\n" * 6
    rows = [{"text": None if n == 301 else f"{n}{text}"} for n in range(1, 361)]
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = ["train", *FLAGS, "--layer_groups", "0-3,11", "--dataset_path", "rows"]
    assert main([*flags, "--training_tokens", "200000"]) == 2
    error = capsys.readouterr().err
    assert "error: row 301 of the dataset cannot be read" in error
    assert "; the state before is saved in ckpt/" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("bad", [None, [*PROMPT[1:], 60], PROMPT[1:]])
def test_a_bad_row_is_named_in_an_evaluation_too(model: HookedTransformer, bad: Any) -> None:
    with pytest.raises(DatasetError, match="row 23 of the dataset "):
        evaluate_suite(run(model), model, with_row(TOKEN_ROWS, 23, bad), n_batches=10)


# --- what can be known before the model is loaded ---


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([{"tokens": "a text"}], {}, "begins with tokens 'a text', which is no list of token ids"),
        (
            [{"tokens": ["a", "b"]}],
            {},
            r"begins with tokens \['a', 'b'\], which is no list of token ids",
        ),
        ([{"tokens": [1, 2]}], {}, "begins with 2 tokens, less than context_size=16"),
        ([{"text": None}], {}, "begins with text None, which is no text"),
        (
            [{"code": "x"}],
            {},
            "override_dataset has the columns code, and none of tokens, input_ids",
        ),
        ([{"code": "x"}], {"use_chat_formatting": True}, "and none of conversation, conversations"),
    ],
)
def test_an_unusable_first_row_is_refused_before_the_model_loads(
    monkeypatch: pytest.MonkeyPatch, rows: Rows, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("sae_lens_groups.train.run.load_hooked_model", pytest.fail)
    with pytest.raises(DatasetError, match=message):
        GroupSAETrainingRunner(group_config(**changes), override_dataset=Dataset.from_list(rows))


def test_chats_need_a_template_which_is_looked_for_before_the_model_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sae_lens_groups.train.run.load_hooked_model", pytest.fail)
    cfg = group_config(
        model_name=str(MODEL_FOLDER), model_class_name=MODEL_CLASS_NAME, use_chat_formatting=True
    )
    chats = Dataset.from_list([{"messages": [{"role": "user", "content": "hello"}]}])
    with pytest.raises(ConfigError, match=r"tokenizer of .* has no chat template; name a model"):
        GroupSAETrainingRunner(cfg, override_dataset=chats)


def test_an_unwritable_checkpoint_path_is_refused_before_the_model_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_lens_groups.train.run.load_hooked_model", pytest.fail)
    (tmp_path / "file").write_text("no folder")
    cfg = group_config(checkpoint_path=str(tmp_path / "file" / "ckpt"))
    with pytest.raises(
        OutputFolderError, match=r"checkpoint_path '.*' cannot be written: Not a di"
    ):
        GroupSAETrainingRunner(cfg, override_dataset=make_tokens())


def test_an_unwritable_plan_folder_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    flags = ["--model_name", "nowhere", "--dataset_path", "nowhere", "--hook_name", "h.0"]
    assert main(["plan", *flags, "--output_path", "file/plan"]) == 2
    assert "output_path " in capsys.readouterr().err


def test_a_wrong_width_is_refused_before_training_begins(model: HookedTransformer) -> None:
    cfg = group_config(sae=sae_config(d_in=24))
    with pytest.raises(ConfigError, match=r"d_in is 24, but .* is 16 wide; set d_in to 16"):
        GroupSAETrainingRunner(cfg, override_dataset=make_tokens(), override_model=model)


def test_a_checkpoint_path_that_is_lost_later_costs_the_checkpoint_and_not_the_run(
    model: HookedTransformer, tmp_path: Path
) -> None:
    cfg = group_config(checkpoint_path=str(tmp_path / "ckpt"), checkpoint_every="256")
    runner = GroupSAETrainingRunner(cfg, override_dataset=make_tokens(), override_model=model)
    (tmp_path / "ckpt").write_text("in the way by now")
    with pytest.warns(UserWarning, match="no checkpoint after .* tokens, training goes on: "):
        assert len(runner.run()) == 4


def test_a_suite_that_cannot_be_put_together_leaves_a_checkpoint(
    model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("sae_lens_groups.train.result.export_suite", failing)
    settings: dict[str, Any] = {"checkpoint_path": str(tmp_path / "ckpt")}
    with pytest.raises(OutputFolderError, match=r"the suite could not be written.*CUDA out of mem"):
        run(model, output_path=str(tmp_path / "suite"), **settings)
    assert [path.name for path in checkpoints_in(run_folder(settings))] == ["960"]


def test_a_finished_run_started_again_says_that_it_is_done(
    model: HookedTransformer, tmp_path: Path
) -> None:
    run(model, output_path=str(tmp_path / "suite"))
    with pytest.raises(OutputFolderError, match=r"this run is done: output_path .* holds its suit"):
        run(model, output_path=str(tmp_path / "suite"))
    with pytest.raises(OutputFolderError, match="already holds a finished suite"):
        run(model, output_path=str(tmp_path / "suite"), seed=8)


# --- resumed with other settings ---


def rates(
    monkeypatch: pytest.MonkeyPatch, model: HookedTransformer, **settings: Any
) -> dict[int, float]:
    """The learning rate of each training step of a run."""
    seen: dict[int, float] = {}
    step = GroupSAETrainer.step

    def watched(self: GroupSAETrainer, batch: Any) -> Any:
        seen[self.n_training_steps] = self.optimizer.param_groups[0]["lr"]
        return step(self, batch)

    runner = GroupSAETrainingRunner(group_config(**settings), make_tokens(), model)
    with monkeypatch.context() as patch:
        patch.setattr(GroupSAETrainer, "step", watched)
        runner.run()
    return seen


@pytest.mark.seam
@pytest.mark.parametrize(
    "schedule",
    [
        {"lr_decay_steps": 10, "lr_warm_up_steps": 5},
        {"lr_scheduler_name": "cosineannealing", "lr_warm_up_steps": 5, "lr_decay_steps": 5},
        {"lr_scheduler_name": "cosineannealingwarmrestarts", "n_restart_cycles": 3},
    ],
    ids=["constant", "cosine", "restarts"],
)
@pytest.mark.parametrize(
    "other",
    [
        {"training_tokens": 32 * 45},
        {"training_tokens": 32 * 24, "lr": 1e-4},
    ],
    ids=["longer", "shorter and lower"],
)
def test_a_resumed_run_has_the_learning_rates_of_a_whole_run_of_its_settings(
    model: HookedTransformer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    schedule: dict[str, Any],
    other: dict[str, Any],
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 20)
        with pytest.raises(TrainingInterrupted) as caught:
            run(model, checkpoint_path=str(tmp_path), **schedule)
    settings = {**schedule, **other}
    whole = rates(monkeypatch, model, **settings)
    settings["resume_from_checkpoint"] = str(caught.value.checkpoint)
    with pytest.warns(UserWarning, match="with other settings"):
        resumed = rates(monkeypatch, model, **settings)
    assert list(resumed) == list(range(20, len(whole)))
    assert resumed == pytest.approx({step: whole[step] for step in resumed}, rel=1e-6, abs=1e-12)


@pytest.mark.seam
def test_other_betas_are_used(model: HookedTransformer, tmp_path: Path) -> None:
    run(model, checkpoint_path=str(tmp_path / "a"), n_checkpoints=1)
    (checkpoint,) = checkpoints_in(run_folder({"checkpoint_path": tmp_path / "a"}))
    with pytest.warns(UserWarning, match="adam_beta1 was"):
        run(
            model,
            adam_beta1=0.5,
            resume_from_checkpoint=str(checkpoint),
            checkpoint_path=str(tmp_path / "b"),
            save_final_checkpoint=True,
        )
    (final,) = checkpoints_in(run_folder({"checkpoint_path": tmp_path / "b"}))
    state = torch.load(final / "layers_3" / "trainer_state.pt")
    assert state["optimizer"]["param_groups"][0]["betas"] == (0.5, 0.999)


@pytest.mark.parametrize(("n_batches_in_buffer", "prefetch"), [(2, 0), (4, 3), (20, 0)])
def test_a_checkpoint_goes_on_with_another_buffer_which_has_its_own_size(
    model: HookedTransformer, tmp_path: Path, n_batches_in_buffer: int, prefetch: int
) -> None:
    settings: dict[str, Any] = {
        "store_batch_size_prompts": 4,
        "prefetch_llm_batches": prefetch,
        "layers_per_token": 2,
    }
    run(
        model,
        checkpoint_path=str(tmp_path),
        checkpoint_every="192",
        n_batches_in_buffer=16,
        **settings,
    )
    for checkpoint in checkpoints_in(run_folder({"checkpoint_path": tmp_path}))[:-1]:
        cfg = group_config(
            n_batches_in_buffer=n_batches_in_buffer,
            resume_from_checkpoint=str(checkpoint),
            **settings,
        )
        with pytest.warns(UserWarning, match="n_batches_in_buffer was 16 and is"):
            runner = GroupSAETrainingRunner(cfg, make_tokens(), model)
        assert len(runner.run()) == 4


def test_a_smaller_buffer_takes_no_more_memory_than_a_new_one() -> None:
    large, small = (ShuffleBuffer(size, 64, 32, 0.5, d_in=1) for size in (512, 128))
    slot_N = large.reserve(512 + 40)
    large.write("g", slot_N, torch.arange(512.0 + 40)[:, None], 0)
    first = large.next_batch()
    assert first is not None
    n_slots, rows = small.n_slots, large.rows_of("g")
    small.restore({"g": rows}, large.n_serving, len(rows.rows_BD))
    assert small.n_slots == n_slots
    seen = first["g"].rows_BD.flatten().tolist()
    for _ in range(9):  # new rows find room, and no row comes twice
        while (batch := small.next_batch()) is not None:
            assert len(batch["g"].rows_BD) == 32
            seen += batch["g"].rows_BD.flatten().tolist()
        slot_N = small.reserve(64)
        assert len(slot_N) == 64
        small.write("g", slot_N, torch.full((64, 1), -1.0), 0)
    of_checkpoint = [row for row in seen if row >= 0]
    assert len(of_checkpoint) == len(set(of_checkpoint)) > 128


def test_prompts_of_another_size_are_refused_before_anything_is_read(
    model: HookedTransformer, tmp_path: Path
) -> None:
    run(model, checkpoint_path=str(tmp_path), n_checkpoints=1)
    (checkpoint,) = checkpoints_in(run_folder({"checkpoint_path": tmp_path}))
    with pytest.raises(
        CheckpointError, match=r"with context_size=16, and this run asks for 8; res"
    ):
        run(model, context_size=8, resume_from_checkpoint=str(checkpoint))


def test_a_shorter_dataset_than_the_checkpoint_has_read_is_refused(
    model: HookedTransformer, tmp_path: Path
) -> None:
    run(model, checkpoint_path=str(tmp_path), n_checkpoints=1)
    (checkpoint,) = checkpoints_in(run_folder({"checkpoint_path": tmp_path}))
    with pytest.raises(DatasetError, match=r"gives 10 prompts, and the run that goes on has read"):
        run(model, make_tokens(10), resume_from_checkpoint=str(checkpoint))


# --- W&B ---


def with_wandb(**changes: Any) -> LoggingConfig:
    return LoggingConfig(wandb_log_frequency=5, eval_every_n_wandb_logs=2, **changes)


def patch_started_wandb(
    monkeypatch: pytest.MonkeyPatch, name: str, replacement: Callable[..., Any]
) -> None:
    start = wandb.init

    def start_and_patch(**kwargs: Any) -> None:
        start(**kwargs)  # it sets some of these functions itself
        monkeypatch.setattr(wandb, name, replacement)

    monkeypatch.setattr(wandb, "init", start_and_patch)


@pytest.mark.seam
@pytest.mark.parametrize(
    "model_name", ["a name (of mine)[1]", "/home/me/models/" + "long_name_" * 20, "tiny"]
)
def test_every_model_name_is_one_that_wandb_takes(
    model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_name: str
) -> None:
    names: list[str] = []
    patch_started_wandb(
        monkeypatch, "log_artifact", lambda artifact, **_: names.append(artifact.name)
    )
    run(
        model,
        model_name=model_name,
        logger=with_wandb(),
        n_checkpoints=1,
        n_eval_batches=1,
        eval_batch_size_prompts=4,
        checkpoint_path=str(tmp_path / "ckpt"),
        output_path=str(tmp_path / "suite"),
    )
    assert len(names) == 8  # an SAE and its firing rates, of two groups, from checkpoint and suite
    assert len(set(names)) == 4  # which W&B tells apart
    assert len(checkpoints_in(run_folder({"checkpoint_path": tmp_path / "ckpt"}))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["log", "log_artifact", "finish", "Histogram"])
def test_nothing_that_wandb_raises_ends_a_run(
    model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise wandb.Error("the server is away\nmore")

    settings: dict[str, Any] = {
        "logger": with_wandb(),
        "n_checkpoints": 1,
        "n_eval_batches": 1,
        "eval_batch_size_prompts": 4,
        "feature_sampling_window": 10,
        "checkpoint_path": str(tmp_path / "ckpt"),
    }
    patch_started_wandb(monkeypatch, name, broken)
    with pytest.warns(UserWarning, match="W&B: Error: the server is away; training goes on"):
        run(model, output_path=str(tmp_path / "suite"), **settings)
    monkeypatch.undo()
    wandb.finish()
    assert len(checkpoints_in(run_folder(settings))) == 1
    assert len(SAESuite.load(tmp_path / "suite")) == 4


def test_a_server_that_is_away_at_the_start_is_no_reason_not_to_train(
    model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(**_: Any) -> None:
        raise CommError("timed out")

    monkeypatch.setattr(wandb, "init", away)
    with pytest.warns(UserWarning, match="W&B does not start, and the run goes on without it: Com"):
        assert len(run(model, logger=with_wandb())) == 4


def test_a_missing_wandb_key_is_said_before_the_model_loads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a process of its own, as W&B reads its settings once."""
    code = (
        "from tests.tiny import group_config, make_tokens\n"
        "import os\n"
        "from sae_lens import LoggingConfig\n"
        "from sae_lens_groups import GroupSAETrainingRunner\n"
        "os.environ['WANDB_MODE'] = 'online'\n"
        "try:\n"
        "    GroupSAETrainingRunner(group_config(logger=LoggingConfig()), make_tokens())\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    done = processes.run("-c", code, cwd=tmp_path)
    assert "W&B has no API key here; run `wandb login` or set WANDB_API_KEY, set" in done.stdout


@pytest.mark.parametrize(("resume", "expected"), [("auto", "allow"), (None, "never")])
def test_a_given_wandb_id_is_gone_on_with_or_never_overwritten(
    model: HookedTransformer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    resume: str | None,
    expected: str,
) -> None:
    asked_for: dict[str, Any] = {}

    def refuse(**kwargs: Any) -> None:
        asked_for.update(kwargs)
        raise UsageError("run id is taken")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ConfigError, match="W&B refuses: run id is taken; give another wandb_id, s"):
        run(
            model,
            logger=with_wandb(wandb_id="mine"),
            resume_from_checkpoint=resume,
            checkpoint_path=str(tmp_path / "ckpt"),
        )
    assert (asked_for["id"], asked_for["resume"]) == ("mine", expected)


@pytest.mark.slow
def test_a_bad_row_that_evals_alone_meet_costs_the_evals(model: HookedTransformer) -> None:
    settings: dict[str, Any] = {
        "logger": with_wandb(),
        "n_eval_batches": 12,  # at step 10 they read far beyond what training ever reads
        "eval_batch_size_prompts": 4,
    }
    with pytest.warns(UserWarning, match=r"W&B: DatasetError: row 90 of .*; training goes on"):
        assert len(run(model, with_row(TOKEN_ROWS, 90, None), **settings)) == 4
