"""Sizes and hashes of a folder's files, so that damage is found before anything is read."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from pydantic import field_validator

from sae_lens_groups.errors import quoted
from sae_lens_groups.files.names import CHECKSUMS
from sae_lens_groups.files.reading import Entries, FileEntries, read_entries, refusing
from sae_lens_groups.files.writing import json_text, write_text


class ChecksumEntry(Entries):
    """What a file was when it was written."""

    size: int
    sha256: str


class _Content(FileEntries):
    files: dict[str, ChecksumEntry]

    @field_validator("files", mode="before")
    @classmethod
    def _require_inside(cls, files: object) -> object:
        outside = (
            [name for name in files if not _is_inside(name)] if isinstance(files, dict) else []
        )
        if outside:
            raise ValueError(f"it names a file outside of the folder, {quoted(outside[0])}")
        return files


class Checksums:
    """What `checksums.json` says of the files beside it and in the folders inside.

    Raises:
        ValueError: the file is missing, damaged, of a newer format, or names a file outside.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / CHECKSUMS
        if not os.path.lexists(path):
            raise ValueError(f"{CHECKSUMS} is missing")
        with refusing(ValueError, f"{CHECKSUMS} is damaged"):
            self._entries = read_entries(_Content, path.read_text(encoding="utf-8")).files

    @property
    def names(self) -> set[str]:
        """The files that were there, as paths relative to the folder, with slashes."""
        return set(self._entries)

    def entry(self, name: str) -> ChecksumEntry | None:
        """What is said of a file; None where it is not named."""
        return self._entries.get(name)

    def damage(self, names: Iterable[str] | None = None) -> str | None:
        """What is wrong with the first damaged file, or None; looks at all where none are named."""
        for name in sorted(self.names if names is None else names):
            if found := self._damage_of(name):
                return found
        return None

    def _damage_of(self, name: str) -> str | None:
        if name not in self._entries:
            return f"{name} is not in {CHECKSUMS}"
        path, entry = self.folder / name, self._entries[name]
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != entry.size:
            return f"{name} is {size:,} bytes long in place of {entry.size:,}"
        if _sha256(path) != entry.sha256:
            return f"{name} was altered after it was written"
        return None


def checksums_in(folder: Path, inside: Iterable[str]) -> dict[str, ChecksumEntry]:
    """Of the files in some of the folders inside, by their paths in the folder."""
    paths = [path for name in inside for path in (folder / name).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): _entry(path, None) for path in paths}


def write_checksums(
    folder: Path,
    is_covered: Callable[[str], bool] = lambda _: True,
    known: Mapping[str, ChecksumEntry] = MappingProxyType({}),
) -> None:
    """Writes `checksums.json` over the files in a folder and the folders inside.

    Args:
        is_covered: says of a path in the folder whether that file is one that never changes.
        known: of files that are there, which saves reading them once more.
    """
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    covered = sorted(name for name in names - {CHECKSUMS} if is_covered(name))
    entries = {name: _entry(folder / name, known.get(name)) for name in covered}
    write_text(folder / CHECKSUMS, _text(entries))


def checksums_text(contents: Mapping[str, Path | str], known: Checksums | None = None) -> str:
    """The text of `checksums.json` over these files: path -> where it lies, or what it says.

    Args:
        known: checksums of the same files, found to be right, which saves reading them once more;
            a text replaces what they say.
    """
    entries = {
        name: _entry(content, None if known is None else known.entry(name))
        for name, content in sorted(contents.items())
        if name != CHECKSUMS
    }
    return _text(entries)


def _text(entries: dict[str, ChecksumEntry]) -> str:
    content = _Content(format_version=_Content.newest_format, files=entries)
    return json_text(content.model_dump())


def _entry(content: Path | str, known: ChecksumEntry | None) -> ChecksumEntry:
    if isinstance(content, Path):
        return known or ChecksumEntry(size=content.stat().st_size, sha256=_sha256(content))
    encoded = content.encode("utf-8")
    return ChecksumEntry(size=len(encoded), sha256=hashlib.sha256(encoded).hexdigest())


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and not {"\\", "\0"} & {*name}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
