"""What a repository on the Hub holds before a suite is published to it."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME

from sae_lens_groups import files
from sae_lens_groups.errors import PublishError, SuiteError
from sae_lens_groups.hub import as_hub_errors
from sae_lens_groups.manifest import SuiteManifest

_SHA256_DIGITS = 64
_OF_A_LAYER = (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME)
_OF_A_SUITE = (files.RUNNER_CFG, files.CURVES, files.EVALUATION, files.REPORT)


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A branch of a repository at one commit, or one that does not exist yet."""

    exists: bool
    """Whether the repository exists."""
    commit: str | None = None
    """None where the repository or the branch does not exist."""
    is_private: bool | None = None
    contents: Mapping[str, str] = field(default_factory=dict)
    """Path -> hash of the content: SHA-256 of a large file, git's of any other."""
    card: str | None = None
    manifest: SuiteManifest | None = None
    """Of the suite that it holds."""

    def require_same_suite(self, repo_id: str, manifest: SuiteManifest) -> None:
        """Refuses a repository that holds another model's suite, or one of another hook.

        Raises:
            PublishError: it does.
        """
        if self.manifest is None:
            return
        theirs, ours = (
            (Path(suite.model_name).name, str(suite.hook_template))
            for suite in (self.manifest, manifest)
        )
        if theirs != ours:
            raise PublishError(
                f"{repo_id!r} holds a suite for {theirs[1]} of {theirs[0]}, and this one is for "
                f"{ours[1]} of {ours[0]}; publish it to a repository of its own"
            )

    def has(self, path: str, content: Path | bytes) -> bool:
        """Whether it holds exactly this content under this path."""
        known = self.contents.get(path)
        if known is None:
            return False
        if isinstance(content, Path) and len(known) == _SHA256_DIGITS:
            with content.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == known
        whole = content.read_bytes() if isinstance(content, Path) else content
        return known in (git_hash(whole), hashlib.sha256(whole).hexdigest())

    def left_over(self, published: Collection[str]) -> list[str]:
        """Files of the suite that it holds which the new one does not have; nobody else's."""
        if self.manifest is None:
            return []
        folders = [f"{files.EVALUATION_FOLDER}/"]
        folders += [f"{files.GROUPS}/{group.name}/" for group in self.manifest.groups]
        own = {f"{name}/{file}" for name in self.manifest.hook_names for file in _OF_A_LAYER}
        own.update(_OF_A_SUITE)
        return sorted(
            path
            for path in self.contents
            if path not in published and (path in own or path.startswith(tuple(folders)))
        )


def read_remote(api: HfApi, repo_id: str, revision: str | None) -> Remote:
    """What is there now.

    Raises:
        HubError: the Hub cannot be reached, or refuses.
        PublishError: the repository holds a suite that cannot be read.
    """
    with as_hub_errors(repo_id):
        try:
            info = api.model_info(repo_id, revision=revision)
        except RevisionNotFoundError:
            return Remote(exists=True, is_private=api.model_info(repo_id).private)
        except RepositoryNotFoundError:
            return Remote(exists=False)
        tree = api.list_repo_tree(repo_id, revision=info.sha, recursive=True)
        contents = {
            file.path: file.blob_id if file.lfs is None else file.lfs.sha256
            for file in tree
            if isinstance(file, RepoFile)
        }
        texts = {
            name: Path(api.hf_hub_download(repo_id, name, revision=info.sha)).read_text("utf-8")
            for name in (files.CARD, files.SUITE)
            if name in contents
        }
    return Remote(
        exists=True,
        commit=info.sha,
        is_private=info.private,
        contents=contents,
        card=texts.get(files.CARD),
        manifest=_manifest(repo_id, texts),
    )


def _manifest(repo_id: str, texts: Mapping[str, str]) -> SuiteManifest | None:
    if files.SUITE not in texts:
        return None
    try:
        return SuiteManifest.from_json(texts[files.SUITE])
    except SuiteError as error:
        raise PublishError(
            f"{repo_id!r} holds a suite that cannot be read, so its files cannot be told from "
            f"others: {error}; publish to another repository, or delete {files.SUITE} there"
        ) from error
