"""Which bracket is open: code, of which a small model of source code knows enough.

`    name = data(index, key` -> any token that starts with `)`.
"""

import random
from collections.abc import Iterator

from sae_lens_groups.evaluate.circuits.pairs import PromptPair, Vocabulary

TEMPLATES = (
    "    {a} = {b}{bracket}{c}",
    "    {a} = {b}{bracket}{c}, {d}",
    "    {a} = {b}{bracket}{c} + 1",
    "    {a} = {b}.{c}{bracket}{d}",
    "    if {b}{bracket}{c}",
    "    return {b}{bracket}{c}, {d}",
    "    self.{a} = {b}{bracket}{c}",
)
WORDS = ("data", "index", "items", "key", "line", "name", "node", "path", "text", "value", "values")
BRACKETS = {"(": ")", "[": "]"}


def closing_bracket(vocabulary: Vocabulary, rng: random.Random) -> Iterator[PromptPair]:
    """Pairs without end: the answer is any token that starts by closing the open bracket.

    In the counterfactual the other kind of bracket is open.
    """
    closing = {bracket: vocabulary.starting_with(close) for bracket, close in BRACKETS.items()}
    while all(closing.values()):
        a, b, c, d = rng.sample(WORDS, 4)
        words = {"a": a, "b": b, "c": c, "d": d}
        template = rng.choice(TEMPLATES)
        right, other = rng.sample(list(BRACKETS), 2)
        yield vocabulary.pair(
            template.format(bracket=right, **words),
            template.format(bracket=other, **words),
            answers=closing[right],
            wrong=closing[other],
        )
