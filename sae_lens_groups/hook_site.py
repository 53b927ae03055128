"""Which part of a hook's activations an SAE takes.

Shapes: S sequences of a batch, T positions, H heads, D = d_in.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE

_HOOKS_WITH_HEADS = ("hook_q", "hook_k", "hook_v", "hook_z")  # as SAELens's evals know them


@dataclass(frozen=True)
class Site:
    """A hook, or one head of it."""

    hook_name: str
    head_index: int | None

    def rows(self, acts: torch.Tensor) -> torch.Tensor:
        """The SAE's input (S, T, D), from the hook's activation (S, T, D) or (S, T, H, D / H)."""
        if self.head_index is not None:
            return acts[:, :, self.head_index]
        if any(name in self.hook_name for name in _HOOKS_WITH_HEADS):
            return acts.flatten(-2, -1)
        return acts

    def with_rows(self, acts: torch.Tensor, rows_STD: torch.Tensor) -> torch.Tensor:
        """The hook's activation with the SAE's part of it replaced."""
        rows_STD = rows_STD.to(acts)
        if self.head_index is None:
            return rows_STD.reshape(acts.shape)
        acts = acts.clone()
        acts[:, :, self.head_index] = rows_STD
        return acts


@contextlib.contextmanager
def taking_flat_heads(sae: SAE[Any]) -> Iterator[None]:
    """Lets an SAE for hook_z take heads that are already flattened, as SAELens's evals do."""
    if not sae.hook_z_reshaping_mode:
        yield
        return
    sae.turn_off_forward_pass_hook_z_reshaping()
    try:
        yield
    finally:
        sae.turn_on_forward_pass_hook_z_reshaping()
