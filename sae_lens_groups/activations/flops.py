"""Counts the FLOPs of what a language model or an SAE computes, as torch counts them."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

_aten = torch.ops.aten


def flops_of(work: Callable[[], Any]) -> int:
    """FLOPs of some work: matrix products, attention, and sums over active latents."""
    with FlopCounterMode(display=False, custom_mapping=_UNKNOWN_TO_TORCH) as counter:
        work()
    return counter.get_total_flops()


def _attention_flops(
    query_shape: torch.Size, key_shape: torch.Size, value_shape: torch.Size, *_: Any, **__: Any
) -> int:
    return sdpa_flop_count(query_shape, key_shape, value_shape)


def _bag_flops(weight_shape: torch.Size, index_shape: torch.Size, *_: Any, **__: Any) -> int:
    """Of every latent a row of D numbers, times its weight and added."""
    return 2 * index_shape[0] * weight_shape[1]


# torch counts attention on GPUs alone, and sums over active latents nowhere.
_UNKNOWN_TO_TORCH = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    _aten._embedding_bag: _bag_flops,
    _aten._embedding_bag_forward_only: _bag_flops,
    _aten._embedding_bag_per_sample_weights_backward: lambda _, *shapes, **__: _bag_flops(*shapes),
}
