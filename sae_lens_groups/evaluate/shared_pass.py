"""One clean pass of the language model, which the evals of all layers share.

Shapes: S sequences of a batch, T positions, V vocabulary.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from transformer_lens import HookedRootModule

from sae_lens_groups.activations import Site
from sae_lens_groups.evaluate.replaced_pass import CleanPass


class LMEffect(NamedTuple):
    """What the language model's output becomes when an activation is replaced."""

    losses: torch.Tensor
    """Cross entropy of each next token, (S, T - 1)."""
    divergences: torch.Tensor
    """KL divergence from the clean output, (S, T)."""


class SharedPass:
    """The clean pass over one batch of tokens, and what replacing an activation of it does."""

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
        self._tokens_ST = tokens_ST
        self._autocast = partial(  # as SAELens's store does in training
            torch.autocast, tokens_ST.device.type, dtype=torch.bfloat16, enabled=autocast_lm
        )
        with self._autocast():
            self._pass, logits_STV = CleanPass.run(model, tokens_ST, hook_names, model_kwargs)
        self.captured = self._pass.captured
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
        if self._pass.ends_at(site.hook_name):
            zeroed = zeroed[:1]  # nothing is left of the prompts, so one stands for all
        log_probs = self._log_probs_with(site.hook_name, zeroed)
        return self._effect(log_probs.expand_as(self._log_probs_STV))

    def _effect(self, log_probs_STV: torch.Tensor) -> LMEffect:
        difference_STV = self._log_probs_STV - log_probs_STV
        # Not by einsum, whose sum over the vocabulary is off by 2e-6 in float32.
        divergences = difference_STV.mul_(self._probs_STV).sum(-1)
        return LMEffect(self._losses(log_probs_STV), divergences)

    def _log_probs_with(self, hook_name: str, activation: torch.Tensor) -> torch.Tensor:
        with self._autocast():
            logits_STV = self._pass.logits_with(hook_name, activation)
        return _log_probs(logits_STV)

    def _losses(self, log_probs_STV: torch.Tensor) -> torch.Tensor:
        next_ST = self._tokens_ST[:, 1:].to(log_probs_STV.device)
        return -log_probs_STV[:, :-1].gather(-1, next_ST[..., None]).squeeze(-1)


def _log_probs(logits_STV: torch.Tensor) -> torch.Tensor:
    dtype = torch.promote_types(logits_STV.dtype, torch.float32)
    return torch.log_softmax(logits_STV, dim=-1, dtype=dtype)
