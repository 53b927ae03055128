"""What no training can be faster than: the language model and the SAE steps, without a data path."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from sae_lens import TrainingSAE
from sae_lens.config import SAETrainerConfig
from sae_lens.load_model import HookedProxyLM
from transformer_lens import HookedRootModule

from sae_lens_groups import LayerGroup
from sae_lens_groups.activations.shuffle_buffer import GroupBatch
from sae_lens_groups.train.trainer import GroupSAETrainer
from tests.benchmarks.speed.clocks import Memory, seconds_of
from tests.benchmarks.speed.jobs import (
    AUTOCAST,
    CONTEXT_SIZE,
    LR,
    STORE_BATCH_SIZE_PROMPTS,
    TOKENS_PER_LM_BATCH,
    Job,
)
from tests.benchmarks.speed.models import sae_config


def measure_limit(job: Job, model: HookedRootModule) -> dict[str, Any]:
    """Seconds of the language model alone and of one step of one SAE alone."""
    memory = Memory(job.device)
    rows_BD = torch.randn(job.batch, job.shape.d_model, device=job.device)
    position_B = torch.zeros(job.batch, dtype=torch.long, device=job.device)
    step = bare_step(
        TrainingSAE.from_dict(sae_config(job).to_dict()),
        GroupBatch(rows_BD, position_B),
        autocast=job.autocast,
    )
    tokens = torch.randint(
        0, job.shape.d_vocab, (STORE_BATCH_SIZE_PROMPTS, CONTEXT_SIZE), device=job.device
    )
    lm_pass = bare_lm_pass(job, model, tokens)
    for warm_up in (step, lm_pass):
        warm_up()
    # Frees a large block, as every training process has: from then on glibc keeps freed memory of
    # this size for the next tensor. Without it the bare language model is slower than a whole run.
    torch.zeros(31 * 2**18).sum()
    memory.start()
    n_lm_passes = -(-job.tokens // TOKENS_PER_LM_BATCH)
    lm_seconds = steps_seconds = 0.0
    # In turns, as in training: a process that does only one of them allocates at another cost.
    for turn in range(max(n_lm_passes, job.n_steps)):
        if turn < n_lm_passes:
            lm_seconds += seconds_of(lm_pass, job.device, job.clock)
        if turn < job.n_steps:
            # On rows that it knows, a JumpReLU SAE soon needs half of a run's latents.
            rows_BD.normal_()
            steps_seconds += seconds_of(step, job.device, job.clock)
    return {
        "lm_seconds": lm_seconds * job.tokens / (n_lm_passes * TOKENS_PER_LM_BATCH),
        "step_seconds": steps_seconds / job.n_steps,
        **memory.figures(),
    }


def bare_step(
    sae: TrainingSAE[Any], batch: GroupBatch, autocast: bool = False
) -> Callable[[], object]:
    """Trains `sae` one step on this batch, each time it is called."""
    cfg = SAETrainerConfig(
        total_training_samples=len(batch.rows_BD),
        train_batch_size_samples=len(batch.rows_BD),
        lr=LR,
        lr_end=LR,
        device=str(sae.device),
        autocast=autocast,
    )
    trainer = GroupSAETrainer(cfg, sae, LayerGroup(0, 0))
    return lambda: trainer.step(batch)


def bare_lm_pass(job: Job, model: HookedRootModule, tokens: torch.Tensor) -> Callable[[], object]:
    """Runs all layers on these tokens, each time it is called, and nothing behind the layers."""

    @torch.no_grad()
    def lm_pass() -> None:
        is_autocast = job.lm_dtype == AUTOCAST
        device_type = torch.device(job.device).type
        with torch.autocast(device_type, torch.bfloat16) if is_autocast else nullcontext():
            if isinstance(model, HookedProxyLM):
                model.model.base_model(tokens, use_cache=False)  # type: ignore[operator]
            else:
                model(tokens, stop_at_layer=job.n_layers)

    return lm_pass
