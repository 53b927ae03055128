"""Puts our part into a card that somebody may have written in, and leaves what they wrote."""

import re
from collections.abc import Mapping
from typing import Any

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import HFValidationError, validate_repo_id, yaml_dump

from sae_lens_groups.errors import PublishError

BEGIN = (
    "<!-- begin sae-lens-groups: what stands between here and the end mark is written anew by "
    "every publish; write above or below it -->"
)
END = "<!-- end sae-lens-groups -->"
FrontMatter = Mapping[str, str | list[str]]
"""Our keys in the YAML at the top. A list is united with what the card has; other values replace."""

_MARK = re.compile(
    r"^<!-- (begin|end) sae-lens-groups\b[^\r\n]*-->(?=[ \t]*\r?$)", flags=re.MULTILINE
)
_RULE_FIRST = re.compile(r"\s*---[ \t]*(\r|\n|$)")
_ADVICE = "correct it on the Hub or in a clone of the repository, and publish again"


def card_with(part: str, values: FrontMatter, existing: str | None) -> str:
    """The card with our part and our front matter in it.

    Our part takes the place of an earlier one, wherever that was moved to; a card without one
    gets it below what is written there.
    """
    text = (existing or "").removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    match = REGEX_YAML_BLOCK.search(text)  # the Hub's own
    if match is not None:
        before, block, after = match.group(1, 2, 3)
        newline = "\r\n" if before.endswith("\r\n") else "\n"
        front = before + merged_front_matter(block, values, newline) + after
        return front + _put(part, text[match.end() :])
    if _RULE_FIRST.match(text):
        raise PublishError(
            "the card starts with a line of --- but has no front matter that the Hub can read; "
            "write lines such as license: mit between two lines of ---, or remove the first line"
        )
    return f"---\n{merged_front_matter('', values)}\n---\n" + _put(part, text)


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


def is_hub_id(name: str) -> bool:
    """Whether the Hub takes this for the id of a model or dataset."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def merged_front_matter(block: str, ours: FrontMatter, newline: str = "\n") -> str:
    """The front matter with our keys in it, without the lines of `---` around it.

    Comments, order and spelling of all other keys stay, which loading and dumping would change:
    YAML 1.1 reads the language `no` as false.
    """
    data, root = _read(block)
    wanted = {name: _united(name, data.get(name), value) for name, value in ours.items()}
    changes = {name: value for name, value in wanted.items() if data.get(name) != value}
    text = _changed(block, root, changes, newline)
    try:
        agrees = repr(_read(text)[0]) == repr(data | changes)
    except PublishError:
        agrees = False
    if not agrees:
        raise PublishError(
            f"the card's front matter is written in a way that {', '.join(changes)} cannot be put "
            f"into; write one key per line, without anchors and braces: {_ADVICE}"
        )
    return text


def _read(block: str) -> tuple[dict[str, Any], yaml.MappingNode | None]:
    try:
        root, data = yaml.compose(block, Loader=yaml.SafeLoader), yaml.safe_load(block)
    except (yaml.YAMLError, ValueError) as error:  # the latter for a date such as 2024-99-99
        reason = " ".join(str(error).split())
        raise PublishError(
            f"the card's front matter cannot be read as YAML ({reason}); {_ADVICE}"
        ) from error
    if root is None:
        return {}, None
    if not isinstance(root, yaml.MappingNode):
        raise PublishError(
            "the card starts with a line of --- and has no keys between it and the next one, as "
            f"front matter has; {_ADVICE}"
        )
    names = [key.value for key, _ in root.value]
    if twice := sorted({str(name) for name in names if names.count(name) > 1}):
        raise PublishError(f"the card's front matter has {', '.join(twice)} twice; {_ADVICE}")
    return data, root


def _united(name: str, theirs: Any, ours: str | list[str]) -> Any:
    """What the card is to say: theirs and ours where both can stand."""
    if isinstance(ours, str):
        return theirs if isinstance(theirs, list) and ours in theirs else ours
    if isinstance(theirs, dict):
        raise PublishError(f"{name} in the card's front matter is not a list; {_ADVICE}")
    known = [] if theirs is None else theirs if isinstance(theirs, list) else [theirs]
    missing = [value for value in ours if value not in known]
    return [*known, *missing] if missing else theirs


def _changed(
    block: str, root: yaml.MappingNode | None, changes: Mapping[str, Any], newline: str
) -> str:
    written = {
        name: yaml_dump({name: value}).strip().replace("\n", newline)
        for name, value in changes.items()
    }
    nodes = [] if root is None else root.value
    for key, value in reversed(nodes):
        if key.value in written:
            start = key.start_mark.index
            end = len(block[: _end(value)].rstrip())
            block = block[:start] + written.pop(key.value) + block[max(start, end) :]
    return newline.join([*([block] if block.strip() else []), *written.values()])


def _end(node: yaml.Node) -> int:
    """Where a value ends. PyYAML lets a block end where the next key starts, behind comments."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return node.end_mark.index
