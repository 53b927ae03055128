"""Everything that can go wrong for a user: a kind of `GroupSAEError` each, and `TrainingInterrupted`."""

import reprlib
import shlex
import signal
from pathlib import Path


class GroupSAEError(ValueError):
    """A mistake with a message that says what to do next."""


class LayerGroupsError(GroupSAEError):
    """`layer_groups` cannot be read, or does not fit the model."""


class HookNameError(GroupSAEError):
    """A hook name without a layer number, or one that the model does not have."""


class ConfigError(GroupSAEError):
    """Settings that cannot be used together, or not with layer groups."""


class UnknownNameError(GroupSAEError):
    """A metric, partition, alignment, architecture or task that nobody registered."""


class PlanError(GroupSAEError):
    """Layer distances or a plan that are broken, of another model, or asked for the impossible."""


class DatasetError(GroupSAEError):
    """A dataset that is missing, too small, or tokenised for another model."""


class CacheError(GroupSAEError):
    """Cached activations that are missing, broken, made for another run, or do not fit the disk."""


class NonFiniteActivationsError(GroupSAEError):
    """The language model produced NaN or infinite activations."""


class DivergedError(GroupSAEError):
    """A group's loss became NaN or infinite in training."""


class TrainingError(GroupSAEError):
    """The language model or a training step failed: out of memory, a broken device."""


class NormEstimateError(GroupSAEError):
    """A layer whose activations cannot be normalised."""


class InitSourceError(GroupSAEError):
    """`init_from` names nothing usable, or an SAE that does not fit the run."""


class CheckpointError(GroupSAEError):
    """A checkpoint that is missing, broken, or of another run."""


class OutputFolderError(GroupSAEError):
    """An output folder that already holds something."""


class SuiteError(GroupSAEError):
    """A folder that is not a suite, or a broken one."""


class PublishError(GroupSAEError):
    """A suite that cannot be published as it is: incomplete, or with something private in it."""


class HubError(GroupSAEError):
    """The Hugging Face Hub cannot be reached, does not have what is asked for, or refuses."""


class UnknownLayerError(GroupSAEError, KeyError):
    """A suite was asked for a layer that it does not have."""

    def __str__(self) -> str:
        return ValueError.__str__(self)  # KeyError would show the message in quotes


class TrainingInterrupted(KeyboardInterrupt):
    """Training stopped between two steps because of a signal; `checkpoint` holds the progress."""

    def __init__(
        self,
        signal_number: int,
        checkpoint: Path | None = None,
        unsaved: str | None = None,
        resume_from: str | None = None,
    ) -> None:
        self.signal_number = signal_number
        self.checkpoint = checkpoint
        self.resume_from = str(checkpoint) if resume_from is None else resume_from
        """What to give as `resume_from_checkpoint`."""
        self.unsaved = unsaved
        """Why the progress could not be saved, if it could not."""
        super().__init__(signal_number, checkpoint, unsaved, resume_from)

    def __str__(self) -> str:
        name = signal.Signals(self.signal_number).name
        if self.unsaved is not None:
            return f"training stopped by {name}; its progress could not be saved: {self.unsaved}"
        if self.checkpoint is None:
            return (
                f"training stopped by {name}; nothing was saved, because checkpoint_path is None "
                "or no step was complete"
            )
        return (
            f"training stopped by {name}; progress is saved in {self.checkpoint}, "
            f"continue with --resume_from_checkpoint {shlex.quote(self.resume_from)}"
        )


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200


def quoted(value: object) -> str:
    """Its repr, cut short where it is long or nested deeply."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes out no whole number of more than 4,300 digits
        return f"a number too long to write out ({type(value).__name__})"


def counted(n: int, what: str) -> str:
    """`1,200 layers`, or `1 layer`."""
    return f"{n:,} {what}" + "s" * (n != 1)


def first_line(error: BaseException) -> str:
    """What an error says first; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def reason(error: Exception) -> str:
    """Why a file cannot be read, without the kind of the error and the file's name again."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error) if isinstance(error, ValueError) else quoted(error)


def in_one_line(error: BaseException) -> str:
    """The kind of an error of somebody else's, and what it says first."""
    kind, said = type(error).__name__, first_line(error)
    return kind if said == kind else f"{kind}: {said}"
