"""A folder of SAEs, which may come from anywhere: what is read of it is checked first."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

from sae_lens_groups.errors import SuiteError
from sae_lens_groups.files.checksums import Checksums
from sae_lens_groups.files.names import CHECKSUMS, IF_OWN, SUITE, is_covered, is_weights
from sae_lens_groups.files.reading import exists, parse_json

# No settings or curves come near; a text of gigabytes would fill the memory before it is looked at.
_MOST_TEXT_BYTES = 64 * 2**20


def lies_inside(path: Path, folder: Path) -> bool:
    """Whether a file is the folder's own, rather than a link to something else."""
    target, root = path.resolve(), folder.resolve()
    # In the cache of the Hub's client every file of a snapshot is a link to a blob.
    repository = target.parent.parent
    is_blob = target.parent.name == "blobs" and root.is_relative_to(repository / "snapshots")
    return is_blob or target.is_relative_to(root)


class CheckedFolder:
    """A suite's folder, or another one with SAEs in it.

    Every file is checked when it is first read; what cannot be used raises a SuiteError. Where there
    is a `checksums.json`, files have to be the ones that it was written over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checked: set[str] = set()

    def is_suite(self) -> bool:
        """Whether it holds a suite, rather than SAEs that lie side by side.

        Raises:
            SuiteError: it holds one that lost its `suite.json`.
        """
        if exists(self.path / SUITE):
            return True
        try:
            names = Checksums(self.path).names
        except ValueError:  # somebody else's, or none
            return False
        if SUITE in names:
            raise self.unusable(f"{SUITE} is missing; {self._to_do}")
        return False

    def has(self, name: str) -> bool:
        """Whether a file is there, or was when the checksums were written."""
        return os.path.lexists(self.path / name) or self.lists(name)

    def lists(self, name: str) -> bool:
        """Whether a file was there when the checksums were written, and never changes."""
        return name in self._listed and is_covered(name)

    def owns(self, name: str) -> bool:
        """Whether a file is there, rather than a link that leads out of the folder; weights may."""
        path = self.path / name
        return path.is_file() and (is_weights(name) or lies_inside(path, self.path))

    def has_folder(self, name: str) -> bool:
        """Whether there is such a folder inside."""
        try:
            return (self.path / name).is_dir()
        except OSError:  # no folder can have that name
            return False

    def has_any_in(self, folder: str) -> bool:
        """Whether there is such a folder inside, or was when the checksums were written."""
        return self.has_folder(folder) or any(
            name.startswith(f"{folder}/") for name in self._listed
        )

    def file(self, name: str) -> Path:
        """Where a file lies, once it is found to be whole and the suite's own.

        Raises:
            SuiteError: it is missing, was altered, or is a link that leads out of the suite.
        """
        if name not in self._checked:
            try:
                self._check(name)
            except (OSError, ValueError) as error:
                raise self._as_unusable(name, error) from error
            self._checked.add(name)
        return self.path / name

    def text(self, name: str) -> str:
        """What a text file says."""
        path = self.file(name)
        try:
            self._require_small(name)
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise self._as_unusable(name, error) from error

    def json(self, name: str) -> dict[str, Any]:
        """What a JSON file says."""
        try:
            content = parse_json(self.text(name))
        except ValueError as error:
            raise self._as_unusable(name, error) from error
        if not isinstance(content, dict):
            raise self.unusable(f"{name} holds {type(content).__name__}, no object; {self._to_do}")
        return content

    def unusable(self, why: str) -> SuiteError:
        """The error that says what is wrong with a file of this folder."""
        return SuiteError(f"{str(self.path)!r} cannot be used: {why}")

    @property
    def _to_do(self) -> str:
        if self.path.parent.name == "snapshots":  # the Hub's client would take what is there
            return f"delete {str(self.path.parent.parent)!r}, and download it again"
        return "copy or download the suite again"

    def _as_unusable(self, name: str, error: Exception) -> SuiteError:
        if isinstance(error, SuiteError):
            return error
        if name == CHECKSUMS:
            return self.unusable(f"{error}; {self._to_do}{IF_OWN}")
        return self.unusable(f"{name} cannot be read: {error}; {self._to_do}")

    @cached_property
    def checksums(self) -> Checksums | None:
        """What the files were when they were written; None for SAEs that came without checksums."""
        # Beside SAEs that lie side by side, a file of that name is somebody else's.
        is_theirs = not (self.path / SUITE).is_file()
        if is_theirs or not os.path.lexists(self.path / CHECKSUMS):
            return None
        try:
            self._require_small(CHECKSUMS)
            found = Checksums(self.path)
        except (OSError, ValueError) as error:
            raise self._as_unusable(CHECKSUMS, error) from error
        self._require_inside(CHECKSUMS)
        return found

    @property
    def _listed(self) -> set[str]:
        return set() if self.checksums is None else self.checksums.names

    def _check(self, name: str) -> None:
        if not (self.path / name).is_file():
            raise self.unusable(f"{name} is missing; {self._to_do}")
        if self.checksums is not None and is_covered(name):
            damage = self.checksums.damage([name])
            if damage is not None:
                raise self.unusable(f"{damage}; {self._to_do}{IF_OWN}")
        if not is_weights(name):  # which may lie on another disk
            self._require_inside(name)

    def _require_small(self, name: str) -> None:
        size = (self.path / name).stat().st_size
        if size > _MOST_TEXT_BYTES:
            raise self.unusable(
                f"{name} is {size:,} bytes long, too long for such a file; {self._to_do}"
            )

    def _require_inside(self, name: str) -> None:
        if not lies_inside(self.path / name, self.path):
            raise self.unusable(
                f"{name} is a link that leads out of it; copy the suite with its files (cp -rL)"
            )


def suite_around(folder: Path) -> tuple[CheckedFolder, str]:
    """The suite that a folder is a part of, and the folder's name in it.

    The folder itself, and `.`, where it is no part of one.
    """
    whole = folder.absolute()
    for parent in (whole.parent, whole.parent.parent):
        suite, name = CheckedFolder(parent), whole.relative_to(parent).as_posix()
        if suite.checksums is not None and suite.has_any_in(name):
            return suite, name
    return CheckedFolder(folder), "."
