"""Reads JSON with care, and says once what unreadable files raise."""

import contextlib
import json
import math
import pickle
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from safetensors import SafetensorError

from sae_lens_groups.errors import quoted

# What reading content of another shape than expected may raise.
MISREAD = (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
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


def expanded(path: Path | str) -> Path:
    """The path with `~` as a home folder; as it is where nobody has such a home."""
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def did_you_mean(path: Path) -> str:
    """`; did you mean plans/plan.json?` for a path that is not there; nothing where none is like it."""
    if exists(path):
        return ""
    missing = path
    while not exists(missing.parent):
        missing = missing.parent
    with contextlib.suppress(OSError):
        names = [entry.name for entry in missing.parent.iterdir()]
        for name in get_close_matches(missing.name, names):
            if (found := missing.parent / name / path.relative_to(missing)).exists():
                return f"; did you mean {found}?"
    return ""


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
        raise ValueError("it is not JSON that can be read (nested too deeply)") from error
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error})") from error


def require_kinds(data: Mapping[str, Any], kinds: Mapping[str, type | UnionType]) -> None:
    """Refuses entries that are missing or of another kind, and what has no named entries."""
    if not isinstance(data, Mapping):
        raise TypeError(f"{quoted(data)} has no named entries")
    for name, kind in kinds.items():
        value = data[name]
        # Python takes True for a whole number.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"{name} is {quoted(value)}")


class Entries(BaseModel):
    """Entries of a JSON file, each of the kind that it declares. Others, of later versions, are
    left alone.
    """

    # Some entries begin with `model_`, which older versions of pydantic would warn of.
    model_config = ConfigDict(strict=True, frozen=True, protected_namespaces=())


class FileEntries(Entries):
    """The entries of a file that says in which format it is."""

    newest_format: ClassVar[int] = 1
    """What this version writes. It reads this and all that came before."""
    format_version: int

    @field_validator("format_version", mode="before")
    @classmethod
    def _require_known(cls, version: object) -> object:
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise PydanticCustomError("format", "which no version of sae-lens-groups writes")
        if version > cls.newest_format:
            raise PydanticCustomError(
                _NEWER,
                "and this version of sae-lens-groups reads up to {newest}; upgrade sae-lens-groups",
                {"newest": cls.newest_format},
            )
        return version


_NEWER = "newer_format"

Positive = Annotated[float, Field(gt=0, lt=math.inf)]
ENTRIES = TypeVar("ENTRIES", bound=Entries)


def read_entries(kind: type[ENTRIES], content: object) -> ENTRIES:
    """The entries of a JSON file, from its text or from what that says.

    Raises:
        ValueError: the text is not JSON, or an entry is missing or of another kind; `refusing` says
            which.
    """
    return kind.model_validate(parse_json(content) if isinstance(content, str) else content)


@contextlib.contextmanager
def refusing(refused: type[ValueError], what: str, to_do: str = "") -> Iterator[None]:
    """Turns whatever misreading a file raises in the block into one error.

    It says what is wrong with which entry, and what it holds.

    Args:
        refused: the error to raise.
        what: begins its message: the file, and that it cannot be read.
        to_do: ends it, unless the file is of a newer version of this package.
    """
    end = f"; {to_do}" if to_do else ""
    try:
        yield
    except ValidationError as error:
        # A newer format explains all else that is amiss.
        fault = min(error.errors(), key=lambda fault: fault["type"] != _NEWER)
        end = "" if fault["type"] == _NEWER else end
        raise refused(f"{what}: {_said(fault)}{end}") from error
    except (OSError, *MISREAD) as error:
        said = error if isinstance(error, OSError | ValueError) else quoted(error)
        raise refused(f"{what}: {said}{end}") from error


def _said(fault: ErrorDetails) -> str:
    entry = _entry(fault["loc"]) or "it"
    if fault["type"] == "missing":
        return f"{entry} is missing"
    if fault["type"] == "model_type":
        return f"{entry} is {quoted(fault['input'])}, which should be an object with named entries"
    if fault["type"] == "value_error":  # of a check of ours, which quotes what it was given
        return f"{entry}: {fault.get('ctx', {})['error']}"
    what = fault["msg"].replace("Input should", "which should")
    return f"{entry} is {quoted(fault['input'])}, {what}"


def _entry(place: tuple[int | str, ...]) -> str:
    """Where an entry stands, such as `groups[0].layers` or `layers['blocks.0.x'].layer`."""
    return "".join(
        f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{quoted(key)}]"
        for key in place
    ).removeprefix(".")
