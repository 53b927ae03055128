"""Counts or times what a language model and an SAE do for one token."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from sae_lens.config import HfDataset
from transformer_lens import HookedRootModule

from sae_lens_groups.activations import GroupActivationsStore, GroupBatch, flops_of
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan import SuiteCost, all_layers_store
from sae_lens_groups.scaling import without_model_kwargs_advice
from sae_lens_groups.train.initial import fresh_sae
from sae_lens_groups.train.trainer import GroupSAETrainer

_ROWS_TO_COUNT = 8
_STEPS_TO_TIME = 5


def count_flops(
    cfg: GroupSAERunnerConfig[Any], model: HookedRootModule, dataset: HfDataset
) -> SuiteCost:
    """FLOPs per token of the language model's pass and of an SAE's step, as torch counts them.

    Matrix products, attention and sums over active latents are counted, in the model and the SAE
    themselves, so any architecture will do. A dense SAE takes 12 d_in d_sae: encoder and decoder,
    the gradients of both matrices and of both inputs, 2 d_in d_sae each. (The paper reckons with
    10: it has no gradient for the bias that SAELens subtracts from the input.) With the sparse step
    it is 2 d_in d_sae for the encoder and 8 k d_in for all else. JumpReLU's counts as dense, the
    step that it begins with; how soon few latents take part depends on the data.
    """
    store = all_layers_store(cfg, model, dataset)
    tokens = store.get_batch_tokens(batch_size=1)
    forward = flops_of(lambda: store.capture(tokens, _let_go))
    return SuiteCost(
        unit="FLOPs",
        lm_forward=forward / (len(tokens) * cfg.rows_per_prompt),
        sae_step=flops_of_sae_step(cfg),
        n_layers=len(store.groups[0]),
    )


def flops_of_sae_step(cfg: GroupSAERunnerConfig[Any]) -> float:
    """FLOPs per token of a training step of one SAE of this config.

    Leaves the random generators as they are.
    """
    with torch.random.fork_rng():
        return flops_of(_sae_step(cfg, _ROWS_TO_COUNT)) / _ROWS_TO_COUNT


def flops_if_counted(cfg: GroupSAERunnerConfig[Any]) -> float | None:
    """`flops_of_sae_step`; None where torch cannot count them on this device."""
    return _if_counted(lambda: flops_of_sae_step(cfg))


def flops_of_prompt(store: GroupActivationsStore) -> float | None:
    """FLOPs of the language model's pass over a prompt; None where torch cannot count them."""
    n_tokens = store.shape_of_lm_batch[1]
    prompt = torch.zeros(1, n_tokens, dtype=torch.long, device=store.device_of_tokens)
    return _if_counted(lambda: flops_of(lambda: store.capture(prompt, _let_go)))


def _if_counted(count: Callable[[], float]) -> float | None:
    try:
        return count()
    except RuntimeError:  # no reason not to train
        return None


def time_steps(
    cfg: GroupSAERunnerConfig[Any], model: HookedRootModule, dataset: HfDataset
) -> SuiteCost:
    """Seconds per token of the same two, on this machine: medians of five, after one to warm up.

    A step is that of a run, without `compile_sae`. What else a run does is not in it: drawing,
    shuffling, the auxiliary loss of dead features, logging and evals.
    """
    store = all_layers_store(cfg, model, dataset)
    tokens = store.get_batch_tokens()
    forward = _timed(lambda: store.capture(tokens, _let_go), cfg.llm_device)
    sae_step = _timed(_sae_step(cfg, cfg.train_batch_size_tokens), cfg.device)
    return SuiteCost(
        unit="seconds",
        lm_forward=forward / (len(tokens) * cfg.rows_per_prompt),
        sae_step=sae_step / cfg.train_batch_size_tokens,
        n_layers=len(store.groups[0]),
    )


def _sae_step(cfg: GroupSAERunnerConfig[Any], n_rows: int) -> Callable[[], Any]:
    """A training step of one SAE of this config on random rows."""
    with torch.random.fork_rng(), without_model_kwargs_advice():
        sae = fresh_sae(cfg).to(cfg.device)
        rows_BD = torch.randn(n_rows, sae.cfg.d_in, device=sae.device)
    batch = GroupBatch(rows_BD, torch.zeros(n_rows, dtype=torch.long, device=sae.device))
    trainer = GroupSAETrainer(
        cfg.to_sae_trainer_config(), sae, LayerGroup(0, 0), fast_step=cfg.fast_step
    )
    if trainer.sparse_step is not None:
        trainer.sparse_step.is_due(rows_BD)  # some look at a run's first batch beside its step
    return lambda: trainer.step(batch)


def _let_go(_hook_name: str, _acts: torch.Tensor) -> None:
    """Takes a layer's activations, for the cost of computing them."""


def _timed(work: Callable[[], Any], device: str | None) -> float:
    def seconds() -> float:
        start = time.perf_counter()
        work()
        if device is not None and torch.device(device).type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - start

    seconds()
    return median(seconds() for _ in range(_STEPS_TO_TIME))
