"""The tasks by name, and their prompts for a model's tokenizer."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from transformers import PreTrainedTokenizerBase

from sae_lens_groups.errors import UnknownNameError
from sae_lens_groups.evaluate.circuits.closing_bracket import closing_bracket
from sae_lens_groups.evaluate.circuits.greater_than import greater_than
from sae_lens_groups.evaluate.circuits.ioi import ioi
from sae_lens_groups.evaluate.circuits.pairs import (
    AnswerMetric,
    PromptPair,
    Vocabulary,
    log_odds,
    probability_difference,
)
from sae_lens_groups.evaluate.circuits.subject_verb import subject_verb

MIN_PAIRS = 16
"""A task with fewer pairs is left out."""
_DRAWS_PER_PAIR = 20  # duplicates, pairs of unequal lengths and rarer lengths fall away


@dataclass(frozen=True)
class CircuitTask:
    """Something a language model may be able to do, and how well it does is measured."""

    name: str
    draw_pairs: Callable[[Vocabulary, random.Random], Iterator[PromptPair]]
    """Random pairs without end; none where the tokenizer splits what has to be one token."""
    metric: AnswerMetric


TASKS = {
    task.name: task
    for task in (
        CircuitTask("closing_bracket", closing_bracket, log_odds),
        CircuitTask("greater_than", greater_than, probability_difference),
        CircuitTask("ioi", ioi, log_odds),
        CircuitTask("subject_verb", subject_verb, log_odds),
    )
}


def task_named(name: str) -> CircuitTask:
    """The task of this name, or an UnknownNameError that lists those that there are."""
    if name not in TASKS:
        raise UnknownNameError(f"task {name!r} is not known; known names: {', '.join(TASKS)}")
    return TASKS[name]


def build_pairs(
    task: CircuitTask, tokenizer: PreTrainedTokenizerBase, n_pairs: int, seed: int = 0
) -> list[PromptPair]:
    """Up to `n_pairs` different pairs whose prompts are all equally long; the same for a seed.

    Of the lengths that occur it is the most frequent one.
    """
    draws = task.draw_pairs(Vocabulary(tokenizer), random.Random(seed))
    drawn = dict.fromkeys(islice(draws, _DRAWS_PER_PAIR * n_pairs))
    pairs = [pair for pair in drawn if len(pair.clean) == len(pair.counterfactual)]
    lengths = Counter(len(pair.clean) for pair in pairs)
    if not lengths:
        return []
    ((length, _),) = lengths.most_common(1)
    return [pair for pair in pairs if len(pair.clean) == length][:n_pairs]
