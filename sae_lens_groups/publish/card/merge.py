"""Puts our part into a card that somebody may have written in, and leaves what they wrote."""

import re

from huggingface_hub.repocard import REGEX_YAML_BLOCK

from sae_lens_groups.errors import PublishError
from sae_lens_groups.publish.card import front_matter

BEGIN = (
    "<!-- begin sae-lens-groups: what stands between here and the end mark is written anew by "
    "every publish; write above or below it -->"
)
END = "<!-- end sae-lens-groups -->"
_MARK = re.compile(
    r"^<!-- (begin|end) sae-lens-groups\b[^\r\n]*-->(?=[ \t]*\r?$)", flags=re.MULTILINE
)
_RULE_FIRST = re.compile(r"\s*---[ \t]*(\r|\n|$)")


def card_with(part: str, values: front_matter.Values, existing: str | None) -> str:
    """The card with our part and our front matter in it.

    Our part takes the place of an earlier one, wherever that was moved to; a card without one
    gets it below what is written there.

    Raises:
        PublishError: the card is damaged, so that our part's place cannot be told.
    """
    text = (existing or "").removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    match = REGEX_YAML_BLOCK.search(text)  # the Hub's own
    if match is not None:
        before, block, after = match.group(1, 2, 3)
        newline = "\r\n" if before.endswith("\r\n") else "\n"
        front = before + front_matter.merged(block, values, newline) + after
        return front + _put(part, text[match.end() :])
    if _RULE_FIRST.match(text):
        raise PublishError(
            "the card starts with a line of --- but has no front matter that the Hub can read; "
            "write lines such as license: mit between two lines of ---, or remove the first line"
        )
    return f"---\n{front_matter.merged('', values)}\n---\n" + _put(part, text)


def _put(part: str, text: str) -> str:
    part = f"{BEGIN}\n{part}\n{END}"
    marks = list(_MARK.finditer(text))
    match [mark.group(1) for mark in marks]:
        case []:
            return text + _gap(text) + part + "\n"
        case ["begin", "end"]:
            return text[: marks[0].start()] + part + text[marks[1].end() :]
        case found:
            raise PublishError(
                f"the card has {found.count('begin')} begin and {found.count('end')} end marks of "
                "sae-lens-groups on lines of their own, where one begin mark and one end mark below "
                f"it are needed to tell what is written anew; the end mark is {END!r}; put them "
                "right on the Hub, or remove them all and what they enclose, and publish again"
            )


def _gap(text: str) -> str:
    """One empty line above our part."""
    if text.endswith(("\n\n", "\r\n\r\n")):
        return ""
    return "\n" if not text or text.endswith("\n") else "\n\n"
