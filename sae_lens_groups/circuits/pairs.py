"""Pairs of prompts with opposite answers, and a model's scores on a batch of them.

Shapes: P pairs, T tokens of a prompt, V the vocabulary, A and W answer and wrong tokens of a pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sae_lens_groups.circuits.metrics import PADDING, Metric


@dataclass(frozen=True, kw_only=True)
class PromptPair:
    """Two prompts that differ in what decides the answer."""

    clean: tuple[int, ...]
    counterfactual: tuple[int, ...]
    answers: tuple[int, ...]
    """Tokens that are right after the clean prompt."""
    wrong: tuple[int, ...]
    """Tokens that are wrong after the clean prompt, and right, or more likely, after the other."""


@dataclass(frozen=True)
class PairBatch:
    """Pairs of one length as tensors."""

    clean_PT: torch.Tensor
    counterfactual_PT: torch.Tensor
    answers_PA: torch.Tensor
    wrong_PW: torch.Tensor
    metric: Metric

    @classmethod
    def of(
        cls, pairs: Sequence[PromptPair], metric: Metric, device: torch.device | str
    ) -> "PairBatch":
        """The batch of pairs whose prompts are all equally long."""
        return cls(
            torch.tensor([pair.clean for pair in pairs], device=device),
            torch.tensor([pair.counterfactual for pair in pairs], device=device),
            _padded([pair.answers for pair in pairs], device),
            _padded([pair.wrong for pair in pairs], device),
            metric,
        )

    def scores(self, logits_PTV: torch.Tensor) -> torch.Tensor:
        """The metric at the last position, with the clean prompts' answers. Shape (P,)."""
        log_probs_PV = logits_PTV[:, -1].float().log_softmax(dim=-1)
        device = log_probs_PV.device  # the model may be spread over several
        return self.metric(log_probs_PV, self.answers_PA.to(device), self.wrong_PW.to(device))


def _padded(rows: Sequence[tuple[int, ...]], device: torch.device | str) -> torch.Tensor:
    width = max(map(len, rows))
    padded = [row + (PADDING,) * (width - len(row)) for row in rows]
    return torch.tensor(padded, device=device)
