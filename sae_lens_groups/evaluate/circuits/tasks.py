"""The tasks: what a language model may be able to do, as pairs of prompts for its tokenizer.

Each draws random pairs without end, or none where the tokenizer splits what has to be one token.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from transformers import PreTrainedTokenizerBase

from sae_lens_groups.evaluate.circuits.pairs import (
    AnswerMetric,
    PromptPair,
    Vocabulary,
    log_odds,
    probability_difference,
)
from sae_lens_groups.field_values import require_one_of

MIN_PAIRS = 16
"""A task with fewer pairs is left out."""
_DRAWS_PER_PAIR = 20  # duplicates, pairs of unequal lengths and rarer lengths fall away

_BRACKETS = {"(": ")", "[": "]"}
EXPRESSIONS = (
    "    {a} = {b}{bracket}{c}",
    "    {a} = {b}{bracket}{c}, {d}",
    "    {a} = {b}{bracket}{c} + 1",
    "    {a} = {b}.{c}{bracket}{d}",
    "    if {b}{bracket}{c}",
    "    return {b}{bracket}{c}, {d}",
    "    self.{a} = {b}{bracket}{c}",
)
VARIABLES = (
    *("data", "index", "items", "key", "line", "name", "node", "path", "text", "value", "values"),
)


def closing_bracket(vocabulary: Vocabulary, rng: random.Random) -> Iterator[PromptPair]:
    """Which bracket is open: code, of which a small model of source code knows enough.

    `    name = data(index, key` -> any token that starts with `)`. In the counterfactual the other
    kind of bracket is open.
    """
    closing = {bracket: vocabulary.starting_with(close) for bracket, close in _BRACKETS.items()}
    while all(closing.values()):
        a, b, c, d = rng.sample(VARIABLES, 4)
        words = {"a": a, "b": b, "c": c, "d": d}
        template = rng.choice(EXPRESSIONS)
        right, other = rng.sample(list(_BRACKETS), 2)
        yield vocabulary.pair(
            template.format(bracket=right, **words),
            template.format(bracket=other, **words),
            answers=closing[right],
            wrong=closing[other],
        )


SPAN = "The {noun} lasted from the year {century}{start:02d} to the year {century}"
EVENTS = (
    *("campaign", "conflict", "journey", "project", "siege", "strike", "trial", "voyage", "war"),
)
_CENTURIES = range(11, 18)
# Tokenizers that split years in two have some, such as 1700, as one token.
_FEWEST_YEARS = 80  # of a century's hundred, each of two tokens, or the century is not used
# After 1701 every later year is possible, so the clean prompt's wrong years are likely too.
_COUNTERFACTUAL_START = 1


def greater_than(vocabulary: Vocabulary, rng: random.Random) -> Iterator[PromptPair]:
    """Years that come later (Hanna et al. 2023, arXiv 2305.00586).

    `The war lasted from the year 1732 to the year 17` -> any of `33` to `99`. The counterfactual
    starts in the year 01 of the same century, as in the paper. It does not turn the answer round,
    but makes years right that are wrong after the clean prompt.
    """
    years = {century: _two_digit_tokens(vocabulary, century) for century in _CENTURIES}
    usable = [
        (century, start, tokens)
        for century, tokens in years.items()
        for start in sorted(tokens)[:-1]  # a later year is needed
        if len(tokens) >= _FEWEST_YEARS and _COUNTERFACTUAL_START in tokens
        if start > _COUNTERFACTUAL_START
    ]
    while usable:
        century, start, tokens = rng.choice(usable)
        words = {"noun": rng.choice(EVENTS), "century": century}
        yield vocabulary.pair(
            SPAN.format(start=start, **words),
            SPAN.format(start=_COUNTERFACTUAL_START, **words),
            answers=[token for year, token in tokens.items() if year > start],
            wrong=[token for year, token in tokens.items() if year <= start],
        )


def _two_digit_tokens(vocabulary: Vocabulary, century: int) -> dict[int, int]:
    """The years of a century whose last two digits are one token, with that token."""
    tokens = {
        year: vocabulary.next_token(f"to the year {century}", f"{year:02d}") for year in range(100)
    }
    return {year: token for year, token in tokens.items() if token is not None}


GIFTS = (
    "When {a} and {b} went to the {place}, {giver} gave a {thing} to",
    "When {a} and {b} met at the {place}, {giver} handed a {thing} to",
    "After {a} and {b} came to the {place}, {giver} gave a {thing} to",
    "While {a} and {b} were at the {place}, {giver} passed a {thing} to",
)
NAMES = ("Amy", "Anna", "David", "James", "John", "Kate", "Mark", "Mary", "Paul", "Sarah", "Tom")
PLACES = ("garden", "house", "hospital", "office", "park", "school", "station", "store")
THINGS = ("book", "computer", "drink", "key", "letter", "present", "ring", "snack")


def ioi(vocabulary: Vocabulary, rng: random.Random) -> Iterator[PromptPair]:
    """Indirect object identification (Wang et al. 2022, arXiv 2211.00593).

    `When Mary and John went to the store, John gave a drink to` -> ` Mary`, the name that is not
    repeated. In the counterfactual the other name is repeated.
    """
    tokens = {name: vocabulary.next_token("gave a drink to", f" {name}") for name in NAMES}
    usable = {name: token for name, token in tokens.items() if token is not None}
    while len(usable) >= 2:
        a, b = rng.sample(list(usable), 2)
        words = {"a": a, "b": b, "place": rng.choice(PLACES), "thing": rng.choice(THINGS)}
        template = rng.choice(GIFTS)
        giver, receiver = rng.sample((a, b), 2)  # the answer is named first or second
        yield vocabulary.pair(
            template.format(giver=giver, **words),
            template.format(giver=receiver, **words),
            answers=[usable[receiver]],
            wrong=[usable[giver]],
        )


SUBJECT = "The {subject} {preposition} the {other}"
_REGULAR = (
    *("author", "book", "boy", "car", "doctor", "friend", "girl", "house", "key", "officer"),
    *("player", "student", "table", "teacher", "tree", "writer"),
)
# Singular and plural.
NOUNS = sorted([("man", "men"), ("woman", "women"), *((noun, f"{noun}s") for noun in _REGULAR)])
PREPOSITIONS = ("behind", "beside", "by", "near")
VERBS = (("is", "are"), ("was", "were"), ("has", "have"))


def subject_verb(vocabulary: Vocabulary, rng: random.Random) -> Iterator[PromptPair]:
    """Agreement across a prepositional phrase (Marks et al. 2024, arXiv 2403.19647).

    `The keys near the cabinet` -> ` are`, ` were` or ` have`. The counterfactual has the subject in
    its other number. The noun next to the verb is in either.
    """
    verbs = [
        (singular, plural)
        for singular, plural in (
            [vocabulary.next_token("near the table", f" {verb}") for verb in forms]
            for forms in VERBS
        )
        if singular is not None and plural is not None
    ]
    while verbs:
        subject, other = rng.sample(NOUNS, 2)
        words = {"preposition": rng.choice(PREPOSITIONS), "other": rng.choice(other)}
        number, opposite = rng.sample((0, 1), 2)
        yield vocabulary.pair(
            SUBJECT.format(subject=subject[number], **words),
            SUBJECT.format(subject=subject[opposite], **words),
            answers=[forms[number] for forms in verbs],
            wrong=[forms[opposite] for forms in verbs],
        )


@dataclass(frozen=True)
class CircuitTask:
    """Something a language model may be able to do, and how well it does is measured."""

    name: str
    draw_pairs: Callable[[Vocabulary, random.Random], Iterator[PromptPair]]
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
    require_one_of("task", name, TASKS)
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
