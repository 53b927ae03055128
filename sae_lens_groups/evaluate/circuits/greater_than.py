"""Years that come later (Hanna et al. 2023, arXiv 2305.00586).

`The war lasted from the year 1732 to the year 17` -> any of `33` to `99`.
"""

import random
from collections.abc import Iterator

from sae_lens_groups.evaluate.circuits.pairs import PromptPair, Vocabulary

TEMPLATE = "The {noun} lasted from the year {century}{start:02d} to the year {century}"
NOUNS = ("campaign", "conflict", "journey", "project", "siege", "strike", "trial", "voyage", "war")
CENTURIES = range(11, 18)
MIN_YEARS = 80
"""Single tokens among a century's hundred years, or the century is not used.

Tokenizers that split years in two have some, such as 1700, as one token.
"""
COUNTERFACTUAL_START = 1
"""After 1701 every later year is possible, so the clean prompt's wrong years are likely too."""


def greater_than(vocabulary: Vocabulary, rng: random.Random) -> Iterator[PromptPair]:
    """Pairs without end, or none: years have to be two tokens, of two digits each.

    The counterfactual starts in the year 01 of the same century, as in the paper. It does not
    turn the answer round, but makes years right that are wrong after the clean prompt.
    """
    years = {century: _two_digit_tokens(vocabulary, century) for century in CENTURIES}
    usable = [
        (century, start, tokens)
        for century, tokens in years.items()
        for start in sorted(tokens)[:-1]  # a later year is needed
        if len(tokens) >= MIN_YEARS and COUNTERFACTUAL_START in tokens
        if start > COUNTERFACTUAL_START
    ]
    while usable:
        century, start, tokens = rng.choice(usable)
        words = {"noun": rng.choice(NOUNS), "century": century}
        yield vocabulary.pair(
            TEMPLATE.format(start=start, **words),
            TEMPLATE.format(start=COUNTERFACTUAL_START, **words),
            answers=[token for year, token in tokens.items() if year > start],
            wrong=[token for year, token in tokens.items() if year <= start],
        )


def _two_digit_tokens(vocabulary: Vocabulary, century: int) -> dict[int, int]:
    """The years of a century whose last two digits are one token, with that token."""
    tokens = {
        year: vocabulary.next_token(f"to the year {century}", f"{year:02d}") for year in range(100)
    }
    return {year: token for year, token in tokens.items() if token is not None}
