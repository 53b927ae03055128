"""Counts or times what a language model and an SAE do for one token."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from sae_lens.config import HfDataset
from sae_lens.saes.sae import TrainCoefficientConfig, TrainStepInput
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformer_lens import HookedRootModule

from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.initialization import fresh_sae
from sae_lens_groups.measure import all_layers_store
from sae_lens_groups.plan.cost import SuiteCost
from sae_lens_groups.quiet import without_model_kwargs_advice

# torch counts attention on GPUs alone.
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_ROWS_TO_COUNT = 8
_STEPS_TO_TIME = 5


def count_flops(
    cfg: GroupSAERunnerConfig[Any], model: HookedRootModule, dataset: HfDataset
) -> SuiteCost:
    """FLOPs per token of the language model's pass and of an SAE's step, as torch counts them.

    Matrix products and attention are counted, in the model and the SAE themselves, so any
    architecture will do. A dense SAE takes 12 d_in d_sae: encoder and decoder, the gradients of
    both matrices and of both inputs, 2 d_in d_sae each. (The paper reckons with 10: it has no
    gradient for the bias that SAELens subtracts from the input.) Of sparse activations
    (`use_sparse_activations`) the part that grows with k is not counted.
    """
    store = all_layers_store(cfg, model, dataset)
    tokens = store.get_batch_tokens(batch_size=1)
    forward = flops_of(lambda: store.get_multi_hook_activations(tokens))
    return SuiteCost(
        unit="FLOPs",
        lm_forward=forward / (len(tokens) * cfg.rows_per_prompt),
        sae_step=flops_of_sae_step(cfg),
        n_layers=len(store.groups[0]),
    )


def flops_of_sae_step(cfg: GroupSAERunnerConfig[Any]) -> float:
    """FLOPs per token of a training step of one SAE of this config."""
    return flops_of(_sae_step(cfg, _ROWS_TO_COUNT, with_optimizer=False)) / _ROWS_TO_COUNT


def time_steps(
    cfg: GroupSAERunnerConfig[Any], model: HookedRootModule, dataset: HfDataset
) -> SuiteCost:
    """Seconds per token of the same two, on this machine: medians of five, after one to warm up.

    A step is forward, backward and Adam, in float32 and without `compile_sae`. What else a run does
    is not in it: drawing, shuffling, the auxiliary loss of dead features, logging and evals.
    """
    store = all_layers_store(cfg, model, dataset)
    tokens = store.get_batch_tokens()
    forward = _timed(lambda: store.get_multi_hook_activations(tokens), cfg.llm_device)
    sae_step = _timed(_sae_step(cfg, cfg.train_batch_size_tokens, with_optimizer=True), cfg.device)
    return SuiteCost(
        unit="seconds",
        lm_forward=forward / (len(tokens) * cfg.rows_per_prompt),
        sae_step=sae_step / cfg.train_batch_size_tokens,
        n_layers=len(store.groups[0]),
    )


def _sae_step(
    cfg: GroupSAERunnerConfig[Any], n_rows: int, *, with_optimizer: bool
) -> Callable[[], Any]:
    """A training step of one SAE of this config on random rows."""
    with torch.random.fork_rng(), without_model_kwargs_advice():
        sae = fresh_sae(cfg).to(cfg.device)
        rows_BD = torch.randn(n_rows, sae.cfg.d_in, dtype=sae.dtype, device=sae.device)
    optimizer = torch.optim.Adam(sae.parameters(), lr=cfg.lr) if with_optimizer else None
    step_input = TrainStepInput(
        sae_in=rows_BD,
        coefficients={
            name: given.value if isinstance(given, TrainCoefficientConfig) else given
            for name, given in sae.get_coefficients().items()
        },
        dead_neuron_mask=None,
        n_training_steps=0,
        is_logging_step=False,
    )

    def step() -> None:
        sae.zero_grad()
        sae.training_forward_pass(step_input).loss.backward()
        if optimizer is not None:
            optimizer.step()

    return step


def flops_of(work: Callable[[], Any]) -> int:
    """FLOPs of some work, as torch counts them: matrix products and attention."""
    with FlopCounterMode(
        display=False, custom_mapping={_CPU_ATTENTION: _attention_flops}
    ) as counter:
        work()
    return counter.get_total_flops()


def _attention_flops(
    query_shape: torch.Size, key_shape: torch.Size, value_shape: torch.Size, *_: Any, **__: Any
) -> int:
    return sdpa_flop_count(query_shape, key_shape, value_shape)


def _timed(work: Callable[[], Any], device: str | None) -> float:
    def seconds() -> float:
        start = time.perf_counter()
        work()
        if device is not None and torch.device(device).type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - start

    seconds()
    return median(seconds() for _ in range(_STEPS_TO_TIME))
