"""What a rank tells the others before they go on: an error, or what it wishes for."""

import pickle
from typing import NamedTuple, TypeVar

from sae_lens_groups.errors import TrainingError, in_one_line

_AGREED = "_is_agreed"


class TornError(TrainingError):
    """A run that cannot be saved: groups stand at different steps, or a rank is gone."""

    def said_with(self, more: str) -> TrainingError:
        """The error for a user, who is told more."""
        error = TrainingError(f"{self}; {more}")
        error.__cause__ = self.__cause__
        return agreed(error) if is_agreed(self) else error


class LostError(TornError):
    """What follows from another rank's error, which says more."""


class Wishes(NamedTuple):
    """What a rank wishes for between two LM batches."""

    stop: int = 0
    """The signal that asks for it, or 0."""
    checkpoint: bool = False


_E = TypeVar("_E", bound=BaseException)


def agreed(error: _E) -> _E:
    """The error, as one that every rank raises."""
    setattr(error, _AGREED, True)
    return error


def is_agreed(error: BaseException | None) -> bool:
    """Whether every rank raises it, or raised what led to it."""
    while error is not None:
        if getattr(error, _AGREED, False):
            return True
        error = error.__cause__ or error.__context__
    return False


def portable(error: BaseException) -> BaseException:
    """The error as another process can have it, without what it refers to."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # of whoever wrote its class
        return RuntimeError(in_one_line(error))
    return copy if str(copy) == str(error) else RuntimeError(in_one_line(error))
