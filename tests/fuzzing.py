"""What the fuzz tests share: how many examples, and how valid content is damaged.

`FUZZ_EXAMPLES=2000 pytest tests/test_fuzz*.py` tries as many, others in every run and by
`--hypothesis-seed`; without it the tests try a few, the same in every run.
"""

import copy
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

Place = tuple[Any, ...]
"""The keys and indexes that lead to a value inside JSON content."""


def fuzzed(n_examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Settings of a fuzz test that tries `n_examples` where the environment asks for no more."""
    asked_for = os.environ.get("FUZZ_EXAMPLES")
    return settings(
        max_examples=int(asked_for or n_examples),
        derandomize=asked_for is None,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
    )


# What a text that holds it is nested by, which Python's own lists could not be printed with.
_DEEP = "@nested as deep as no reader goes@"
_PATHS = [
    "../..",
    "/etc",
    "..\\..",
    "C:x",
    "a/b",
    "~",
    "~no-such-user/x.json",
    "nul\0.json",
    "\ud800",
]

numbers = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([0, 1, -1, 2**31, 2**63, 2**64, 10**30, 10**400, 1e300, 0.5, -0.0]),
    st.floats(),
)
texts = st.one_of(st.text(max_size=12), st.sampled_from(["", "x" * 300, *_PATHS]))
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
junk = st.one_of(
    scalars,
    st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)
        ),
        max_leaves=6,
    ),
    st.just(_DEEP),
)


def places(content: Any, before: Place = ()) -> Iterator[Place]:
    """Where the values inside JSON content lie, itself included."""
    yield before
    if isinstance(content, dict):
        inner = content.items()
    elif isinstance(content, list):
        inner = enumerate(content)
    else:
        return
    for key, value in inner:
        yield from places(value, (*before, key))


def value_at(content: Any, place: Place) -> Any:
    """The value at a place."""
    for key in place:
        content = content[key]
    return content


@st.composite
def damaged(draw: st.DrawFn, content: Any) -> Any:
    """The content with one to three of its values replaced, removed, moved or added to."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        *where, last = draw(st.sampled_from([p for p in places(content) if p] or [(None,)]))
        if last is None:
            return draw(junk)
        _damage(draw, content, value_at(content, tuple(where)), last)
    return content


def _damage(draw: st.DrawFn, content: Any, parent: Any, key: Any) -> None:
    how = draw(st.sampled_from(["replace", "change", "remove", "move", "add"]))
    if how == "remove":
        del parent[key]
    elif how == "move":
        elsewhere = draw(st.sampled_from(list(places(content))))
        parent[key] = copy.deepcopy(value_at(content, elsewhere))
    elif how == "add" and isinstance(parent, list):
        parent.insert(key, draw(junk))
    elif how == "add":
        parent[draw(texts)] = draw(junk)
    else:
        parent[key] = draw(_like(parent[key]) if how == "change" else junk)


def _like(value: Any) -> st.SearchStrategy[Any]:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return st.just(not value)
    if isinstance(value, int | float):
        return numbers
    if isinstance(value, str):
        return st.one_of(texts, st.just(value + "0"), st.just(value[1:]))
    if isinstance(value, list):
        return st.sampled_from([[], value * 2, value[::-1], value[1:]])
    return st.sampled_from([{}, [value], list(value) if isinstance(value, dict) else value])


@st.composite
def damaged_file(draw: st.DrawFn, content: Any) -> bytes:
    """JSON of damaged content; at times cut short or with other bytes in it."""
    depth = draw(st.sampled_from([5, 300, 900, 970, 990, 100_000]))
    text = json.dumps(draw(st.one_of(st.just(content), damaged(content))))
    text = text.replace(json.dumps(_DEEP), "[" * depth + "]" * depth)
    data = bytearray(text.encode())
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(["cut", "insert", "overwrite", "digits"]))
        if how == "cut":
            del data[at:]
        elif how == "digits":
            data[at:at] = b"7" * 5000
        else:
            n_over = 0 if how == "insert" else 1
            data[at : at + n_over] = draw(st.binary(max_size=3))
    return bytes(data)


def message_of(error: BaseException) -> str:
    """An error's message, which has to be there, short enough to read, and for a terminal."""
    message = str(error)
    assert message.strip()
    assert len(message) < 5000
    assert "\0" not in message
    return message
