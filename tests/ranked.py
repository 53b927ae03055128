"""Runs that several processes train, or one:

torchrun --nproc_per_node 3 -m tests.ranked FOLDER '[{"run": "topk"}, {"run": "text", "stop": [1, 9]}]'

Each writes its suite to `FOLDER/<as>`, and what it raised on each rank to `FOLDER/<as>.<rank>`.
"""

import contextlib
import io
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import wandb
from datasets import Dataset
from sae_lens import LoggingConfig, TrainingSAE
from sae_lens.load_model import load_model

from sae_lens_groups import GroupSAETrainingRunner, cache_activations, cli
from sae_lens_groups.activations.shuffle_buffer import ShuffleBuffer
from sae_lens_groups.activations.store import GroupActivationsStore
from sae_lens_groups.demo.model import MODEL_CLASS_NAME, MODEL_FOLDER
from sae_lens_groups.errors import GroupSAEError, TrainingInterrupted
from sae_lens_groups.train import SweepTrainingRunner
from sae_lens_groups.train.fast_step import why_not
from sae_lens_groups.train.group_trainer import GroupTrainer
from sae_lens_groups.train.ranks import heartbeat
from sae_lens_groups.train.trainer import GroupSAETrainer
from tests.tiny import (
    ARCHITECTURES,
    CONTEXT_SIZE,
    group_config,
    make_model,
    make_tokens,
    sae_config,
)

RANK = int(os.environ.get("RANK", "0"))
NORMALISED = {"normalize_activations": "expected_average_only_in"}
HAS_WHITENING = hasattr(TrainingSAE, "fold_activation_whitening")
WHITENED = {"normalize_activations": "covariance_whitening"} if HAS_WHITENING else NORMALISED
TEXTS = [
    f"def f{n}(x):\n    return x + {n * 37 % 101} * f{n % 7}(x)\n" * (1 + n % 5) for n in range(45)
]

RUNS: dict[str, Callable[[dict[str, Any]], Any]] = {}


def on_tokens(
    name: str, layer_groups: str = "0-1,2,3", bad_row: int | None = None, **settings: Any
) -> None:
    """A run on a random model and tokens in memory, which end inside a round."""

    def run(given: dict[str, Any]) -> None:
        cfg = group_config(layer_groups, **{**settings, **given})
        tokens, model = make_tokens(70), make_model()
        if bad_row is not None:
            rows = [
                [-1] * CONTEXT_SIZE if n == bad_row else r for n, r in enumerate(tokens["tokens"])
            ]
            tokens = Dataset.from_dict({"tokens": rows})
        cache, kind = cfg.cached_activations_path, name.split()[-1]
        if cache is not None and not Path(cache).exists():  # by the first run, of one process
            cache_activations(cfg, cache_rows=kind, override_dataset=tokens, override_model=model)
        if cfg.sweep is not None:
            SweepTrainingRunner(cfg, tokens, model).run()
        else:
            GroupSAETrainingRunner(cfg, tokens, model).run()

    RUNS[name] = run


def on_text(name: str, layer_groups: str = "3,4-5", **settings: Any) -> None:
    """A run on the demo's model and streamed texts, which are cut in their middle."""

    def run(given: dict[str, Any]) -> None:
        cfg = group_config(
            layer_groups,
            hook_name="gpt_neox.layers.3",
            **{"sae": sae_config(d_in=96, **NORMALISED), **settings, **given},
        )
        texts = Dataset.from_dict({"text": TEXTS}).to_iterable_dataset()
        model = load_model(MODEL_CLASS_NAME, str(MODEL_FOLDER), device="cpu")
        GroupSAETrainingRunner(cfg, texts, model).run()

    RUNS[name] = run


on_tokens("topk", sae=sae_config(**NORMALISED), fast_step="always")
on_tokens(
    "sweep", sae=sae_config(**NORMALISED), sweep=["architecture=topk,batchtopk", "d_sae=48,60"]
)
on_tokens("rows", "0-1,2,3", sae=sae_config(**NORMALISED), init_features="rows")
on_tokens("each", "each", store_batch_size_prompts=4)
on_tokens("one group", "0-3", layers_per_token=2, fast_step="never")
on_tokens("whitened", sae=sae_config(**WHITENED))
on_tokens(
    "whitened and aligned",
    "0-2,3",
    sae=sae_config(**WHITENED),
    layer_alignment="affine",
    plan_tokens=512,
    training_tokens=CONTEXT_SIZE * 70 * 3,  # three epochs
    refit_tokens=512,
)
on_tokens("aligned", "0-2,3", layer_alignment="orthogonal", plan_tokens=512)
on_tokens("auto", "auto:2", plan_tokens=512)
on_tokens("outliers", max_activation_norm_multiple=1.1, store_batch_size_prompts=4)
on_tokens("cache all", "auto:2", plan_tokens=512, use_cached_activations=True, refit_tokens=512)
on_tokens("cache drawn", use_cached_activations=True)
on_tokens("init", "1-2,3", init_direction="forward", init_alignment="orthogonal", plan_tokens=512)
on_tokens("kept", "2,3", init_direction="forward", init_keep_layers=True)
on_tokens("bad row", store_batch_size_prompts=4, bad_row=53)
# Training costs more than the language model, so whoever trains nothing runs that for the others.
on_tokens("lent", "0-2", fast_step="never", store_batch_size_prompts=4)
on_tokens("lent bad row", "0-2", fast_step="never", store_batch_size_prompts=4, bad_row=53)
on_text("text", layers_per_token=2, exclude_special_tokens=True, training_tokens=32 * 60)
on_text("long text", "0-1,2,3,4-5", training_tokens=32 * 120)
SHARDED = [name for name in ("topk", "batchtopk", "abstopk") if name in ARCHITECTURES]
for architecture in SHARDED:
    sae = sae_config(architecture, **NORMALISED, d_sae=63)
    on_tokens(f"shards {architecture}", "0-3", sae=sae, fast_step="always")
begun = sae_config("batchtopk", **NORMALISED, d_sae=63)
on_tokens("shards begun", "1-2,3", sae=begun, fast_step="always", plan_tokens=512)
half = sae_config(**NORMALISED, d_sae=63, dtype="bfloat16")
on_tokens("shards bfloat16", "0-3", sae=half, fast_step="always")
on_tokens(
    "shards", "0-1,2,3", sae=sae_config(**NORMALISED), fast_step="always", training_tokens=32 * 200
)
for architecture in ARCHITECTURES:
    sae = sae_config(architecture, **NORMALISED)
    fast = "auto" if why_not(sae) else "always"  # auto would not take it for SAEs this small
    for name, step in ((f"{architecture} fast", fast), (f"{architecture} never", "never")):
        on_tokens(name, sae=sae, fast_step=step, training_tokens=32 * 20)


# --- what is seen of a run ---


@contextlib.contextmanager
def watched(file: Path) -> Iterator[None]:
    """Writes which collectives a rank took part in, its bytes sent, and those of its buffer."""
    seen: list[str] = []
    n_sent: list[int] = []
    buffers: dict[str, int] = {}
    next_batch = ShuffleBuffer.next_batch

    def see(self: ShuffleBuffer) -> Any:
        for group, held in self._batches.items():  # pyright: ignore[reportPrivateUsage]
            buffers[group] = sum(tensor.nbytes for tensor in held)
        return next_batch(self)

    def recorded(name: str) -> Any:
        real = getattr(dist, name)

        def record(*args: Any, **kwargs: Any) -> Any:
            assert threading.current_thread() is threading.main_thread()
            seen.append(name)
            if name == "all_to_all_single":
                _, sent, _, n_rows_sent = args
                n_sent.append((sum(n_rows_sent) - n_rows_sent[RANK]) * sent.shape[1])
            return real(*args, **kwargs)

        return mock.patch.object(dist, name, record)

    with contextlib.ExitStack() as stack:
        for name in COLLECTIVES:
            stack.enter_context(recorded(name))
        stack.enter_context(mock.patch.object(ShuffleBuffer, "next_batch", see))
        yield
    record = {"collectives": seen, "n_sent": sum(n_sent), "buffers": buffers}
    file.write_text(json.dumps(record))


# --- what goes wrong ---


@contextlib.contextmanager
def signalled(number: int, rank: int, n_steps: int, n_times: int = 1) -> Iterator[None]:
    """Sends one rank a signal at the end of a training step, before any restart."""
    is_first_attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    show = GroupTrainer._update_pbar  # pyright: ignore[reportPrivateUsage]

    def stop(self: GroupTrainer, *args: Any, **kwargs: Any) -> None:
        if self.n_training_steps == n_steps and rank == RANK and is_first_attempt:
            for _ in range(n_times):
                os.kill(os.getpid(), number)
        show(self, *args, **kwargs)

    with mock.patch.object(GroupTrainer, "_update_pbar", stop):
        yield


@contextlib.contextmanager
def failing(owner: type, method: str, rank: int, n_calls: int, error: Exception) -> Iterator[None]:
    """Lets the n-th call of a method fail on one rank."""
    real, calls = getattr(owner, method), []

    def fail(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if rank == RANK and len(calls) == n_calls:
            raise error
        return real(self, *args, **kwargs)

    with mock.patch.object(owner, method, fail):
        yield


@contextlib.contextmanager
def busy(rank: int, seconds: int) -> Iterator[None]:
    """Lets a rank's first training step take so long."""
    step, calls = GroupSAETrainer.step, []

    def take_time(self: GroupSAETrainer, batch: Any) -> Any:
        calls.append(1)
        if rank == RANK and len(calls) == 1:
            os.write(2, b"busy\n")
            time.sleep(seconds)
        return step(self, batch)

    with mock.patch.object(GroupSAETrainer, "step", take_time):
        yield


@contextlib.contextmanager
def spoiling(rank: int, n_calls: int) -> Iterator[None]:
    """Makes a weight of every SAE of one rank NaN before a training step."""
    step, calls = GroupSAETrainer.step, []

    def spoil(self: GroupSAETrainer, batch: Any) -> Any:
        calls.append(1)
        if rank == RANK and len(calls) == n_calls:
            self.sae.W_enc.data.fill_(torch.nan)
        return step(self, batch)

    with mock.patch.object(GroupSAETrainer, "step", spoil):
        yield


@contextlib.contextmanager
def without_numbers(rank: int, n_calls: int) -> Iterator[None]:
    """Lets one rank's language model give NaN for an LM batch."""
    capture, calls = GroupActivationsStore.capture, []

    def spoil(self: Any, tokens: torch.Tensor, take: Callable[[str, torch.Tensor], None]) -> None:
        calls.append(1)
        is_spoilt = rank == RANK and len(calls) == n_calls
        capture(
            self, tokens, lambda name, acts: take(name, acts * torch.nan if is_spoilt else acts)
        )

    with mock.patch.object(GroupActivationsStore, "capture", spoil):
        yield


def fault(name: str, rank: int, n_calls: int) -> contextlib.AbstractContextManager[Any]:
    if name in SIGNALS:
        return signalled(SIGNALS[name], rank, n_calls)
    if name == "twice":
        return signalled(signal.SIGTERM, rank, n_calls, n_times=2)
    if name == "nan":
        return without_numbers(rank, n_calls)
    if name == "weights":
        return spoiling(rank, n_calls)
    if name == "model":
        error: Exception = RuntimeError("out of memory")
        return failing(GroupActivationsStore, "capture", rank, n_calls, error)
    if name == "step":
        return failing(GroupSAETrainer, "step", rank, n_calls, RuntimeError("out of memory"))
    if name == "busy":
        return busy(rank, n_calls)
    if name == "blind":  # to what other ranks write
        is_blind = mock.patch.object(Path, "is_dir", return_value=False)
        return is_blind if rank == RANK else contextlib.nullcontext()
    assert name == "disk"
    return failing(GroupSAETrainer, "save_trainer_state", rank, n_calls, OSError(28, "No space"))


def newest(folder: Path) -> str:
    """The newest checkpoint of the one run whose checkpoints are in a folder."""
    found = [path for path in folder.glob("*/*") if not path.name.startswith(".")]
    return str(max(found, key=lambda path: int(path.name)))


def main() -> None:
    torch.set_num_threads(1)
    folder, given = Path(sys.argv[1]), json.loads(sys.argv[2])
    os.environ["WANDB_DIR"] = str(folder)
    for settings in given:
        if "command" in settings:
            commanded(folder, settings)
            continue
        name = settings.pop("run")
        into = folder / settings.pop("as", name)
        is_watched = settings.pop("watched", False)
        if is_logged := settings.pop("wandb", False):
            every = LoggingConfig(wandb_log_frequency=5, eval_every_n_wandb_logs=2)
            settings |= {"logger": every, "n_eval_batches": 1, "eval_batch_size_prompts": 4}
        faults = faults_of(settings)
        for key in ("checkpoint_path", "cached_activations_path", "init_from"):
            if key in settings:
                settings[key] = str(folder / settings[key])
        if "resume" in settings:
            settings["resume_from_checkpoint"] = newest(folder / settings.pop("resume"))
        try:
            with contextlib.ExitStack() as stack:
                for one in faults:
                    stack.enter_context(one)
                if is_logged:
                    stack.enter_context(logging_to(into.with_name(f"{into.name}.{RANK}.json")))
                if is_watched:
                    stack.enter_context(watched(into.with_name(f"{into.name}.{RANK}.seen")))
                RUNS[name]({"output_path": str(into), **settings})
        except (GroupSAEError, TrainingInterrupted) as error:
            text = f"{type(error).__name__}: {error}"
            into.with_name(f"{into.name}.{RANK}").write_text(text)
    is_alone = "WORLD_SIZE" not in os.environ
    assert dist.is_initialized() != is_alone  # without others there is no process group


def faults_of(settings: dict[str, Any]) -> list[contextlib.AbstractContextManager[Any]]:
    """What is to go wrong, which the settings are rid of."""
    if "silence" in settings:
        heartbeat.SECONDS_OF_SILENCE = settings.pop("silence")
    return [fault(kind, *settings.pop(kind)) for kind in FAULTS if kind in settings]


def commanded(folder: Path, settings: dict[str, Any]) -> None:
    """Runs the command line; writes its status, what it printed, and how long it took."""
    out, err, start = io.StringIO(), io.StringIO(), time.monotonic()
    args = [*settings["command"], *(settings.get("of_rank_1", []) if RANK == 1 else [])]
    with contextlib.ExitStack() as stack:
        for one in faults_of(settings):
            stack.enter_context(one)
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        status = cli.main(args)
    seconds = time.monotonic() - start
    ended = {"status": status, "out": out.getvalue(), "err": err.getvalue(), "seconds": seconds}
    (folder / f"{settings['as']}.{RANK}").write_text(json.dumps(ended))


@contextlib.contextmanager
def logging_to(file: Path) -> Iterator[None]:
    """Writes all numbers that are logged to W&B into a file."""
    logged: dict[str, Any] = {}
    start = wandb.init

    def upload(artifact: Any, **_: Any) -> None:
        logged.setdefault(artifact.name, []).append(sorted(artifact.manifest.entries))

    def start_and_listen(**kwargs: Any) -> Any:
        run = start(**kwargs)  # a real run, offline; it sets wandb.log and wandb.log_artifact
        wandb.log_artifact = upload
        wandb.log = lambda entries, step: logged.update(
            {f"{step} {k}": entries[k] for k in entries}
        )
        return run

    with mock.patch.object(wandb, "init", start_and_listen):
        yield
    file.write_text(json.dumps(logged, default=lambda _: "no number"))


SIGNALS = {
    "stop": signal.SIGTERM,
    "interrupt": signal.SIGINT,
    "kill": signal.SIGKILL,
    "hang": signal.SIGSTOP,
}
FAULTS = (*SIGNALS, "busy", "twice", "nan", "weights", "model", "step", "blind", "disk")
COLLECTIVES = [  # all that torch.distributed has, one to another aside
    name
    for name in vars(dist)
    if re.match("(all_|reduce|gather|scatter|broadcast|barrier|monitored|new_group)", name)
    and callable(getattr(dist, name))
]

if __name__ == "__main__":
    main()
