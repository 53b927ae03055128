"""The checkpoints of runs on disk: which are whole, which one a run goes on from, which may go."""

import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path

from sae_lens_groups import files
from sae_lens_groups.errors import CheckpointError


class CheckpointFacts(files.Entries):
    """The content of `checkpoint.json`."""

    training_tokens: int
    """That every SAE has been trained on."""
    explained_variance: float
    """The mean over the groups, of the last points of the training curves."""

    @classmethod
    def read(cls, checkpoint: Path) -> "CheckpointFacts | None":
        """The facts of a checkpoint; None where they are damaged."""
        try:
            text = (checkpoint / files.CHECKPOINT).read_text(encoding="utf-8")
            return files.read_entries(cls, text)
        except (OSError, *files.MISREAD):
            return None


def checkpoints_in(run_folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first. Those that are not whole have no name yet."""
    if not run_folder.is_dir():
        return []
    named = (path for path in run_folder.iterdir() if not path.name.startswith("."))
    known = [path for path in named if (path / files.CHECKPOINT).is_file()]
    return sorted(known, key=lambda path: (_tokens_of(path), path.name))


def _tokens_of(checkpoint: Path) -> int:
    if (facts := CheckpointFacts.read(checkpoint)) is not None:
        return facts.training_tokens
    digits = checkpoint.name.removeprefix("final_")  # it is named when it is looked at
    return int(digits) if digits.isdecimal() else -1


def damage_of(checkpoint: Path, names: Iterable[str] | None = None) -> str | None:
    """What is wrong with a checkpoint's files; None where they are as they were written.

    Looks at all files where none are named.
    """
    try:
        return files.Checksums(checkpoint).damage(names)
    except ValueError as error:
        return str(error)


def require_whole(checkpoint: Path) -> None:
    """Refuses a checkpoint that is damaged."""
    damage = damage_of(checkpoint)
    if damage is None:
        return
    n_tokens = _tokens_of(checkpoint)
    others = (path for path in checkpoints_in(checkpoint.parent) if path != checkpoint)
    older = [path for path in others if _tokens_of(path) <= n_tokens]
    hint = f"resume from the one before it, {str(older[-1])!r}" if older else "there is none before"
    raise CheckpointError(
        f"checkpoint {str(checkpoint)!r} is damaged and cannot be resumed: {damage}; {hint}"
    )


def newest_whole(run_folder: Path) -> Path | None:
    """The newest checkpoint of a run that is not damaged, with a warning for each that is."""
    checkpoints = checkpoints_in(run_folder)
    for checkpoint in reversed(checkpoints):
        damage = damage_of(checkpoint)
        if damage is None:
            return checkpoint
        warnings.warn(
            f"checkpoint {str(checkpoint)!r} is damaged: {damage}; the one before it is used",
            stacklevel=2,
        )
    if checkpoints:
        raise CheckpointError(
            f"all {len(checkpoints)} checkpoints in {str(run_folder)!r} are damaged; remove the "
            "folder to start over"
        )
    return None


def remove_old(run_folder: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints of a run and the best."""
    checkpoints = checkpoints_in(run_folder)
    kept = {*checkpoints[-keep:], *best(checkpoints)}
    for checkpoint in checkpoints:
        if checkpoint not in kept:
            remove(checkpoint)


def best(checkpoints: Iterable[Path]) -> list[Path]:
    """The checkpoint with the highest explained variance, if there is one."""
    found = {path: CheckpointFacts.read(path) for path in checkpoints}
    values = {path: facts.explained_variance for path, facts in found.items() if facts is not None}
    return [max(values, key=lambda path: values[path])] if values else []


def remove(checkpoint: Path) -> None:
    """Removes a checkpoint; nothing is ever seen under its name that is not whole."""
    hidden = checkpoint.with_name(files.partial_name(f"{checkpoint.name}.old"))
    shutil.rmtree(hidden, ignore_errors=True)
    checkpoint.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def remove_partial(run_folder: Path) -> None:
    """Removes what a run that was killed left half written."""
    for path in run_folder.glob(files.partial_name("*")):
        shutil.rmtree(path, ignore_errors=True)
