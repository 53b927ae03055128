"""Subject-verb agreement across a prepositional phrase (Marks et al. 2024, arXiv 2403.19647).

`The keys near the cabinet` -> ` are`, ` were` or ` have`.
"""

import random
from collections.abc import Iterator

from sae_lens_groups.evaluate.circuits.pairs import PromptPair, Vocabulary

TEMPLATE = "The {subject} {preposition} the {other}"
_REGULAR = (
    *("author", "book", "boy", "car", "doctor", "friend", "girl", "house", "key", "officer"),
    *("player", "student", "table", "teacher", "tree", "writer"),
)
NOUNS = sorted([("man", "men"), ("woman", "women"), *((noun, f"{noun}s") for noun in _REGULAR)])
"""Singular and plural."""
PREPOSITIONS = ("behind", "beside", "by", "near")
VERBS = (("is", "are"), ("was", "were"), ("has", "have"))
SINGULAR, PLURAL = 0, 1


def subject_verb(vocabulary: Vocabulary, rng: random.Random) -> Iterator[PromptPair]:
    """Pairs without end, or none: the answer is any verb that agrees with the subject.

    The counterfactual has the subject in its other number. The noun next to the verb is in either.
    """
    verbs = [
        (singular, plural)
        for singular, plural in (_tokens(vocabulary, forms) for forms in VERBS)
        if singular is not None and plural is not None
    ]
    while verbs:
        subject, other = rng.sample(NOUNS, 2)
        words = {"preposition": rng.choice(PREPOSITIONS), "other": rng.choice(other)}
        number, opposite = rng.sample((SINGULAR, PLURAL), 2)
        yield vocabulary.pair(
            TEMPLATE.format(subject=subject[number], **words),
            TEMPLATE.format(subject=subject[opposite], **words),
            answers=[forms[number] for forms in verbs],
            wrong=[forms[opposite] for forms in verbs],
        )


def _tokens(vocabulary: Vocabulary, forms: tuple[str, str]) -> list[int | None]:
    return [vocabulary.next_token("near the table", f" {verb}") for verb in forms]
