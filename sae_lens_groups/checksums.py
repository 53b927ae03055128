"""Sizes and hashes of a folder's files, so that damage is found before anything is read."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sae_lens_groups import files

_FORMAT_VERSION = 1


@dataclass(frozen=True)
class _Entry:
    size: int
    sha256: str


class Checksums:
    """What `checksums.json` says of the files beside it and in the folders inside.

    Raises:
        ValueError: the file is missing, damaged, of a newer format, or names a file outside.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            content = json.loads((folder / files.CHECKSUMS).read_text(encoding="utf-8"))
            self._entries = _entries(content)
        except FileNotFoundError:
            raise ValueError(f"{files.CHECKSUMS} is missing") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{files.CHECKSUMS} is damaged: {error!r}") from error

    @property
    def names(self) -> set[str]:
        """The files that were there, as paths relative to the folder, with slashes."""
        return set(self._entries)

    def damage(self, names: Iterable[str] | None = None) -> str | None:
        """What is wrong with the first damaged file, or None; looks at all where none are named."""
        for name in sorted(self.names if names is None else names):
            if found := self._damage_of(name):
                return found
        return None

    def _damage_of(self, name: str) -> str | None:
        if name not in self._entries:
            return f"{name} is not in {files.CHECKSUMS}"
        path, entry = self.folder / name, self._entries[name]
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != entry.size:
            return f"{name} is {size:,} bytes long in place of {entry.size:,}"
        if _sha256(path) != entry.sha256:
            return f"{name} was altered after it was written"
        return None


def write_checksums(folder: Path) -> None:
    """Writes `checksums.json` over all files in a folder and the folders inside."""
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    entries = {
        name: {"size": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
        for name in names
        if name != files.CHECKSUMS
    }
    content = {"format_version": _FORMAT_VERSION, "files": entries}
    files.write_text(folder / files.CHECKSUMS, json.dumps(content, indent=2) + "\n")


def _entries(content: Mapping[str, Any]) -> dict[str, _Entry]:
    version = content["format_version"]
    if version != _FORMAT_VERSION:
        raise ValueError(
            f"format_version {version!r}, and this version of sae-lens-groups reads "
            f"{_FORMAT_VERSION}; upgrade sae-lens-groups"
        )
    outside = [name for name in content["files"] if not _is_inside(name)]
    if outside:
        raise ValueError(f"it names a file outside of the folder, {outside[0]!r}")
    return {
        name: _Entry(int(entry["size"]), str(entry["sha256"]))
        for name, entry in content["files"].items()
    }


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
