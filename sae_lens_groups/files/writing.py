"""Writes folders and texts whole: each is complete or absent."""

import contextlib
import csv
import glob
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sae_lens_groups.errors import OutputFolderError, quoted
from sae_lens_groups.files.names import CACHE, PLAN, SUITE, SWEEP
from sae_lens_groups.files.reading import expanded


def partial_name(name: str) -> str:
    """The name of a folder while it is being written."""
    return f".{name}.partial"


def require_free(folder: Path | str, setting: str = "output_path") -> None:
    """Refuses an output folder that already holds something; `setting` is what names it."""
    folder = expanded(folder)
    try:
        folder.stat()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise OutputFolderError(
            f"{setting} {quoted(str(folder))} cannot be used: {error}; name another {setting}"
        ) from error
    if folder.is_mount():  # a finished folder could not take its place
        raise OutputFolderError(
            f"{setting} {str(folder)!r} is where a disk is mounted; name a folder inside it"
        )
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if not folder.is_dir():
        raise OutputFolderError(
            f"{setting} {str(folder)!r} is a file, which is never overwritten; name a folder"
        )
    known = {
        SUITE: "a finished suite, which is",
        CACHE: "cached activations, which are",
        SWEEP: "a sweep, which is",
        PLAN: "a plan, which is",
    }
    what = next((what for name, what in known.items() if (folder / name).exists()), None)
    raise OutputFolderError(
        f"{setting} {str(folder)!r} already holds {what or 'other files, which are'} never "
        f"overwritten; name another {setting}, or remove what it holds yourself"
    )


def require_writable(folder: Path | str, setting: str = "output_path") -> None:
    """Refuses a folder that cannot be made or filled, and leaves nothing behind."""
    folder = expanded(folder).absolute()
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise _unwritable(folder, setting, error) from error


def _unwritable(folder: Path, setting: str, error: OSError) -> OutputFolderError:
    return OutputFolderError(
        f"{setting} {str(folder)!r} cannot be written: {error.strerror or error}; name a "
        "folder that you may write to"
    )


def free_folder(folder: Path | str) -> Path:
    """The folder itself, or where it holds something by now, `<folder>-2` and so on."""
    folder = Path(folder)
    for candidate in chain([folder], (folder.with_name(f"{folder.name}-{n}") for n in count(2))):
        try:
            require_free(candidate)
        except OutputFolderError:
            if not candidate.exists():  # and no other one of this name could be looked at either
                raise
            continue
        return candidate
    raise AssertionError("count never ends")


@contextlib.contextmanager
def new_folder(folder: Path | str, setting: str = "output_path") -> Iterator[Path]:
    """A folder to fill, which appears under its name when the block ends without an error.

    Raises:
        OutputFolderError: the folder already holds something.
    """
    folder = expanded(folder).resolve()  # a link to an empty folder: fill the folder
    require_free(folder, setting)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _partial_folder(folder) as partial:
        yield partial
        finish_folder(partial, folder)


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes the old one's place when the block ends without an error."""
    with _partial_folder(folder) as partial:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        finish_folder(partial, folder)


@contextlib.contextmanager
def _partial_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside the one it is to become; removed unless it was renamed."""
    partial = Path(
        tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent)
    )
    try:
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes folders that only their owner can read
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def finish_folder(partial: Path, folder: Path) -> None:
    """Gives a filled folder its name. What appears is whole also after the power fails."""
    for path in [*partial.rglob("*"), partial]:
        if not path.is_symlink():
            _sync(path)
    partial.rename(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    """Waits until a file, or a folder's list of files, is on the disk."""
    is_windows = os.name == "nt"
    if path.is_dir() and is_windows:  # which opens no folders
        return
    # Windows brings only files to the disk that may be written to; others may be read-only.
    descriptor = os.open(path, os.O_RDWR if is_windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Rows by column name as CSV; a column that some rows lack stays empty there.

    `columns` are there even without a row.
    """
    rows = list(rows)
    columns = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def json_text(content: Any) -> str:
    """JSON as our files have it."""
    return json.dumps(content, indent=2) + "\n"


def write_text(path: Path, text: str) -> None:
    """Replaces a file at once; readers see the old text or the new."""
    partial = path.with_name(partial_name(path.name))
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


@contextlib.contextmanager
def only_writer(folder: Path | str | None, setting: str = "output_path") -> Iterator[None]:
    """Holds a folder for the block; the operating system lets go of it if the process dies.

    What a process that died left half written of it is removed. Does nothing for None.

    Raises:
        OutputFolderError: another run holds it, or nothing can be written beside it.
    """
    if folder is None:
        yield
        return
    folder = expanded(folder).resolve()
    path = folder.with_name(f".{folder.name}.lock")
    lock = FileLock(path, blocking=False)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise OutputFolderError(
            f"another run is writing to {setting} {str(folder)!r}; wait for it, or name another "
            f"{setting}"
        ) from None
    except OSError as error:
        raise _unwritable(folder, setting, error) from error
    try:
        for killed in folder.parent.glob(f".{glob.escape(folder.name)}.????????.partial"):
            shutil.rmtree(killed, ignore_errors=True)  # nobody writes it any more
        yield
    finally:
        with contextlib.suppress(OSError):  # while it is held: who opens it later makes a new one
            path.unlink()
        lock.release()
