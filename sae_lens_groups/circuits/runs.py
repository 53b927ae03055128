"""The language model's own runs over a task's prompts, on which everything else is based.

Shapes: P pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformer_lens import HookedRootModule

from sae_lens_groups.circuits.pairs import PairBatch


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
