"""Which request means what."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from . import account, lfs, reading, writing, xet
from .refusals import RefusedError
from .repository import Repository
from .tokens import require_sight
from .traffic import Answer, Call

if TYPE_CHECKING:
    from .server import Hub

Kind = Literal[
    "whoami",
    "create_repo",
    "delete_repo",
    "settings",
    "validate_yaml",
    "info",
    "tree",
    "paths_info",
    "refs",
    "commits",
    "branch",
    "tag",
    "pull_request",
    "preupload",
    "commit",
    "lfs_batch",
    "lfs_upload",
    "lfs_verify",
    "file_info",
    "download",
    "other",
]
"""What a request asks for. `file_info` is the HEAD that goes before a `download`."""

Handler = Callable[[Call], Answer]
Route = tuple[Kind, Handler]


def route(server: "Hub", method: str, parts: Sequence[str]) -> Route:
    """The kind of a request by the parts of its path, and what answers it."""
    match method, *parts:
        case "GET", "api", "whoami-v2":
            return "whoami", account.whoami
        case "POST", "api", "validate-yaml":
            return "validate_yaml", account.validate_yaml
        case "POST", "api", "repos", "create":
            return "create_repo", lambda call: account.create_repository(server, call)
        case "DELETE", "api", "repos", "delete":
            return "delete_repo", lambda call: account.delete_repository(server, call)
        case _, "api", "models", owner, name, *rest:
            return _model_route(server, f"{owner}/{name}", method, rest)
        case "GET" | "HEAD", owner, name, "resolve", revision, *path:
            on = _on(server, f"{owner}/{name}")
            kind = "download" if method == "GET" else "file_info"
            return kind, on(lambda r, c: reading.download(r, revision, "/".join(path), c))
        case _:
            return _lfs_route(server, method, parts)


def _model_route(server: "Hub", repo_id: str, method: str, rest: Sequence[str]) -> Route:
    on, endpoint, mode = _on(server, repo_id), server.endpoint, server.mode
    match method, *rest:
        case ("GET",):
            return "info", on(lambda r, c: reading.info(r, "main", c))
        case "GET", "revision", revision:
            return "info", on(lambda r, c: reading.info(r, revision, c))
        case "GET", "tree", revision, *path:
            return "tree", on(lambda r, c: reading.tree(r, revision, "/".join(path), c))
        case "POST", "paths-info", revision:
            return "paths_info", on(lambda r, c: reading.paths_info(r, revision, c))
        case "GET", "refs":
            return "refs", on(reading.refs)
        case "GET", "commits", revision:
            return "commits", on(lambda r, _: reading.commits(r, revision))
        case "POST", "preupload", revision:
            return "preupload", on(lambda r, c: writing.preupload(r, revision, mode, c))
        case "POST", "commit", revision:
            return "commit", on(lambda r, c: writing.commit(r, revision, endpoint, c))
        case "POST", "branch", branch:
            return "branch", on(lambda r, c: writing.create_branch(r, branch, c))
        case "DELETE", "branch", branch:
            return "branch", on(lambda r, c: writing.delete_ref(r, f"refs/heads/{branch}", c))
        case "POST", "tag", revision:
            return "tag", on(lambda r, c: writing.create_tag(r, revision, c))
        case "DELETE", "tag", tag:
            return "tag", on(lambda r, c: writing.delete_ref(r, f"refs/tags/{tag}", c))
        case "POST", "discussions":
            return "pull_request", on(writing.open_pull_request)
        case "GET", "discussions", number:
            return "pull_request", on(lambda r, _: reading.discussion(r, number))
        case "PUT", "settings":
            return "settings", on(writing.change_settings)
        case _, "xet-write-token" | "xet-read-token", *_:
            return "other", lambda call: xet.token(server.xet_store, call)
        case _:
            return "other", _unknown


def _lfs_route(server: "Hub", method: str, parts: Sequence[str]) -> Route:
    match method, *parts:
        case "POST", owner, name, "info", "lfs", "objects", "batch":
            on = _on(server, f"{owner}/{name.removesuffix('.git')}")
            return "lfs_batch", on(lambda r, c: lfs.batch(r, server.endpoint, server.grants, c))
        case "POST", owner, name, "info", "lfs", "objects", "verify":
            return "lfs_verify", _on(server, f"{owner}/{name.removesuffix('.git')}")(lfs.verify)
        case "PUT", "lfs", secret:
            return "lfs_upload", lambda call: lfs.upload(secret, server.grants, call)
        case _:
            return "other", _unknown


def _on(server: "Hub", repo_id: str) -> Callable[[Callable[[Repository, Call], Answer]], Handler]:
    """Makes a handler of what takes a repository, which has to be there and in sight."""

    def on(answer: Callable[[Repository, Call], Answer]) -> Handler:
        def handle(call: Call) -> Answer:
            repository = require_sight(server.repositories.get(repo_id), call.token)
            return answer(repository, call)

        return handle

    return on


def _unknown(_: Call) -> Answer:
    raise RefusedError(404, "this Hub does not know this request")
