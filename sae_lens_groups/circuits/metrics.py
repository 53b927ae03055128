"""How far a model prefers the right answers to the wrong ones.

Shapes: P pairs, V the vocabulary, A and W answer and wrong tokens of a pair.
"""

from collections.abc import Callable

import torch

PADDING = -1
"""Fills up the tokens of pairs that have fewer than others."""

Metric = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(log_probs_PV, answers_PA, wrong_PW) -> one score per pair, above zero where the model is right."""


def log_odds(
    log_probs_PV: torch.Tensor, answers_PA: torch.Tensor, wrong_PW: torch.Tensor
) -> torch.Tensor:
    """log P(any answer) - log P(any wrong token): of one token each, the logit difference."""
    return _log_prob_of_any(log_probs_PV, answers_PA) - _log_prob_of_any(log_probs_PV, wrong_PW)


def probability_difference(
    log_probs_PV: torch.Tensor, answers_PA: torch.Tensor, wrong_PW: torch.Tensor
) -> torch.Tensor:
    """P(any answer) - P(any wrong token)

    The metric of Hanna et al. 2023 (arXiv 2305.00586).
    """
    right_P = _log_prob_of_any(log_probs_PV, answers_PA).exp()
    return right_P - _log_prob_of_any(log_probs_PV, wrong_PW).exp()


def _log_prob_of_any(log_probs_PV: torch.Tensor, tokens_PA: torch.Tensor) -> torch.Tensor:
    log_probs_PA = log_probs_PV.gather(1, tokens_PA.clamp(min=0))
    return log_probs_PA.masked_fill(tokens_PA == PADDING, -torch.inf).logsumexp(dim=-1)
