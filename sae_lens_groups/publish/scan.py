"""Refuses to publish what names a person, a machine or a secret.

`public.py` puts names in place of the paths that it knows by their keys. This looks once more at every
text, for what came into it in another way.
"""

import functools
import html
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
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
    folders_here,
    names_here,
    secrets_here,
)

_MOST_SHOWN, _ENOUGH = 3, 100
_PART = 8  # characters of a secret that are too many to be shown
_MOST_DECODINGS = 3
# The densities of all features, say: they take long to search.
_NUMBERS = re.compile(r"[\d.,eE\s+-]{200,}")
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
    scan = _Scan(repo_id, allowed, paths)
    found = {name: in_it for name, text in files.items() if (in_it := scan.findings(name, text))}
    if not found:
        return
    lines = [f"  {scan.redacted(name)}: {_listed(in_it)}" for name, in_it in found.items()]
    files_hold = "a file holds" if len(found) == 1 else f"{len(found)} files hold"
    or_page = f" with this version, or delete {names.REPORT}"
    has_page = any(name.endswith(".html") for name in found)
    raise PublishError(
        f"nothing was published, because {files_hold} what names a person, a machine or a secret:\n"
        + "\n".join(lines)
        + f"\nedit these files, or evaluate the suite again{or_page * has_page}; what may be public is "
        "accepted with --allow TEXT"
    )


def _listed(findings: list[str]) -> str:
    more = len(findings) - _MOST_SHOWN
    return ", ".join(findings[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


class _Scan:
    """Finds what is private on this machine, or anywhere."""

    def __init__(self, repo_id: str, allowed: Iterable[str], paths: Iterable[str | Path]) -> None:
        self._secrets = [*secrets_here(), *SECRETS]
        self._others = [absolute_paths(), *PATHS, *names_here(repo_id), *folders_here(paths)]
        self._allowed = [text for given in allowed if (text := given.rstrip("/\\"))]

    def findings(self, name: str, content: Path | str) -> list[str]:
        """What is private in a file or its name, each once, as it may be shown."""
        secrets: dict[tuple[str, str], None] = {}
        others: dict[tuple[str, str], None] = {}
        for text, kind in [(name, TEXT), *_texts(name, content)]:
            # Somebody else's program has no paths to escape, and is long.
            for variant in islice(_decodings(text), 1 if kind == PROGRAM else None):
                secrets |= dict.fromkeys(self._in(variant, kind, self._secrets))
                # No path that is shown has a part of a secret.
                visible = self.redacted(variant, kind, lambda _: "\n")
                others |= dict.fromkeys(islice(self._in(visible, kind, self._others), _ENOUGH))
        parts = {s[at : at + _PART] for _, s in secrets for at in range(max(1, len(s) - _PART + 1))}
        widest = [
            (kind, text)
            for kind, text in others
            if not any(text in other and text != other for _, other in others)
        ]
        return [
            f"{kind} ({text[:4]}…, {len(text)} characters)"
            if (kind, text) in secrets or any(part in text for part in parts)
            else f"{kind} {text!r}"
            for kind, text in [*secrets, *widest]
        ]

    def _in(self, text: str, kind: str, wanted: Iterable[Private]) -> Iterator[tuple[str, str]]:
        for each in wanted:
            for start, end in each.spans(text) if kind in each.searched else ():
                if not any(_is_allowed(text, start, end, allowed) for allowed in self._allowed):
                    yield each.kind, text[start:end]

    def redacted(
        self,
        text: str,
        kind: str = TEXT,
        replacement: Callable[[str], str] = lambda secret: f"{secret[:4]}…",
    ) -> str:
        """A text without its secrets; to be shown to people, with the beginning of each."""
        for each in self._secrets:
            text = each.replaced(text, replacement) if kind in each.searched else text
        return text


def _is_allowed(text: str, start: int, end: int, allowed: str) -> bool:
    """Whether what was found lies in an allowed text, or in the folder that it names."""
    if text.find(allowed, max(0, end - len(allowed)), start + len(allowed)) >= 0:
        return True
    found = text[start:end]
    return found.lower() == allowed.lower() or (
        found.startswith(allowed) and found[len(allowed)] in "/\\"
    )


def _decodings(text: str) -> Iterator[str]:
    """A text as it is and, where that is another, with its escapes undone."""
    text = _NUMBERS.sub("\n", text)
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
