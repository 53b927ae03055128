"""Fetches suites and their parts from the Hub, and says in words what went wrong."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sae_lens_groups.errors import GroupSAEError, HubError, first_line

# The client's own errors and those of connections derive from some of these.
_OF_THIS_MACHINE = (
    OSError,
    PermissionError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
)
_LOG_IN = "log in with `hf auth login`, or pass a token"


@dataclass(frozen=True)
class HubRepo:
    """A model repository on the Hub."""

    repo_id: str
    revision: str | None = None
    token: str | bool | None = None

    def fetch(self, patterns: Sequence[str]) -> Path:
        """A local folder with the files that match one of the patterns, and perhaps more."""
        require_repo_id(self.repo_id)
        with as_hub_errors(self.repo_id):
            return Path(
                snapshot_download(
                    self.repo_id,
                    revision=self.revision,
                    token=self.token,
                    allow_patterns=list(patterns),
                )
            )

    def pinned(self, fetched: Path) -> "HubRepo":
        """The same repository in the state that was fetched, though others may write to it."""
        return replace(self, revision=fetched.name)


def is_repo_id(text: str) -> bool:
    """Whether a text has the form `owner/name`, rather than that of a path."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", text) is not None and not text.startswith(".")


def require_repo_id(repo_id: str) -> None:
    """Refuses what cannot be a repository's name."""
    if not is_repo_id(repo_id):
        raise HubError(
            f"{repo_id!r} is not a repository's name; give owner/name, such as your-name/my-suite"
        )


@contextlib.contextmanager
def as_hub_errors(repo_id: str) -> Iterator[None]:
    """Turns what the client raises into a message that says what to do."""
    try:
        yield
    # What a program does wrong, and not the Hub.
    except (GroupSAEError, MemoryError, TypeError, AttributeError, KeyError, AssertionError):
        raise
    except Exception as error:  # the client raises whatever its transport does
        raise HubError(f"{repo_id!r} on the Hub: {_in_words(error)}") from error


def _in_words(error: Exception) -> str:
    # The narrower classes first: some derive from the later ones.
    if isinstance(error, HFValidationError):
        return f"that is not a repository's name ({first_line(error)}); give owner/name"
    if isinstance(error, GatedRepoError):
        return f"access has to be requested on the repository's page; then {_LOG_IN}"
    if isinstance(error, RepositoryNotFoundError):
        return (
            "there is no such repository, or you may not see it or write to it; check its name, "
            f"and {_LOG_IN}"
        )
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision; name one of its branches, tags or commits"
    if type(error) in _OF_THIS_MACHINE:
        return f"a file on this machine cannot be used ({first_line(error)})"
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        return (
            f"it cannot be reached, and it is not in the cache ({_cause(error)}); check the "
            "network, and that HF_HUB_OFFLINE is not set"
        )
    if isinstance(error, HfHubHTTPError):
        return _status_in_words(error)
    return f"it cannot be reached ({first_line(error)}); check the network, and try again"


def _status_in_words(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    said = f"({error.server_message or first_line(error)})"
    if status in (401, 403):
        return f"you may not do that {said}; {_LOG_IN} that may write there, or use create_pr"
    if status in (409, 412):
        return "somebody else changed it at the same moment; try again"
    if status >= 500 or status == 429:
        return f"it answers with an error of its own {said}; try again later"
    return f"it refuses {said}"


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
