"""The ways that are measured, and how."""

import gc
import platform
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import sae_lens
import torch
from datasets import Dataset
from sae_lens import (
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
    MultiSAETrainingRunner,
    MultiSAETrainingRunnerConfig,
)
from transformer_lens import HookedRootModule

from sae_lens_groups import GroupSAERunnerConfig, GroupSAETrainingRunner, SweepTrainingRunner
from tests.benchmarks.speed.clocks import Memory, is_cuda, seconds_of
from tests.benchmarks.speed.jobs import (
    AUTOCAST,
    BATCHES_FOR_NORM_ESTIMATE,
    CONTEXT_SIZE,
    EACH,
    GROUPS,
    LIMIT,
    LR,
    MULTI,
    SINGLE,
    STORE_BATCH_SIZE_PROMPTS,
    Job,
)
from tests.benchmarks.speed.limit import measure_limit
from tests.benchmarks.speed.models import make_dataset, make_model, sae_config
from tests.benchmarks.speed.parts import time_by_part

Grouped = GroupSAETrainingRunner | SweepTrainingRunner
Runner = LanguageModelSAETrainingRunner | MultiSAETrainingRunner | Grouped


def measure(job: Job) -> dict[str, Any]:
    """Seconds and memory of a job in this process, and what machine it is."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    model = make_model(job)
    figures = measure_limit(job, model) if job.way == LIMIT else _trained(job, model)
    return {**figures, **_machine(job)}


def _trained(job: Job, model: HookedRootModule) -> dict[str, Any]:
    dataset = make_dataset(job)
    _warm_up(job, model, dataset)
    seconds: list[float] = []
    n_saes = n_rows_read = 0
    parts: dict[str, float] = {}
    memory = Memory(job.device)
    for runner in RUNNERS[job.way](job, model, dataset):
        if not seconds:
            memory.start()
        with time_by_part(parts, job.clock) if job.is_by_part else nullcontext():
            seconds.append(seconds_of(runner.run, job.device, job.clock))
        if isinstance(runner, Grouped):
            (run,) = runner.runs
            n_saes, store = len(run.groups), run.activations_store
        else:
            run, n_saes, store = runner, job.n_layers, runner.activations_store
        n_rows_read = store.n_dataset_processed
        del runner, run, store  # before the next one is made
        gc.collect()
    return {
        "seconds": _over_all_layers(job, seconds) if job.way == SINGLE else seconds[0],
        "seconds_of_runs": seconds,
        "n_saes": n_saes,
        # The store counts a row when it asks for the next one, so the last is not counted.
        "tokens_read": (n_rows_read + 1) * CONTEXT_SIZE,
        **({"parts": parts} if parts else {}),
        **memory.figures(),
    }


def _over_all_layers(job: Job, seconds: list[float]) -> float:
    """Linear between the layers measured: a pass up to a layer costs so much for each below it."""
    return float(np.interp(range(job.n_layers), job.single_layers, seconds).sum())


def _warm_up(job: Job, model: HookedRootModule, dataset: Dataset) -> None:
    """One step of one layer: what a process does once (kernels, libraries) is not training."""
    small = replace(
        job,
        n_layers=1,
        layer_groups="0",
        single_layers=(0,),
        tokens=job.batch,
        batches_in_buffer=1,
    )
    for runner in RUNNERS[job.way](small, model, dataset):
        runner.run()


def _single(job: Job, model: HookedRootModule, dataset: Dataset) -> Iterator[Runner]:
    for layer in job.single_layers:
        cfg = LanguageModelSAERunnerConfig(
            sae=sae_config(job), hook_name=job.hook_name(layer), verbose=False, **_settings(job)
        )
        yield LanguageModelSAETrainingRunner(cfg, override_dataset=dataset, override_model=model)


def _multi(job: Job, model: HookedRootModule, dataset: Dataset) -> Iterator[Runner]:
    hook_names = {f"layer_{layer}": job.hook_name(layer) for layer in range(job.n_layers)}
    cfg = MultiSAETrainingRunnerConfig(
        saes={name: sae_config(job) for name in hook_names},
        hook_names=hook_names,
        **_settings(job),
    )
    yield MultiSAETrainingRunner(cfg, override_dataset=dataset, override_model=model)


def _grouped(job: Job, model: HookedRootModule, dataset: Dataset) -> Iterator[Runner]:
    runner = SweepTrainingRunner if job.sweep else GroupSAETrainingRunner
    yield runner(grouped_config(job), override_dataset=dataset, override_model=model)


def grouped_config(job: Job) -> GroupSAERunnerConfig[Any]:
    """This package's config of a job."""
    return GroupSAERunnerConfig(
        sae=sae_config(job),
        layer_groups=job.layer_groups,
        hook_name=job.hook_name(0),
        layers_per_token=job.layers_per_token,
        verbose=False,
        sweep=list(job.sweep) or None,
        **_settings(job),
    )


RUNNERS: dict[str, Callable[[Job, HookedRootModule, Dataset], Iterator[Runner]]] = {
    SINGLE: _single,
    MULTI: _multi,
    EACH: _grouped,
    GROUPS: _grouped,
}


def _settings(job: Job) -> dict[str, Any]:
    """What the configs of all runners have in common."""
    return {
        "model_name": "random",
        "model_class_name": job.model_class,
        "context_size": CONTEXT_SIZE,
        "training_tokens": job.tokens,
        "train_batch_size_tokens": job.batch,
        "store_batch_size_prompts": STORE_BATCH_SIZE_PROMPTS,
        "n_batches_in_buffer": job.n_batches_in_buffer,
        "n_batches_for_norm_estimate": BATCHES_FOR_NORM_ESTIMATE,
        "lr": LR,
        "lr_scheduler_name": "constant",
        "device": job.device,
        "autocast": job.autocast,
        "autocast_lm": job.lm_dtype == AUTOCAST,
        "seed": job.seed,
        "logger": LoggingConfig(log_to_wandb=False),
        "n_checkpoints": 0,
        "checkpoint_path": None,
        "output_path": None,
    }


def _machine(job: Job) -> dict[str, Any]:
    if is_cuda(job.device):
        device = torch.cuda.get_device_name(job.device)
    else:
        device = f"{platform.machine()} CPU, {torch.backends.cpu.get_cpu_capability()}"
    return {"torch": torch.__version__, "sae_lens": sae_lens.__version__, "device_name": device}
