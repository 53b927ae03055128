"""Refuses to publish what names a person, a machine or a secret."""

import functools
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

from safetensors import safe_open

from sae_lens_groups.errors import PublishError
from sae_lens_groups.files.reading import UNREADABLE
from sae_lens_groups.publish.detector import Detector, Finding
from sae_lens_groups.publish.public_text import JSON_STRING, LIBRARY, without_elements
from sae_lens_groups.publish.rules import CARD, DATA, PROGRAM

_MOST_SHOWN = 3
_WEIGHTS = ".safetensors"
_STYLE = re.compile("<style>")
# Beside strings, JSON has numbers and a few words.
_NOT_JSON = re.compile(r"[^\s{}\[\],:0-9.eE+\-truefalsNnIiy]")

# A table of SAELens has a number for each feature in one cell.
_NUMBERS = re.compile(r"(?<![\d.e+-])(?:\d[\d.e+-]*, -?){16,}")


def require_nothing_private(
    files: Mapping[str, Path | str], *, repo_id: str, allowed: Collection[str] = ()
) -> None:
    """Refuses files in which a path of a machine, a user's name or a secret is left.

    Args:
        files: path in the repository -> a file, or a text.
        repo_id: where they go; its names are public anyway.
        allowed: texts that may be there.

    Raises:
        PublishError: names each file, and what is in it; of secrets, four characters.
    """
    detector = Detector(repo_id, _own_folders(files), allowed)
    found = {
        name: findings
        for name, content in files.items()
        if (findings := _findings(detector, name, content))
    }
    if not found:
        return
    lines = [f"  {detector.redacted(name)}: {_listed(of_file)}" for name, of_file in found.items()]
    files_hold = "a file holds" if len(found) == 1 else f"{len(found)} files hold"
    raise PublishError(
        "\n".join(
            [
                f"nothing was published, because {files_hold} what names a person, a machine or a "
                "secret:",
                *lines,
                "edit these files, or evaluate the suite again; what may be public is accepted with "
                "--allow TEXT",
            ]
        )
    )


def _listed(findings: list[Finding]) -> str:
    shown = ", ".join(map(str, findings[:_MOST_SHOWN]))
    more = len(findings) - _MOST_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _own_folders(files: Mapping[str, Path | str]) -> set[Path]:
    """Where the files lie."""
    return {
        content.parents[len(PurePosixPath(name).parts) - 1]
        for name, content in files.items()
        if isinstance(content, Path) and content.parts[-1:] == PurePosixPath(name).parts[-1:]
    }


def _findings(detector: Detector, name: str, content: Path | str) -> list[Finding]:
    found = detector.findings(name)
    for text, kind in _texts(name, content):
        found += detector.findings(text, kind)
    return list(dict.fromkeys(found))


def _texts(name: str, content: Path | str) -> Iterator[tuple[str, str]]:
    """The texts in a file, each with its kind."""
    if isinstance(content, Path) and name.endswith(_WEIGHTS):
        yield _weights_header(name, content), ""
        return
    text = content if isinstance(content, str) else _read(name, content)
    if name.endswith(".json"):
        yield _json_lines(text), DATA
    elif name.endswith(".html"):
        yield from _page_texts(text)
    elif name.endswith(".csv"):
        yield _NUMBERS.sub(" ", text.replace('""', '"')), DATA
    else:
        yield text, CARD if name.endswith(".md") else ""


def _json_lines(text: str) -> str:
    """Every string of a JSON text on a line of its own, behind its key.

    Then the whole of a text that is no JSON.
    """
    lines: list[str] = []
    key = ""
    for match in JSON_STRING.finditer(text):
        try:
            string = json.loads(match[1], strict=False)
        except ValueError:
            string = match[1]
        if match[2] is None:
            lines.append(f"{key}: {string}")
        else:
            key = string
            lines.append(key)
    if _NOT_JSON.search(JSON_STRING.sub("\n", text)):
        lines.append(text)
    return "\n".join(lines)


def _page_texts(page: str) -> Iterator[tuple[str, str]]:
    """A page without the library that draws, as far as that is what the library is."""
    own: list[str] = []
    page = page.replace(_plotly(), "")
    for script, is_own in without_elements(page, LIBRARY, "</script>"):
        if is_own:
            own.append(script)
            continue
        added = _added(script, _plotly())
        # Of another version it is all program, and names of people are words of programs.
        yield added, "" if 2 * len(added) < len(script) else PROGRAM
    for part, is_own in without_elements("\n".join(own), _STYLE, "</style>"):
        yield part, "" if is_own else PROGRAM


@functools.cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # slow to import

    return get_plotlyjs()


def _added(script: str, library: str) -> str:
    """A script without the beginning and the end that it has in common with a library."""
    script = script.partition(">")[2].removesuffix("</script>")
    script = script[_n_common(script, library, str.startswith) :]
    return script[: len(script) - _n_common(script, library, str.endswith)]


def _n_common(text: str, other: str, has: Callable[[str, str], bool]) -> int:
    """How many characters two texts begin (or end) with alike."""
    low, high = 0, min(len(text), len(other))
    while low < high:
        n = (low + high + 1) // 2
        part = text[:n] if has is str.startswith else text[-n:]
        low, high = (n, high) if has(other, part) else (low, n - 1)
    return low


def _read(name: str, path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise PublishError(f"{name} cannot be read ({error}); nothing was published") from error


def _weights_header(name: str, path: Path) -> str:
    """What a file of weights says beside its numbers."""
    try:
        with safe_open(path, framework="np") as weights:
            facts = weights.metadata() or {}
            return "\n".join(
                [*(f"{key}: {value}" for key, value in facts.items()), *weights.keys()]
            )
    except UNREADABLE as error:
        raise PublishError(f"{name} cannot be read ({error}); nothing was published") from error
