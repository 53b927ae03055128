"""Rewrites the texts of a suite for the public, and leaves the rest of them as it is written."""

import contextlib
import csv
import html
import io
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

from sae_lens_groups.publish.public_values import PublicValues

JSON_STRING = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?')
"""A string of a JSON text; the second part is there where it is a key."""
LIBRARY = re.compile(r"<script[^>]{0,99}>\s*/\*\*\s*\* plotly\.js v")
"""How the script of a page begins that is plotly.js, of any version."""

_COMMANDS = re.compile(r"(?<=<pre><code>).*?(?=</code></pre>)", re.DOTALL)
_WORD = re.compile(r"""(?:'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[^\s'"\\])+""", re.DOTALL)
_EVALUATED_ON = re.compile(
    r"(?<= tokens of )[^\n]*?(?= \([\d,]+ prompts? of [\d,]+ tokens?\)\.</p>)"
)


@dataclass(frozen=True)
class PublicText:
    """Makes public texts of a suite's own."""

    values: PublicValues

    def note_paths(self, text: str) -> None:
        """Remembers the paths of a JSON text, which other texts may quote."""
        for key, value in _json_values(text):
            self.values.note_path(key, value)

    def of_json(self, text: str) -> str:
        """A JSON text with public values; whatever else it holds stays as it is written."""
        key = ""

        def replaced(match: re.Match[str]) -> str:
            nonlocal key
            text = json.loads(match[1])
            if match[2] is not None:
                key = text
                return match[0]
            public = self.values.value(key, text)
            return match[0] if public == text else json.dumps(public)

        return JSON_STRING.sub(replaced, text)

    def of_csv(self, text: str) -> str:
        """A CSV text with public values; the last part of a column's name says what it holds."""
        with _long_cells():
            rows = list(csv.reader(io.StringIO(text, newline="")))
        keys = [column.rpartition(".")[2] for column in rows[0]] if rows else []
        public = [
            *rows[:1],
            *(
                [
                    self.values.value(key, cell) or ""
                    for key, cell in zip(chain(keys, repeat("")), row)
                ]
                for row in rows[1:]
            ),
        ]
        return text if public == rows else _csv_text(public)

    def of_html(self, text: str) -> str:
        """A page with public names in its title, its commands and wherever it quotes a path."""
        return "".join(
            self._of_own_html(part) if is_own else part
            for part, is_own in without_elements(text, LIBRARY, "</script>")
        )

    def _of_own_html(self, text: str) -> str:
        text = _COMMANDS.sub(
            lambda found: html.escape(self._commands(html.unescape(found[0]))), text
        )
        own, public = self.values.own_model, self.values.public_model
        if own is not None and public is not None:
            old, new = (html.escape(Path(name).name) for name in (own, public))
            for end in ("</title>", "</h1>"):
                text = text.replace(f" of {old}{end}", f" of {new}{end}")
        text = _EVALUATED_ON.sub(
            lambda found: html.escape(self.values.evaluated_on(html.unescape(found[0]))), text
        )
        return self.values.without_known(text)

    def _commands(self, text: str) -> str:
        """Command lines whose words name no local folder."""
        flag = ""

        def replaced(match: re.Match[str]) -> str:
            nonlocal flag
            given = _unquoted(match[0])
            name, equals, value = given.partition("=") if given[:2] == "--" else (flag, "", given)
            flag = name if name == given else ""
            if flag:
                return match[0]
            public = self.values.of_word(name.removeprefix("--"), value)
            if public == value:
                return match[0]
            return shlex.quote(f"{name}={public}" if equals else public)

        return _WORD.sub(replaced, text)


def without_elements(text: str, start: re.Pattern[str], end: str) -> Iterator[tuple[str, bool]]:
    """The parts of a page in their order; False beside those that are elements of this kind."""
    done = 0
    while (opening := start.search(text, done)) and (closing := text.find(end, opening.end())) >= 0:
        yield text[done : opening.start()], True
        done = closing + len(end)
        yield text[opening.start() : done], False
    yield text[done:], True


def _json_values(text: str) -> Iterator[tuple[str, str]]:
    """The strings of a JSON text, each with the key before it."""
    key = ""
    for match in JSON_STRING.finditer(text):
        if match[2] is not None:
            key = json.loads(match[1])
        else:
            yield key, json.loads(match[1])


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """Lets CSV have cells of any length: SAELens writes a number per feature into one."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _csv_text(rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _unquoted(word: str) -> str:
    try:
        return "".join(shlex.split(word))
    except ValueError:  # a quote that is never closed
        return word
