"""A language-model pass that ends with the last layer that is needed."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
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
