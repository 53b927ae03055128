"""Reads JSON with care, and says once what unreadable files raise."""

import contextlib
import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any

from safetensors import SafetensorError

from sae_lens_groups.errors import quoted


def expanded(path: Path | str) -> Path:
    """The path with `~` as a home folder; as it is where nobody has such a home."""
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def exists(path: Path | str) -> bool:
    """Whether there is something; not so where no file can have such a name."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def parse_json(text: str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is none, or one that Python cannot read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


# What reading content of another shape than expected may raise.
MISREAD = (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


def require_kinds(data: Mapping[str, Any], kinds: Mapping[str, type | UnionType]) -> None:
    """Refuses entries that are missing or of another kind, and what has no named entries.

    Raises:
        KeyError, TypeError: name the entry.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"{quoted(data)} has no named entries")
    for name, kind in kinds.items():
        value = data[name]
        # Python takes True for a whole number.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"{name} is {quoted(value)}")


def require_texts(data: Mapping[str, Any]) -> dict[str, str]:
    """The entries, all of them text.

    Raises:
        TypeError: one is not.
    """
    require_kinds(data, {})
    require_kinds(data, dict.fromkeys(data, str))
    return dict(data)


def require_numbers(data: Mapping[str, Any]) -> dict[str, float]:
    """The entries, all of them numbers.

    Raises:
        TypeError: one is not.
    """
    require_kinds(data, {})
    require_kinds(data, dict.fromkeys(data, int | float))
    return dict(data)


def positive_or_none(data: Mapping[str, Any], name: str) -> float | None:
    """A positive number among the entries, or None where it is null.

    Raises:
        KeyError, TypeError, ValueError: it is missing, or something else.
    """
    return None if data[name] is None else positive(data, name)


def positive(data: Mapping[str, Any], name: str) -> float:
    """A positive number among the entries.

    Raises:
        KeyError, TypeError, ValueError: it is missing, or something else.
    """
    require_kinds(data, {name: int | float})
    if not 0 < data[name] < math.inf:
        raise ValueError(f"{name} is {quoted(data[name])}")
    return float(data[name])


UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    SafetensorError,
    pickle.UnpicklingError,
)
