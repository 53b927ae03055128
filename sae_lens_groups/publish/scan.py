"""Refuses to publish what names a person, a machine or a secret."""

import functools
import html
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

from safetensors import safe_open

from sae_lens_groups import files as names
from sae_lens_groups.errors import PublishError
from sae_lens_groups.publish.patterns import (
    CARD_TEXT,
    DATA,
    PATHS,
    PROGRAM,
    SECRETS,
    TEXT,
    Private,
    absolute_paths,
    names_here,
    secrets_here,
    these_folders,
)

_MOST_SHOWN = 3
_MOST_DECODINGS = 3
_ENOUGH = 100
_LONGEST_SHOWN = 8
# The style of a page, and plotly.js of any version.
_PROGRAM_ELEMENT = re.compile(r"<style>|<script[^>]{0,99}>\s*/\*\*\s*\* plotly\.js v")
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|([/\\\"nrt]))")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}


def require_nothing_private(
    files: Mapping[str, Path | str],
    *,
    repo_id: str,
    allowed: Collection[str] = (),
    paths: Iterable[str | Path] = (),
) -> None:
    """Refuses files in which a path of a machine, a user's name or a secret is left.

    Args:
        files: path in the repository -> a file, or a text.
        repo_id: where they go; its names are public anyway.
        allowed: texts that may be there.
        paths: local paths that are known, such as the suite's own.

    Raises:
        PublishError: names each file, and what is in it; of secrets, four characters.
    """
    scan = _Scan(
        secrets=[*secrets_here(), *SECRETS],
        others=[absolute_paths(), *PATHS, *names_here(public=repo_id)],
        folders=these_folders(paths),
        allowed=[text for given in allowed if (text := given.rstrip("/\\"))],
    )
    found = {name: in_it for name, text in files.items() if (in_it := scan.findings(name, text))}
    if not found:
        return
    lines = [f"  {scan.redacted(name)}: {_listed(in_it)}" for name, in_it in found.items()]
    files_hold = "a file holds" if len(found) == 1 else f"{len(found)} files hold"
    has_page = any(name.endswith(".html") for name in found)
    raise PublishError(
        "\n".join(
            [
                f"nothing was published, because {files_hold} what names a person, a machine or a "
                "secret:",
                *lines,
                "edit these files, or evaluate the suite again"
                + f" with this version, or delete {names.REPORT}" * has_page
                + "; what may be public is accepted with --allow TEXT",
            ]
        )
    )


def _listed(findings: list[str]) -> str:
    shown, more = ", ".join(findings[:_MOST_SHOWN]), len(findings) - _MOST_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


@dataclass(frozen=True, kw_only=True)
class _Scan:
    """Finds what is private on this machine, or anywhere."""

    secrets: list[Private]
    others: list[Private]
    folders: list[Private]
    allowed: list[str]

    def findings(self, name: str, content: Path | str) -> list[str]:
        """What is private in a file or its name, each once, as it may be shown."""
        secrets: dict[tuple[str, str], None] = {}
        others: dict[tuple[str, str], None] = {}
        for text, kind in [(name, TEXT), *_texts(name, content)]:
            # Somebody else's program has no paths to escape, and is long.
            for variant in islice(_decodings(text), 1 if kind == PROGRAM else None):
                spans = [span for each in self.secrets for span in each.matches(variant, kind)]
                secrets |= dict.fromkeys(self._in(variant, kind, self.secrets))
                # No path that is shown has a part of a secret.
                visible = _blanked(variant, spans)
                slashes = re.sub(r"[/\\]+", "/", visible)
                others |= dict.fromkeys(islice(self._in(visible, kind, self.others), _ENOUGH))
                others |= dict.fromkeys(islice(self._in(slashes, kind, self.folders), _ENOUGH))
        hidden = {part for _, secret in secrets for part in _parts(secret)}
        return [
            *(_hidden(kind, text) for kind, text in secrets),
            *(
                _hidden(kind, text) if any(part in text for part in hidden) else f"{kind} {text!r}"
                for kind, text in _widest(others)
            ),
        ]

    def _in(self, text: str, kind: str, wanted: Iterable[Private]) -> Iterator[tuple[str, str]]:
        for each in wanted:
            for start, end in each.matches(text, kind):
                if not any(_is_allowed(text, start, end, allowed) for allowed in self.allowed):
                    yield each.kind, text[start:end]

    def redacted(self, text: str) -> str:
        """A text to be shown to people, without its secrets."""
        for each in self.secrets:
            for start, end in reversed(list(each.matches(text, TEXT))):
                text = f"{text[: start + 4]}…{text[end:]}"
        return text


def _hidden(kind: str, text: str) -> str:
    return f"{kind} ({text[:4]}…, {len(text)} characters)"


def _parts(secret: str) -> list[str]:
    ends = max(1, len(secret) - _LONGEST_SHOWN + 1)
    return [secret[at : at + _LONGEST_SHOWN] for at in range(ends)]


def _widest(findings: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without those that lie in one before them, as the user's name does in a path."""
    kept: list[tuple[str, str]] = []
    for kind, text in findings:
        if not any(text in other for _, other in kept):
            kept.append((kind, text))
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


def _decodings(text: str) -> Iterator[str]:
    """A text as it is and, where that is another, with its escapes undone."""
    for _ in range(_MOST_DECODINGS):
        yield text
        decoded = _without_escapes(html.unescape(text))
        decoded = unquote(decoded) if "%" in decoded else decoded
        if decoded == text:
            return
        text = decoded


def _without_escapes(text: str) -> str:
    """A text with those of JSON undone."""
    return _ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else _ESCAPED.get(m[2], m[2]), text)


def _texts(name: str, content: Path | str) -> Iterator[tuple[str, str]]:
    """The texts in a file, each with its kind."""
    if isinstance(content, Path) and name.endswith(".safetensors"):
        with safe_open(content, framework="np") as weights:
            facts = (weights.metadata() or {}).items()
            yield "\n".join([*(f"{key}: {value}" for key, value in facts), *weights.keys()]), TEXT
        return
    text = content if isinstance(content, str) else content.read_text("utf-8", "replace")
    if name.endswith(".json"):
        yield _without_escapes(text), DATA
    elif name.endswith(".csv"):
        yield text.replace('""', '"'), DATA
    elif name.endswith(".html"):
        yield from _page_texts(text)
    else:
        yield text, CARD_TEXT if name == names.CARD else TEXT


def _page_texts(page: str) -> Iterator[tuple[str, str]]:
    """A page; apart from it the library that draws, and its style: in them names are no people's."""
    page, own, done = page.replace(_plotly(), ""), list[str](), 0
    while opening := _PROGRAM_ELEMENT.search(page, done):
        closing = page.find("</style>" if opening[0] == "<style>" else "</script>", opening.end())
        if closing < 0:
            break
        own.append(page[done : opening.start()])
        yield page[opening.start() : closing], PROGRAM
        done = closing
    yield "\n".join([*own, page[done:]]), TEXT


@functools.cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # slow to import

    return get_plotlyjs()
