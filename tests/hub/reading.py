"""Requests that change nothing: what a repository holds, and its files."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from .card import card_metadata
from .refusals import RefusedError, no_entry
from .repository import MAIN, Commit, File, Repository, tree_id
from .tokens import require_download
from .traffic import Answer, Call, json_answer

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def info(repository: Repository, revision: str, call: Call) -> Answer:
    """What `model_info` shows."""
    commit = repository.at(revision)
    blobs = call.query.get("blobs", "").lower() == "true"
    metadata = _card_of(commit)
    content = {
        "id": repository.id,
        "modelId": repository.id,
        "author": repository.id.partition("/")[0],
        "sha": commit.id,
        "createdAt": _written(repository.history(MAIN)[-1].date),
        "lastModified": _written(commit.date),
        "private": repository.private,
        "gated": "manual" if repository.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": metadata.get("tags", []),
        "siblings": [_sibling(path, file, blobs) for path, file in commit.files.items()],
        "usedStorage": sum(map(len, repository.lfs_objects.values())),
    }
    if metadata:
        content["cardData"] = metadata
    if "library_name" in metadata:
        content["library_name"] = metadata["library_name"]
    return json_answer(content)


def tree(repository: Repository, revision: str, folder: str, call: Call) -> Answer:
    """What `list_repo_tree` lists, all on one page."""
    files = repository.at(revision).files
    prefix = f"{folder}/" if folder else ""
    inside = {path: file for path, file in files.items() if path.startswith(prefix)}
    if not inside and folder:
        raise no_entry(f'{folder} does not exist on "{revision}"')
    entries = [*map(_folder_entry(files), _folders(inside, prefix)), *_file_entries(inside)]
    if call.query.get("recursive", "").lower() != "true":
        entries = [entry for entry in entries if "/" not in entry["path"][len(prefix) :]]
    return json_answer(sorted(entries, key=lambda entry: entry["path"]))


def paths_info(repository: Repository, revision: str, call: Call) -> Answer:
    """What `get_paths_info` says of some paths; it leaves out those that are not there."""
    files = repository.at(revision).files
    asked = call.form().get("paths", [])
    folders = [path for path in asked if path in _folders(files, "")]
    found = {path: files[path] for path in asked if path in files}
    return json_answer([*map(_folder_entry(files), folders), *_file_entries(found)])


def refs(repository: Repository, call: Call) -> Answer:
    """What `list_repo_refs` lists."""
    content = {
        "branches": _refs(repository, "refs/heads/"),
        "converts": [],
        "tags": _refs(repository, "refs/tags/"),
    }
    if call.query.get("include_prs"):
        content["pullRequests"] = _refs(repository, "refs/pr/")
    return json_answer(content)


def commits(repository: Repository, revision: str) -> Answer:
    """What `list_repo_commits` lists, newest first and all on one page."""
    return json_answer(
        [
            {
                "id": commit.id,
                "title": commit.title,
                "message": commit.description,
                "authors": [{"user": commit.author}],
                "date": _written(commit.date),
            }
            for commit in repository.history(revision)
        ]
    )


def discussion(repository: Repository, number: str) -> Answer:
    """What `get_discussion_details` shows of a pull request."""
    if not number.isdigit() or not 0 < int(number) <= len(repository.pull_requests):
        raise RefusedError(404, "Discussion not found")
    pull_request = repository.pull_requests[int(number) - 1]
    head = repository.at(f"refs/pr/{number}")
    content = {
        "num": pull_request.number,
        "title": pull_request.title,
        "author": {"name": pull_request.author},
        "createdAt": _written(head.date),
        "status": "draft",
        "isPullRequest": True,
        "repo": {"name": repository.id, "type": "model"},
        "changes": {"base": MAIN},
        "filesWithConflicts": [],
        "events": [],
    }
    return json_answer(content)


def download(repository: Repository, revision: str, path: str, call: Call) -> Answer:
    """The content of a file, or the part that is asked for."""
    require_download(repository, call.token)
    commit = repository.at(revision)
    if path not in commit.files:
        raise no_entry("Entry not found", commit.id)
    file = commit.files[path]
    headers = {
        "Content-Type": "application/octet-stream",
        "ETag": f'"{file.oid}"',
        "X-Repo-Commit": commit.id,
        "Accept-Ranges": "bytes",
    }
    if file.is_lfs:  # the Hub itself answers with these and sends the client on to its storage
        headers["X-Linked-Etag"] = f'"{file.oid}"'
        headers["X-Linked-Size"] = str(len(file.content))
    return _part(file.content, call.range, headers)


def _part(content: bytes, asked: str | None, headers: Mapping[str, str]) -> Answer:
    found = _RANGE.fullmatch(asked or "")
    if found is None or not any(found.groups()):
        return Answer(200, content, headers)
    first, last = found.groups()
    start = int(first) if first else max(len(content) - int(last), 0)
    end = min(int(last) + 1, len(content)) if first and last else len(content)
    if start >= end:
        everything = {"Content-Range": f"bytes */{len(content)}"}
        raise RefusedError(416, "Range not satisfiable", headers=everything)
    in_words = f"bytes {start}-{end - 1}/{len(content)}"
    return Answer(206, content[start:end], {**headers, "Content-Range": in_words})


def _sibling(path: str, file: File, blobs: bool) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": path}
    if blobs:
        sibling |= {"blobId": file.blob_id, "size": len(file.content)}
        if file.is_lfs:
            sibling["lfs"] = {
                "sha256": file.sha256,
                "size": len(file.content),
                "pointerSize": len(file.pointer),
            }
    return sibling


def _file_entries(files: Mapping[str, File]) -> list[dict[str, Any]]:
    entries = []
    for path, file in files.items():
        size = len(file.content)
        entry = {"type": "file", "oid": file.blob_id, "size": size, "path": path}
        if file.is_lfs:
            entry["lfs"] = {"oid": file.sha256, "size": size, "pointerSize": len(file.pointer)}
        entries.append(entry)
    return entries


def _folder_entry(files: Mapping[str, File]) -> Any:
    def entry(folder: str) -> dict[str, Any]:
        inside = {path: file for path, file in files.items() if path.startswith(f"{folder}/")}
        return {"type": "directory", "oid": tree_id(inside), "size": 0, "path": folder}

    return entry


def _folders(files: Mapping[str, File], prefix: str) -> list[str]:
    """All folders below a prefix that files are in, at any depth."""
    found = {
        prefix + rest[:end]
        for rest in (path[len(prefix) :] for path in files)
        for end in (i for i, character in enumerate(rest) if character == "/")
    }
    return sorted(found)


def _refs(repository: Repository, prefix: str) -> list[dict[str, str]]:
    return [
        {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": commit_id}
        for ref, commit_id in repository.refs.items()
        if ref.startswith(prefix)
    ]


def _card_of(commit: Commit) -> dict[str, Any]:
    card = commit.files.get("README.md")
    return {} if card is None else card_metadata(card.content.decode(errors="replace"))


def _written(date: datetime) -> str:
    return date.strftime("%Y-%m-%dT%H:%M:%S.") + f"{date.microsecond // 1000:03d}Z"
