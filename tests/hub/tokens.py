"""Who may see and change what."""

from dataclasses import dataclass
from typing import Literal

from .refusals import RefusedError, no_credentials, no_repository
from .repository import Repository


@dataclass(frozen=True)
class Token:
    """Whose token it is, and what it is good for."""

    user: str
    role: Literal["read", "write"] = "write"
    organizations: tuple[str, ...] = ()

    def owns(self, repo_id: str) -> bool:
        """Whether a repository is the user's or one of the user's organizations'."""
        return repo_id.partition("/")[0] in (self.user, *self.organizations)


def require_sight(repository: Repository | None, token: Token | None) -> Repository:
    """The repository, unless it is not there or hidden."""
    if repository is None or (repository.private and not _owns(token, repository)):
        raise no_repository(logged_in=token is not None)
    return repository


def require_download(repository: Repository, token: Token | None) -> None:
    """Refuses the files of a gated repository to those who do not own it."""
    if repository.gated and not _owns(token, repository):
        message = f"Access to model {repository.id} is restricted."
        raise RefusedError(401 if token is None else 403, message, "GatedRepo")


def require_write(
    repository: Repository, token: Token | None, *, pull_request: bool = False
) -> Token:
    """The token, if it may change the repository, or open a pull request as everyone may."""
    if token is None:
        # Over https the client would know from the URL that this is about a repository.
        raise no_credentials("RepoNotFound")
    if token.role == "read":
        raise RefusedError(403, "Forbidden: you must use a write token to upload to a repository.")
    if not (pull_request or token.owns(repository.id)):
        raise RefusedError(
            403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request"
        )
    return token


def require_namespace(repo_id: str, token: Token | None) -> Token:
    """The token, if it may create and delete repositories of this owner."""
    if token is None:
        raise no_credentials()
    owner = repo_id.partition("/")[0]
    if token.role == "read" or not token.owns(repo_id):
        raise RefusedError(
            403, f'You don\'t have the rights to create a model under the namespace "{owner}"'
        )
    return token


def _owns(token: Token | None, repository: Repository) -> bool:
    return token is not None and token.owns(repository.id)
