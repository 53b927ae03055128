"""Keeps two runs from writing to one folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from sae_lens_groups.errors import OutputFolderError


@contextlib.contextmanager
def only_writer(folder: Path | str | None, setting: str = "output_path") -> Iterator[None]:
    """Holds a folder for the block; the operating system lets go of it if the process dies.

    Does nothing for None.

    Raises:
        OutputFolderError: another run holds it, or nothing can be written beside it.
    """
    if folder is None:
        yield
        return
    folder = Path(folder).resolve()
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
        raise OutputFolderError(
            f"{setting} {str(folder)!r} cannot be written: {error.strerror or error}; name a "
            "folder that you may write to"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # while it is held: who opens it later makes a new one
            path.unlink()
        lock.release()
