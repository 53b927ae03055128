"""Passes of a language model with one activation replaced, which leave out what comes before it.

Shapes: S sequences of a batch, T positions, V vocabulary.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from sae_lens.util import extract_layer_from_tlens_hook_name
from transformer_lens import HookedRootModule, HookedTransformer


class _Entry(NamedTuple):
    """Where a model can take a pass up again."""

    hook_name: str
    """The hook whose clean activation goes in."""
    layer: int
    """The first layer that then runs."""


@dataclass(frozen=True)
class CleanPass:
    """A pass over a batch of tokens, and the model's output where one activation is another.

    Where the model can be entered at a layer, such a pass starts there: all below is the clean one.
    """

    captured: Mapping[str, torch.Tensor]
    """Clean activations by hook name."""
    _model: HookedRootModule
    _tokens_ST: torch.Tensor
    _kwargs: Mapping[str, Any]
    _entries: Mapping[str, _Entry]

    @classmethod
    def run(
        cls,
        model: HookedRootModule,
        tokens_ST: torch.Tensor,
        hook_names: Iterable[str],
        model_kwargs: Mapping[str, Any] | None = None,
    ) -> tuple["CleanPass", torch.Tensor]:
        """The pass, and the logits (S, T, V), which may be too many to keep with it."""
        names = set(hook_names)
        found = {name: _entry_of(model, name) for name in names}
        entries = {name: entry for name, entry in found.items() if entry is not None}
        names.update(entry.hook_name for entry in entries.values())
        kwargs = {"return_type": "logits", **(model_kwargs or {})}
        logits_STV, captured = model.run_with_cache(tokens_ST, names_filter=sorted(names), **kwargs)
        return cls(captured, model, tokens_ST, kwargs, entries), logits_STV

    def logits_with(self, hook_name: str, activation: torch.Tensor) -> torch.Tensor:
        """The output where the hook's activation is this one. Shape (S, T, V)."""
        entry = self._entries.get(hook_name)
        # TransformerLens calls a hook by these names.
        hooks: Any = [(hook_name, lambda acts, hook: activation)]  # noqa: ARG005
        if entry is None:
            return self._model.run_with_hooks(self._tokens_ST, fwd_hooks=hooks, **self._kwargs)
        rest = {"start_at_layer": entry.layer, **self._kwargs}
        if entry.hook_name == hook_name:
            return self._model(activation, **rest)
        return self._model.run_with_hooks(self.captured[entry.hook_name], fwd_hooks=hooks, **rest)

    def ends_at(self, hook_name: str) -> bool:
        """Whether all that goes on in the model passes this hook, so that nothing else counts."""
        entry = self._entries.get(hook_name)
        return entry is not None and entry.hook_name == hook_name


def _entry_of(model: HookedRootModule, hook_name: str) -> _Entry | None:
    """Where a pass with another activation at this hook can start; None: at the tokens."""
    layer = extract_layer_from_tlens_hook_name(hook_name)
    if layer is None or not _can_be_entered(model):
        return None
    if hook_name == f"blocks.{layer}.hook_resid_post":
        return _Entry(hook_name, layer + 1)
    return _Entry(f"blocks.{layer}.hook_resid_pre", layer)


def _can_be_entered(model: HookedRootModule) -> bool:
    if type(model) is not HookedTransformer:  # a subclass may compute something else
        return False
    # Both would have the model pass something beside the residual stream from layer to layer.
    pads_left = getattr(model.tokenizer, "padding_side", "right") == "left"
    return model.cfg.positional_embedding_type != "shortformer" and not pads_left
