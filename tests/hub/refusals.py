"""How the Hub says no: status, X-Error-Code and message, which the client makes exceptions of.

Statuses and messages are the Hub's own where its users have quoted them in public.
"""

from collections.abc import Mapping


class RefusedError(Exception):
    """An answer other than success. `code` goes into X-Error-Code, `headers` beside it."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})


def no_credentials(code: str | None = None) -> RefusedError:
    """Nobody is logged in, and this needs somebody."""
    return RefusedError(401, "Invalid username or password.", code)


def no_repository(*, logged_in: bool) -> RefusedError:
    """No such repository, or a private one of somebody else: the Hub does not say which."""
    if logged_in:
        return RefusedError(404, "Repository not found", "RepoNotFound")
    return no_credentials("RepoNotFound")


def no_revision(revision: str) -> RefusedError:
    """No such branch, tag, pull request or commit."""
    return RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def no_entry(message: str, commit_id: str | None = None) -> RefusedError:
    """No such file; with the commit, the client remembers that it has none."""
    headers = {} if commit_id is None else {"X-Repo-Commit": commit_id}
    return RefusedError(404, message, "EntryNotFound", headers)
