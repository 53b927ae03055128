"""What a local path looks like, and what is left of it in public."""

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from sae_lens_groups.files.reading import exists

NAMELESS = "local_folder"
"""Stands for a path without a last name, such as `/` or `~`."""

_USUAL_ROOTS = """
Applications Library Users Volumes afs beegfs ceph cluster content data dbfs efs export fsx gpfs
home kaggle local lustre media mnt net nfs nobackup opt private proc project projects raid root run
scratch share shared srv storage tmp usr var work workspace workspaces
"""
_MARKED = re.compile(
    r"""~[^/\\\s]*[/\\]        # of a home folder
    | \.{1,2}[/\\]
    | [A-Za-z]:[/\\]           # a Windows drive
    | \\\\[^\\\s]              # a Windows share
    | (?i:file:)/""",
    re.VERBOSE,
)
_URL = re.compile(r"[A-Za-z][\w+.-]+://")
_SEPARATORS = re.compile(r"[/\\]+")


@functools.cache
def roots() -> set[str]:
    """The folders at the top that paths begin with: the usual ones, and those of this machine."""
    try:
        here = {entry.name for entry in Path("/").iterdir() if entry.is_dir()}
    except OSError:
        here = set()
    return set(_USUAL_ROOTS.split()) | {name for name in here if re.match(r"\w", name)}


def is_local_path(text: str, *, is_place: bool, bases: Iterable[Path] = (Path(),)) -> bool:
    """Whether a text is, as a whole, a path on somebody's machine, rather than a name on the Hub.

    Args:
        text: a name, a path or anything else.
        is_place: whether it says where something lies, so that it is one even if it is short.
        bases: folders that a relative path may start from.
    """
    text = text.strip()
    if _MARKED.match(text):
        return True
    if _URL.match(text) or "\n" in text:
        return False
    if text.startswith("/"):
        return is_place or re.match(r"/+[\w.~-]+/+[^/]", text) is not None
    if not _SEPARATORS.search(text):
        return is_place and text in ("~", ".", "..")
    if any(exists(base / text) for base in bases):
        return True
    # A name on the Hub has one slash at most, and release:sae_id any number behind the colon.
    return is_place and ":" not in text and ("\\" in text or text.count("/") > 1)


def last_name(path: str) -> str:
    """The last name of a path of any system; `local_folder` where it has none."""
    while (shorter := _shortened(path)) != path:
        path = shorter
    return path


def _shortened(path: str) -> str:
    path = path.strip()
    if path[:5].lower() == "file:":
        path = unquote(path[5:])
    names = [name for name in _SEPARATORS.split(path) if name.strip() not in ("", ".", "..", "~")]
    return names[-1] if names else NAMELESS


# SAELens appends the W&B id, or eight hexadecimal digits (in 6.44, eight letters and digits).
_RUN_ID = re.compile(r"[0-9a-z]{8}")


def without_run_id(checkpoint_path: str | None, wandb_id: str | None) -> str | None:
    """The checkpoint path as the user gave it, without the id that SAELens appended."""
    if checkpoint_path is None:
        return None
    path = Path(checkpoint_path)
    if path.name == wandb_id or _RUN_ID.fullmatch(path.name):
        return str(path.parent)
    return checkpoint_path
