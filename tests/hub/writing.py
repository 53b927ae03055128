"""Requests that change a repository: commits, branches, tags and pull requests."""

import base64
import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

from .card import card_errors
from .refusals import RefusedError, no_entry
from .repository import MAIN, Commit, File, Mode, Repository, goes_to_lfs
from .tokens import require_write
from .traffic import Answer, Call, json_answer


def preupload(repository: Repository, revision: str, mode: Mode, call: Call) -> Answer:
    """Says of files to come where they go, and which content the Hub has of them."""
    require_write(repository, call.token, pull_request=_to_pull_request(revision, call))
    commit = repository.at(revision)
    wanted = call.json()
    ignored = _ignored_patterns(commit, wanted)
    files = []
    for file in wanted["files"]:
        path = file["path"]
        answer = {
            "path": path,
            "uploadMode": "lfs" if goes_to_lfs(path, mode) else "regular",
            "shouldIgnore": any(_matches(path, pattern) for pattern in ignored),
        }
        if path in commit.files:
            answer["oid"] = commit.files[path].oid
        files.append(answer)
    return json_answer({"files": files, "commitOid": commit.id})


def commit(repository: Repository, revision: str, endpoint: str, call: Call) -> Answer:
    """Adds a commit to a branch, or to a new pull request: all of its changes or none."""
    create_pr = call.query.get("create_pr") == "1"
    token = require_write(repository, call.token, pull_request=_to_pull_request(revision, call))
    lines = [json.loads(line) for line in call.body.splitlines() if line.strip()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    parent = _parent(repository, revision, header.get("parentCommit"), create_pr=create_pr)
    made = Commit(
        parent=parent.id,
        files=_changed(repository, parent.files, lines),
        title=header["summary"],
        description=header.get("description", ""),
        author=token.user,
    )
    url = f"{endpoint}/{repository.id}"
    content = {"success": True, "commitOid": made.id, "commitUrl": f"{url}/commit/{made.id}"}
    ref = MAIN if create_pr else repository.branch(revision)
    if create_pr:
        number = repository.open_pull_request(made.title, token.user, parent).number
        ref = f"refs/pr/{number}"
        content["pullRequestUrl"] = f"{url}/discussions/{number}"
    repository.add(ref, made)
    return json_answer(content)


def open_pull_request(repository: Repository, call: Call) -> Answer:
    """What `create_pull_request` asks for: a pull request that commits can be sent to."""
    token = require_write(repository, call.token, pull_request=True)
    wanted = call.json()
    if not wanted.get("pullRequest"):
        raise RefusedError(400, "this Hub has no discussions, only pull requests")
    base = repository.at(MAIN)
    pull_request = repository.open_pull_request(wanted["title"], token.user, base)
    return json_answer({"num": pull_request.number})


def create_branch(repository: Repository, branch: str, call: Call) -> Answer:
    """A new branch, from main or from where the call says."""
    if branch.startswith("refs/"):
        require_write(repository, call.token)
        raise RefusedError(400, f"Invalid branch name: {branch}")
    return _new_ref(repository, f"refs/heads/{branch}", call.json().get("startingPoint"), call)


def create_tag(repository: Repository, revision: str, call: Call) -> Answer:
    """A new tag on a revision."""
    return _new_ref(repository, f"refs/tags/{call.json()['tag']}", revision, call)


def delete_ref(repository: Repository, ref: str, call: Call) -> Answer:
    """Removes a branch other than main, or a tag."""
    require_write(repository, call.token)
    if ref == MAIN:
        raise RefusedError(403, "Cannot delete the default branch")
    repository.at(ref)
    del repository.refs[ref]
    return json_answer({})


def change_settings(repository: Repository, call: Call) -> Answer:
    """What `update_repo_settings` changes: here only who sees the repository."""
    require_write(repository, call.token)
    wanted = call.json()
    if "private" in wanted or "visibility" in wanted:
        repository.private = wants_private(wanted)
    return json_answer({"private": repository.private})


def wants_private(wanted: Mapping[str, Any]) -> bool:
    """Clients up to 1.x send `private`, later ones `visibility`."""
    return bool(wanted.get("private")) or wanted.get("visibility") == "private"


def _to_pull_request(revision: str, call: Call) -> bool:
    return call.query.get("create_pr") == "1" or revision.startswith("refs/pr/")


def _parent(repository: Repository, revision: str, named: str | None, *, create_pr: bool) -> Commit:
    head = repository.at(revision)
    if named is None or head.id.startswith(named):
        return head
    if create_pr:
        return repository.at(named)
    raise RefusedError(412, "A commit has happened since. Please refresh and try again.")


def _changed(
    repository: Repository, before: Mapping[str, File], lines: Sequence[Mapping[str, Any]]
) -> dict[str, File]:
    """The files after a commit, in order of their paths."""
    files = dict(before)
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = _regular_file(value)
        elif line["key"] == "lfsFile":
            files[value["path"]] = _lfs_file(repository, value)
        elif line["key"] == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise no_entry("A file with this name doesn't exist")
        elif line["key"] == "deletedFolder":
            _delete_folder(files, value["path"].rstrip("/") + "/")
        elif line["key"] != "header":
            raise RefusedError(400, f"Unknown change: {line['key']}")
    return dict(sorted(files.items()))


def _regular_file(value: Mapping[str, str]) -> File:
    content = base64.b64decode(value["content"])
    if value["path"] == "README.md":
        errors = card_errors(content.decode(errors="replace"))
        if errors:
            raise RefusedError(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
    return File(content)


def _lfs_file(repository: Repository, value: Mapping[str, str]) -> File:
    if value["oid"] not in repository.lfs_objects:
        raise RefusedError(
            400,
            "Your push was rejected because an LFS pointer pointed to a file that does not exist. "
            f"Offending file: - {value['path']}",
        )
    return File(repository.lfs_objects[value["oid"]], is_lfs=True)


def _delete_folder(files: dict[str, File], prefix: str) -> None:
    inside = [path for path in files if path.startswith(prefix)]
    if not inside:
        raise no_entry("A folder with this name doesn't exist")
    for path in inside:
        del files[path]


def _new_ref(repository: Repository, ref: str, start: str | None, call: Call) -> Answer:
    require_write(repository, call.token)
    commit_id = repository.at(start or MAIN).id
    if ref in repository.refs:
        raise RefusedError(409, f"Reference already exists: {ref}")
    repository.refs[ref] = commit_id
    return json_answer({})


def _ignored_patterns(commit: Commit, wanted: Mapping[str, Any]) -> list[str]:
    """Of the .gitignore that is on its way, or of the one that is there."""
    text = wanted.get("gitIgnore")
    if text is None and ".gitignore" in commit.files:
        text = commit.files[".gitignore"].content.decode()
    lines = (line.strip().rstrip("/") for line in (text or "").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _matches(path: str, pattern: str) -> bool:
    """The plain half of .gitignore: a pattern for any part of a path, or for all of it."""
    return fnmatch(path, pattern) or any(fnmatch(part, pattern) for part in path.split("/"))
