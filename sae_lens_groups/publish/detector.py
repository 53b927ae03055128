"""Finds in a text what must not be published, however it is escaped."""

import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

from sae_lens_groups.publish.rules import (
    PATHS,
    PROGRAM,
    SECRETS,
    Rule,
    absolute_paths,
    current_folder,
    folders_rule,
    home_folder,
    known_secrets,
    names_rule,
)

_MOST_DECODINGS = 3
_ENOUGH = 100
_LONGEST_SHOWN = 8


@dataclass(frozen=True)
class Finding:
    """Something private in a text."""

    kind: str
    text: str
    is_secret: bool

    def without(self, secrets: Iterable["Finding"]) -> "Finding":
        """The same; not to be shown if a part of a secret is in it, perhaps escaped otherwise."""
        parts = (
            secret.text[at : at + _LONGEST_SHOWN]
            for secret in secrets
            for at in range(max(1, len(secret.text) - _LONGEST_SHOWN + 1))
        )
        return replace(self, is_secret=True) if any(part in self.text for part in parts) else self

    def __str__(self) -> str:
        if self.is_secret:
            return f"{self.kind} ({self.text[:4]}…, {len(self.text)} characters)"
        return f"{self.kind} {self.text!r}"


class Detector:
    """Finds what is private on this machine, or anywhere."""

    def __init__(
        self, repo_id: str, own_folders: Iterable[Path] = (), allowed: Iterable[str] = ()
    ) -> None:
        known, names = known_secrets(), names_rule(public=repo_id)
        self._secrets = [*([known] if known else []), *SECRETS]
        self._others = [absolute_paths(), *PATHS, *([names] if names else [])]
        self._folders = folders_rule([*home_folder(), *current_folder(), *own_folders])
        self._allowed = [text for given in allowed if (text := given.rstrip("/\\"))]

    def findings(self, text: str, kind: str = "") -> list[Finding]:
        """What is private in a text, each once; no more than some hundreds."""
        secrets: dict[Finding, None] = {}
        others: dict[Finding, None] = {}
        # Somebody else's program has no paths to escape, and is long.
        for variant in islice(_decodings(text), 1 if kind == PROGRAM else None):
            spans = self._secret_spans(variant, kind)
            for rule, found in spans:
                secrets |= dict.fromkeys(self._unless_allowed(rule, variant, found))
            # No path that is shown has a part of a secret.
            visible = _blanked(variant, [span for _, found in spans for span in found])
            others |= dict.fromkeys(islice(self._others_in(visible, kind), _ENOUGH))
        return [*secrets, *(finding.without(secrets) for finding in _widest(others))]

    def redacted(self, text: str) -> str:
        """A text to be shown to people, without its secrets."""
        for rule in self._secrets:
            for start, end in reversed(list(rule.matches(text))):
                text = f"{text[: start + 4]}…{text[end:]}"
        return text

    def _secret_spans(self, text: str, kind: str) -> list[tuple[Rule, list[tuple[int, int]]]]:
        rules = [rule for rule in self._secrets if rule.is_for(kind)]
        return [(rule, list(rule.matches(text))) for rule in rules]

    def _others_in(self, text: str, kind: str) -> Iterator[Finding]:
        for rule in self._others:
            if rule.is_for(kind):
                yield from self._unless_allowed(rule, text, rule.matches(text))
        if self._folders is not None:
            slashes = re.sub(r"[/\\]+", "/", text)
            yield from self._unless_allowed(self._folders, slashes, self._folders.matches(slashes))

    def _unless_allowed(
        self, rule: Rule, text: str, spans: Iterable[tuple[int, int]]
    ) -> Iterator[Finding]:
        for start, end in spans:
            if not any(_is_allowed(text, start, end, allowed) for allowed in self._allowed):
                yield Finding(rule.kind, text[start:end], rule.is_secret)


def _widest(findings: Iterable[Finding]) -> list[Finding]:
    """Without those that lie in one before them, as the user's name does in a path."""
    kept: list[Finding] = []
    for finding in findings:
        if not any(finding.text in other.text for other in kept):
            kept.append(finding)
    return kept


def _is_allowed(text: str, start: int, end: int, allowed: str) -> bool:
    """Whether what was found lies in an allowed text, or in the folder that it names."""
    if text.find(allowed, max(0, end - len(allowed)), start + len(allowed)) >= 0:
        return True
    found = text[start:end]
    return found.lower() == allowed.lower() or (
        found.startswith(allowed) and found[len(allowed)] in "/\\"
    )


def _blanked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """A text of the same length with line ends in place of these parts."""
    parts, done = list[str](), 0
    for start, end in sorted(spans):
        if end > done:
            parts += [text[done : max(start, done)], "\n" * (end - max(start, done))]
            done = end
    return "".join([*parts, text[done:]])


_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|([/\\\"]))")


def _decodings(text: str) -> Iterator[str]:
    """A text as it is and, where that is another, with its escapes undone."""
    for _ in range(_MOST_DECODINGS):
        yield text
        decoded = html.unescape(text)
        decoded = _ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else m[2], decoded)
        decoded = unquote(decoded) if "%" in decoded else decoded
        if decoded == text:
            return
        text = decoded
