"""The language model's runs on pairs of prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE
from transformer_lens import HookedRootModule

from sae_lens_groups.activations import Site
from sae_lens_groups.evaluate.circuits.pairs import PairBatch


@dataclass(frozen=True)
class TaskRuns:
    """Scores, and the activations at some hooks, on the clean and the counterfactual prompts."""

    batch: PairBatch
    clean_scores_P: torch.Tensor
    counterfactual_scores_P: torch.Tensor
    clean: Mapping[str, torch.Tensor]
    """Hook name -> activations."""
    counterfactual: Mapping[str, torch.Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, model: HookedRootModule, batch: PairBatch, hook_names: Sequence[str]) -> "TaskRuns":
        """Runs the model twice."""
        names = list(hook_names)
        clean_logits, clean = model.run_with_cache(batch.clean_PT, names_filter=names)
        logits, counterfactual = model.run_with_cache(batch.counterfactual_PT, names_filter=names)
        return cls(batch, batch.scores(clean_logits), batch.scores(logits), clean, counterfactual)

    @property
    def accuracy(self) -> float:
        """The share of pairs that the model gets right, and less so in the counterfactual."""
        right_P = (self.clean_scores_P > 0) & (self.counterfactual_scores_P < self.clean_scores_P)
        return right_P.float().mean().item()


@dataclass(frozen=True)
class HookSite:
    """A hook of a model, and the SAE of the activations there."""

    model: HookedRootModule
    hook_name: str
    sae: SAE[Any]

    @property
    def _site(self) -> Site:
        return Site(self.hook_name, self.sae.cfg.metadata.hook_head_index)

    def read(self, activations: torch.Tensor) -> torch.Tensor:
        """The model's activations as the SAE takes them, with heads flat. Shape (P, T, D).

        They become float32 at least, so that reconstruction and error add up to them again.
        """
        rows_PTD = self._site.rows(activations)
        return rows_PTD.to(self.sae.device, torch.promote_types(rows_PTD.dtype, torch.float32))

    def logits(self, tokens_PT: torch.Tensor, replacement_PTD: torch.Tensor) -> torch.Tensor:
        """The model's output where the SAE's activations are replaced by these. Shape (P, T, V)."""

        def replace(activations: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
            return self._site.with_rows(activations, replacement_PTD)

        return self.model.run_with_hooks(
            tokens_PT, return_type="logits", fwd_hooks=[(self.hook_name, replace)]
        )
