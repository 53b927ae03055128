"""The language model's runs on pairs of prompts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE
from transformer_lens import HookedRootModule

from sae_lens_groups.activations import Site
from sae_lens_groups.evaluate.circuits.pairs import PairBatch
from sae_lens_groups.evaluate.replaced_pass import CleanPass


@dataclass(frozen=True)
class TaskRuns:
    """Scores, and the activations at some hooks, on the clean and the counterfactual prompts."""

    batch: PairBatch
    clean_scores_P: torch.Tensor
    counterfactual_scores_P: torch.Tensor
    clean: CleanPass
    counterfactual: Mapping[str, torch.Tensor]
    """Hook name -> activations."""

    @classmethod
    @torch.no_grad()
    def of(cls, model: HookedRootModule, batch: PairBatch, names: list[str]) -> "TaskRuns":
        """Runs the model twice, and captures the activations at hooks of these names."""
        clean, clean_logits = CleanPass.run(model, batch.clean_PT, names)
        logits, counterfactual = model.run_with_cache(batch.counterfactual_PT, names_filter=names)
        return cls(batch, batch.scores(clean_logits), batch.scores(logits), clean, counterfactual)

    @property
    def accuracy(self) -> float:
        """The share of pairs that the model gets right, and less so in the counterfactual."""
        right_P = (self.clean_scores_P > 0) & (self.counterfactual_scores_P < self.clean_scores_P)
        return right_P.float().mean().item()


@dataclass(frozen=True)
class HookSite:
    """A hook, the SAE of the activations there, and the runs of the model."""

    hook_name: str
    sae: SAE[Any]
    runs: TaskRuns

    @property
    def _site(self) -> Site:
        return Site(self.hook_name, self.sae.cfg.metadata.hook_head_index)

    @property
    def clean_PTD(self) -> torch.Tensor:
        """The clean prompts' activations, as the SAE takes them."""
        return self._rows(self.runs.clean.captured)

    @property
    def counterfactual_PTD(self) -> torch.Tensor:
        """Those of the counterfactual prompts."""
        return self._rows(self.runs.counterfactual)

    def _rows(self, captured: Mapping[str, torch.Tensor]) -> torch.Tensor:
        # In float32 at least, so that reconstruction and error add up to them again.
        rows_PTD = self._site.rows(captured[self.hook_name])
        return rows_PTD.to(self.sae.device, torch.promote_types(rows_PTD.dtype, torch.float32))

    def scores(self, replacement_PTD: torch.Tensor) -> torch.Tensor:
        """Those of the clean prompts with the SAE's activations replaced by these. Shape (P,)."""
        activation = self._site.with_rows(self.runs.clean.captured[self.hook_name], replacement_PTD)
        return self.runs.batch.scores(self.runs.clean.logits_with(self.hook_name, activation))
