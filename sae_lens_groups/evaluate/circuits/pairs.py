"""Pairs of prompts that differ in the answer: made by a tokenizer, and measured."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

PADDING = -1
"""Fills up the tokens of pairs that have fewer than others."""

AnswerMetric = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
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


@dataclass(frozen=True, kw_only=True)
class PromptPair:
    """Two prompts that differ in what decides the answer."""

    clean: tuple[int, ...]
    counterfactual: tuple[int, ...]
    answers: tuple[int, ...]
    """Tokens that are right after the clean prompt."""
    wrong: tuple[int, ...]
    """Tokens that are wrong after the clean prompt, and right, or more likely, after the other."""


class Vocabulary:
    """A tokenizer, asked the questions that prompts with one-token answers raise."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        bos: Any = tokenizer.bos_token_id
        self._before: tuple[int, ...] = () if bos is None else (bos,)

    def pair(
        self, clean: str, counterfactual: str, answers: Collection[int], wrong: Collection[int]
    ) -> PromptPair:
        """The pair of these texts, each after a beginning-of-text token where there is one.

        An SAE that was trained without that token does no harm there: up to the first difference
        both prompts give the same features and the same error.
        """
        return PromptPair(
            clean=(*self._before, *self._ids(clean)),
            counterfactual=(*self._before, *self._ids(counterfactual)),
            answers=tuple(answers),
            wrong=tuple(wrong),
        )

    def next_token(self, before: str, text: str) -> int | None:
        """The one token that `text` is after `before`, where it is one and the two do not merge.

        Asked with what comes before, because a tokenizer may mark the start of a text.
        """
        start, whole = self._ids(before), self._ids(before + text)
        return whole[-1] if whole[:-1] == start else None

    def starting_with(self, text: str) -> tuple[int, ...]:
        """All tokens that start with this text, such as `)`, `),` and `))` for a bracket."""
        vocabulary = self._tokenizer.get_vocab()
        return tuple(sorted(token for piece, token in vocabulary.items() if piece.startswith(text)))

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[return-value]


@dataclass(frozen=True)
class PairBatch:
    """Pairs whose prompts are all equally long, as tensors."""

    clean_PT: torch.Tensor
    counterfactual_PT: torch.Tensor
    answers_PA: torch.Tensor
    wrong_PW: torch.Tensor
    metric: AnswerMetric

    @classmethod
    def of(
        cls, pairs: Sequence[PromptPair], metric: AnswerMetric, device: torch.device | str
    ) -> "PairBatch":
        """On the model's device."""
        return cls(
            _padded([pair.clean for pair in pairs], device),
            _padded([pair.counterfactual for pair in pairs], device),
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
