"""What a repository holds: commits of whole trees, branches, tags and pull requests."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Literal

from .refusals import RefusedError, no_revision

Mode = Literal["regular", "lfs"]
"""Whether every file is sent within its commit, or large kinds of files go to LFS before it."""

MAIN = "refs/heads/main"
# Of the kinds that the Hub's own .gitattributes names, those that SAEs and models come in.
LFS_PATTERNS = ("*.safetensors", "*.bin", "*.npy", "*.npz", "*.parquet", "*.pkl", "*.pt", "*.pth")


@dataclass(frozen=True)
class File:
    """The content of a file, and whether git holds it or only points to it."""

    content: bytes
    is_lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        """The name of the content in LFS."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git holds of a file in LFS."""
        lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}")
        return "\n".join([*lines, f"size {len(self.content)}\n"]).encode()

    @cached_property
    def blob_id(self) -> str:
        """Git's name of what it holds."""
        blob = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def oid(self) -> str:
        """What the client compares its own file with, and the ETag of a download."""
        return self.sha256 if self.is_lfs else self.blob_id


@dataclass(frozen=True, kw_only=True)
class Commit:
    """All files at one time. The same changes to the same parent give the same id."""

    parent: str | None
    files: Mapping[str, File]
    """By path, in order."""
    title: str
    description: str = ""
    author: str = "system"
    date: datetime = field(default_factory=lambda: datetime.now(UTC))

    @cached_property
    def id(self) -> str:
        """40 hexadecimal digits."""
        text = f"{self.parent}\n{self.title}\n{self.description}\n{tree_id(self.files)}"
        return hashlib.sha1(text.encode()).hexdigest()


@dataclass(frozen=True)
class PullRequest:
    """Who asks for what to be merged; its commits are in `refs/pr/<number>`."""

    number: int
    title: str
    author: str


class Repository:
    """A model repository."""

    id: str
    """`owner/name`."""
    private: bool
    gated: bool
    """Whether everyone sees it, but only its owner may download from it."""
    refs: dict[str, str]
    """Commit ids of `refs/heads/main`, `refs/tags/v1`, `refs/pr/1`, ..."""
    pull_requests: list[PullRequest]
    lfs_objects: dict[str, bytes]
    """What was uploaded, by sha256, whether a commit names it or not."""

    def __init__(
        self, repo_id: str, first: Commit, *, private: bool = False, gated: bool = False
    ) -> None:
        self.id = repo_id
        self.private = private
        self.gated = gated
        self.pull_requests = []
        self.lfs_objects = {file.sha256: file.content for file in lfs_files(first)}
        self._commits = {first.id: first}
        self.refs = {MAIN: first.id}

    @property
    def commits(self) -> list[Commit]:
        """The commits of the branch main, oldest first."""
        return self.history("main")[::-1]

    def history(self, revision: str) -> list[Commit]:
        """The commits that lead to a revision, newest first."""
        history = [self.at(revision)]
        while history[-1].parent is not None:
            history.append(self._commits[history[-1].parent])
        return history

    def contents(self, revision: str = "main") -> dict[str, bytes]:
        """The content of every file, by path."""
        return {path: file.content for path, file in self.at(revision).files.items()}

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag, a whole ref or an id names."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self._commits[self.refs[ref]]
        if revision not in self._commits:
            raise no_revision(revision)
        return self._commits[revision]

    def branch(self, revision: str) -> str:
        """The whole ref that a commit to a revision moves."""
        ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
        if ref in self.refs:
            return ref
        self.at(revision)
        raise RefusedError(400, f"{revision} is no branch")

    def add(self, ref: str, commit: Commit) -> Commit:
        """Makes a commit the head of a ref, which may be new."""
        self._commits[commit.id] = commit
        self.refs[ref] = commit.id
        return commit

    def open_pull_request(self, title: str, author: str, base: Commit) -> PullRequest:
        """A new pull request without commits of its own."""
        pull_request = PullRequest(len(self.pull_requests) + 1, title, author)
        self.pull_requests.append(pull_request)
        self.refs[f"refs/pr/{pull_request.number}"] = base.id
        return pull_request


def first_commit(mode: Mode) -> Commit:
    """What the Hub puts into a new repository: a .gitattributes, as `system`."""
    patterns = LFS_PATTERNS if mode == "lfs" else ()
    text = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in patterns)
    files = {".gitattributes": File(text.encode())}
    return Commit(parent=None, files=files, title="initial commit")


def folder_commit(folder: Path, mode: Mode) -> Commit:
    """The files of a folder, and nothing besides."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    files = {
        name: File(path.read_bytes(), goes_to_lfs(name, mode)) for name, path in zip(names, paths)
    }
    return Commit(parent=None, files=dict(sorted(files.items())), title="initial commit")


def goes_to_lfs(path: str, mode: Mode) -> bool:
    """Whether the Hub wants a file in LFS."""
    name = path.rpartition("/")[2]
    return mode == "lfs" and any(fnmatch(name, pattern) for pattern in LFS_PATTERNS)


def lfs_files(commit: Commit) -> list[File]:
    """The files of a commit that are in LFS."""
    return [file for file in commit.files.values() if file.is_lfs]


def tree_id(files: Mapping[str, File]) -> str:
    """An id that changes with the content of any file. Not git's own."""
    listing = "".join(f"{path}\0{file.blob_id}\n" for path, file in sorted(files.items()))
    return hashlib.sha1(listing.encode()).hexdigest()
