"""What comes in and goes out: a call as the handlers see it, its answer, and the log's entry."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from .tokens import Token


@dataclass(frozen=True)
class Request:
    """A request that was answered or cut off."""

    method: str
    path: str
    """Readable, without the query."""
    kind: str
    """What it asked for, see `Kind`."""
    status: int | None
    """None where the connection was cut before an answer."""
    bytes_received: int
    """Length of the body."""


@dataclass(frozen=True)
class Call:
    """A request as the handlers see it."""

    token: Token | None
    query: Mapping[str, str]
    body: bytes
    range: str | None = None
    """The header of that name."""

    def json(self) -> Any:
        """The body, which is JSON."""
        return json.loads(self.body or b"{}")

    def form(self) -> dict[str, list[str]]:
        """The body, which is a form."""
        return parse_qs(self.body.decode())


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def json_answer(content: Any, status: int = 200) -> Answer:
    """An answer in JSON."""
    body = json.dumps(content).encode()
    return Answer(status, body, {"Content-Type": "application/json; charset=utf-8"})
