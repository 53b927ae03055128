"""Names of files and folders, and how they are written: complete or not at all."""

import contextlib
import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from sae_lens_groups.errors import OutputFolderError
from sae_lens_groups.quote import quoted

SUITE = "suite.json"
GROUPS = "groups"
PLAN = "plan.json"
PLAN_PAGE = "plan.html"
PLAN_PICTURE = "plan.png"
EVALUATION = "evaluation.csv"
EVALUATION_FOLDER = "evaluation"
FEATURE_LAYERS = "feature_layers.csv"
MISSED_FEATURES = "missed_features.csv"
FAITHFULNESS = "faithfulness.csv"
REPORT = "report.html"
CARD = "README.md"
CURVES = "training_curves.csv"
TRANSFER = "transfer.json"
CACHE = "cached_activations.json"
CHECKSUMS = "checksums.json"
CHECKPOINT = "checkpoint.json"
# SAELens's names, written out because importing SAELens takes seconds.
RUNNER_CFG = "runner_cfg.json"
SCALER = "activation_scaler.json"
TRAINER_STATE = "trainer_state.pt"
SHUFFLE_BUFFER = "shuffle_buffer.safetensors"
STEP_STATE = "step_state.safetensors"
LAYER_STATISTICS = "layer_statistics.safetensors"
WHITENING = "activation_whitening.safetensors"
ALIGNMENT = "alignment.safetensors"


def layer_scaler_folder(layer: int) -> str:
    """Where a checkpoint keeps one layer's scaler, inside its group's folder."""
    return f"layer_{layer}"


def partial_name(name: str) -> str:
    """The name of a folder while it is being written."""
    return f".{name}.partial"


def require_free(folder: Path | str, setting: str = "output_path") -> None:
    """Refuses an output folder that already holds something; `setting` is what names it.

    Raises:
        OutputFolderError: the folder is not empty, is a file, or cannot be one of this name.
    """
    folder = Path(folder)
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
    known = {SUITE: "a suite of another run", CACHE: "cached activations"}
    what = next((what for name, what in known.items() if (folder / name).exists()), "other files")
    raise OutputFolderError(
        f"{setting} {str(folder)!r} already holds {what}, which is never overwritten; "
        f"name another {setting}, or remove it yourself"
    )


def free_folder(folder: Path | str) -> Path:
    """The folder itself, or where it holds something by now, `<folder>-2` and so on."""
    folder = Path(folder)
    for candidate in chain([folder], (folder.with_name(f"{folder.name}-{n}") for n in count(2))):
        try:
            require_free(candidate)
        except OutputFolderError:
            continue
        return candidate
    raise AssertionError("count never ends")


@contextlib.contextmanager
def new_folder(folder: Path | str, setting: str = "output_path") -> Iterator[Path]:
    """A folder to fill, which appears under its name when the block ends without an error.

    Raises:
        OutputFolderError: the folder already holds something.
    """
    folder = Path(folder).resolve()  # a link to an empty folder: fill the folder
    require_free(folder, setting)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _partial_folder(folder) as partial:
        yield partial
        publish_folder(partial, folder)


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes the old one's place when the block ends without an error."""
    with _partial_folder(folder) as partial:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        publish_folder(partial, folder)


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


def publish_folder(partial: Path, folder: Path) -> None:
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


def parse_json(text: str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is none, or one that Python cannot read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def write_text(path: Path, text: str) -> None:
    """Replaces a file at once; readers see the old text or the new."""
    partial = path.with_name(partial_name(path.name))
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
