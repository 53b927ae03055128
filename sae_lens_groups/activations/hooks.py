"""The language model's hooks: a pass that ends at the last, and which part an SAE takes."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint


class _AllCaptured(Exception):  # noqa: N818 - nothing went wrong
    """Leaves the language model once every hook has been reached."""


@torch.no_grad()
def run_to_last_hook(
    model: HookedRootModule,
    batch_tokens: torch.Tensor,
    hook_names: Iterable[str],
    take: Callable[[str, torch.Tensor], None],
    **model_kwargs: Any,
) -> None:
    """Calls `take` with each hook's name and activations as soon as they are computed.

    What follows the last hook, such as the unembedding, is not computed. Where `run_with_cache`
    keeps the activations of all hooks until the pass ends, here each can be let go at once.
    """
    missing = set(hook_names)

    def hand_over(acts: torch.Tensor, hook: HookPoint) -> None:
        assert hook.name is not None
        take(hook.name, acts)
        missing.discard(hook.name)
        if not missing:
            raise _AllCaptured

    try:
        model.run_with_hooks(
            batch_tokens,
            fwd_hooks=[(name, hand_over) for name in hook_names],
            prepend_bos=False,
            **model_kwargs,
        )
    except _AllCaptured:
        return


_HOOKS_WITH_HEADS = ("hook_q", "hook_k", "hook_v", "hook_z")  # as SAELens's evals know them


@dataclass(frozen=True)
class Site:
    """A hook, or one head of it."""

    hook_name: str
    head_index: int | None

    @property
    def has_heads(self) -> bool:
        """Whether the hook's activation has an axis of heads."""
        return any(name in self.hook_name for name in _HOOKS_WITH_HEADS)

    def rows(self, acts: torch.Tensor) -> torch.Tensor:
        """The SAE's input (S, T, D), from the hook's activation (S, T, D) or (S, T, H, D / H)."""
        if self.head_index is not None:
            return acts[:, :, self.head_index]
        if self.has_heads:
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
