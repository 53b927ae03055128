"""What a tokenizer makes of the words in a task's prompts."""

from collections.abc import Collection
from typing import Any

from transformers import PreTrainedTokenizerBase

from sae_lens_groups.evaluate.circuits.pairs import PromptPair


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
        """The one token that `text` is after `before`; None where it is none or several, or where
        the two merge.

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
