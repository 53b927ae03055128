"""The text of the demo: the Python standard library's own source.

Every Python installation has it, so the demo, the tests and the tutorials need no download.
"""

import sysconfig
import zlib
from pathlib import Path
from typing import Literal

Split = Literal["train", "held_out"]

# Some distributions leave these out, and vendored packages differ between machines.
_EXCLUDED_FOLDERS = frozenset(
    {"__pycache__", "dist-packages", "idle_test", "site-packages", "test", "tests"}
)


def stdlib_files(split: Split) -> list[Path]:
    """The `.py` files of one split, sorted by path; about one file in ten is held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [path.relative_to(root) for path in sorted(root.rglob("*.py"))]
    kept = [path for path in paths if _EXCLUDED_FOLDERS.isdisjoint(path.parts)]
    return [root / path for path in kept if _split_of(path) == split]


def stdlib_texts(split: Split) -> list[str]:
    """The text of every file of one split, one string per file."""
    return [path.read_text(encoding="utf-8", errors="replace") for path in stdlib_files(split)]


def _split_of(relative_path: Path) -> Split:
    # A checksum of the name keeps each file in its split on every machine and Python version.
    return "held_out" if zlib.crc32(relative_path.as_posix().encode()) % 10 == 0 else "train"
