"""One clean pass of the language model, which the evals of all layers share.

Shapes: S sequences of a batch, T positions, V vocabulary.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from sae_lens.util import extract_layer_from_tlens_hook_name
from transformer_lens import HookedRootModule, HookedTransformer

from sae_lens_groups.activations import Site


class LMEffect(NamedTuple):
    """What the language model's output becomes when an activation is replaced."""

    losses: torch.Tensor
    """Cross entropy of each next token, (S, T - 1)."""
    divergences: torch.Tensor
    """KL divergence from the clean output, (S, T)."""


@dataclass(frozen=True)
class PassEntry:
    """Where a model can take a pass up again."""

    hook_name: str
    """The hook whose clean activation goes in."""
    layer: int
    """The first layer that then runs."""


class SharedPass:
    """The clean pass over one batch of tokens, and passes with one activation replaced.

    Where the model can be entered at a layer, such a pass starts there: all below is the clean one.
    """

    captured: Mapping[str, torch.Tensor]
    """Clean activations by hook name."""
    clean_losses: torch.Tensor
    """(S, T - 1)"""

    def __init__(
        self,
        model: HookedRootModule,
        tokens_ST: torch.Tensor,
        hook_names: Iterable[str],
        model_kwargs: Mapping[str, Any],
        autocast_lm: bool = False,
    ) -> None:
        self._model, self._tokens_ST, self._kwargs = model, tokens_ST, dict(model_kwargs)
        entries = {name: entry_of(model, name) for name in hook_names}
        self._entries = {name: entry for name, entry in entries.items() if entry is not None}
        captured = {*entries, *(entry.hook_name for entry in self._entries.values())}
        self._autocast = partial(  # as SAELens's store does in training
            torch.autocast, tokens_ST.device.type, dtype=torch.bfloat16, enabled=autocast_lm
        )
        with self._autocast():
            logits_STV, self.captured = model.run_with_cache(
                tokens_ST, names_filter=sorted(captured), return_type="logits", **self._kwargs
            )
        self._log_probs_STV = _log_probs(logits_STV)
        self._probs_STV = self._log_probs_STV.exp()
        self.clean_losses = self._losses(self._log_probs_STV)

    def replacing(self, site: Site, rows_STD: torch.Tensor) -> LMEffect:
        """The effect of putting other rows in the place of those that an SAE takes."""
        activation = site.with_rows(self.captured[site.hook_name], rows_STD)
        return self._effect(self._log_probs_with(site.hook_name, activation))

    def ablating(self, site: Site) -> LMEffect:
        """The effect of putting zeros there."""
        clean = self.captured[site.hook_name]
        zeroed = site.with_rows(clean, torch.zeros_like(site.rows(clean)))
        if self._is_all_that_goes_on(site):
            zeroed = zeroed[:1]  # nothing is left of the prompts, so one stands for all
        log_probs = self._log_probs_with(site.hook_name, zeroed)
        return self._effect(log_probs.expand_as(self._log_probs_STV))

    def _is_all_that_goes_on(self, site: Site) -> bool:
        entry = self._entries.get(site.hook_name)
        return entry is not None and entry.hook_name == site.hook_name

    def _effect(self, log_probs_STV: torch.Tensor) -> LMEffect:
        difference_STV = self._log_probs_STV - log_probs_STV
        # Not by einsum, whose sum over the vocabulary is off by 2e-6 in float32.
        divergences = difference_STV.mul_(self._probs_STV).sum(-1)
        return LMEffect(self._losses(log_probs_STV), divergences)

    def _log_probs_with(self, hook_name: str, activation: torch.Tensor) -> torch.Tensor:
        with self._autocast():
            logits_STV = self._logits_with(hook_name, activation)
        return _log_probs(logits_STV)

    def _logits_with(self, hook_name: str, activation: torch.Tensor) -> torch.Tensor:
        entry = self._entries.get(hook_name)
        # TransformerLens calls a hook by these names.
        hooks: Any = [(hook_name, lambda acts, hook: activation)]  # noqa: ARG005
        if entry is None:
            return self._model.run_with_hooks(
                self._tokens_ST, fwd_hooks=hooks, return_type="logits", **self._kwargs
            )
        rest = {"start_at_layer": entry.layer, "return_type": "logits", **self._kwargs}
        if entry.hook_name == hook_name:
            return self._model(activation, **rest)
        return self._model.run_with_hooks(self.captured[entry.hook_name], fwd_hooks=hooks, **rest)

    def _losses(self, log_probs_STV: torch.Tensor) -> torch.Tensor:
        next_ST = self._tokens_ST[:, 1:].to(log_probs_STV.device)
        return -log_probs_STV[:, :-1].gather(-1, next_ST[..., None]).squeeze(-1)


def entry_of(model: HookedRootModule, hook_name: str) -> PassEntry | None:
    """Where a pass with another activation at this hook can start; None: at the tokens."""
    layer = extract_layer_from_tlens_hook_name(hook_name)
    if layer is None or not _can_be_entered(model):
        return None
    if hook_name == f"blocks.{layer}.hook_resid_post":
        return PassEntry(hook_name, layer + 1)
    return PassEntry(f"blocks.{layer}.hook_resid_pre", layer)


def _can_be_entered(model: HookedRootModule) -> bool:
    if type(model) is not HookedTransformer:  # a subclass may compute something else
        return False
    # Both would have the model pass something beside the residual stream from layer to layer.
    pads_left = getattr(model.tokenizer, "padding_side", "right") == "left"
    return model.cfg.positional_embedding_type != "shortformer" and not pads_left


def _log_probs(logits_STV: torch.Tensor) -> torch.Tensor:
    dtype = torch.promote_types(logits_STV.dtype, torch.float32)
    return torch.log_softmax(logits_STV, dim=-1, dtype=dtype)
