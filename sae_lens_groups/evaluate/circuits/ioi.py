"""Indirect object identification (Wang et al. 2022, arXiv 2211.00593).

`When Mary and John went to the store, John gave a drink to` -> ` Mary`.
"""

import random
from collections.abc import Iterator

from sae_lens_groups.evaluate.circuits.pairs import PromptPair, Vocabulary

TEMPLATES = (
    "When {a} and {b} went to the {place}, {giver} gave a {thing} to",
    "When {a} and {b} met at the {place}, {giver} handed a {thing} to",
    "After {a} and {b} came to the {place}, {giver} gave a {thing} to",
    "While {a} and {b} were at the {place}, {giver} passed a {thing} to",
)
NAMES = ("Amy", "Anna", "David", "James", "John", "Kate", "Mark", "Mary", "Paul", "Sarah", "Tom")
PLACES = ("garden", "house", "hospital", "office", "park", "school", "station", "store")
THINGS = ("book", "computer", "drink", "key", "letter", "present", "ring", "snack")


def ioi(vocabulary: Vocabulary, rng: random.Random) -> Iterator[PromptPair]:
    """Pairs without end, or none: the answer is the name that is not repeated.

    In the counterfactual the other name is repeated.
    """
    tokens = {name: vocabulary.next_token("gave a drink to", f" {name}") for name in NAMES}
    usable = {name: token for name, token in tokens.items() if token is not None}
    while len(usable) >= 2:
        a, b = rng.sample(list(usable), 2)
        words = {"a": a, "b": b, "place": rng.choice(PLACES), "thing": rng.choice(THINGS)}
        template = rng.choice(TEMPLATES)
        giver, receiver = rng.sample((a, b), 2)  # the answer is named first or second
        yield vocabulary.pair(
            template.format(giver=giver, **words),
            template.format(giver=receiver, **words),
            answers=[usable[receiver]],
            wrong=[usable[giver]],
        )
