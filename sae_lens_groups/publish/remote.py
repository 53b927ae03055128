"""What a repository on the Hub holds before a suite is published to it."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from huggingface_hub.utils.sha import git_hash
from tqdm.auto import tqdm

from sae_lens_groups import files
from sae_lens_groups.errors import PublishError, SuiteError
from sae_lens_groups.publish.publication import Publication
from sae_lens_groups.saved import SuiteManifest, as_hub_errors, is_of_suite

_SHA256_DIGITS = 64


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A branch of a repository at one commit, or one that does not exist yet."""

    commit: str | None = None
    """The newest; None where the repository does not exist."""
    has_branch: bool = False
    """Whether the branch exists; if not, all this is of main, which it will start from."""
    is_private: bool | None = None
    contents: Mapping[str, str] = field(default_factory=dict)
    """Path -> hash of the content: SHA-256 of a large file, git's of any other."""
    card: str | None = None
    manifest: SuiteManifest | None = None
    """Of the suite that it holds."""

    def require_same_suite(self, publication: Publication) -> None:
        """Refuses a repository that holds another model's suite, or one of another hook."""
        if self.manifest is None:
            return
        theirs, ours = self.manifest, publication.manifest
        # The model had its folder's name in a publication without `base_model`.
        names = {Path(name).name for name in (ours.model_name, publication.own_model_name)}
        is_same_model = Path(theirs.model_name).name in names
        if theirs.hook_template == ours.hook_template and is_same_model:
            return
        raise PublishError(
            f"{publication.repo_id!r} holds a suite for {theirs.hook_template} of "
            f"{theirs.model_name}, and this one is for {ours.hook_template} of {ours.model_name}; "
            "publish it to a repository of its own"
            + ("" if is_same_model else ", or name the same model with base_model")
        )

    def has(self, addition: CommitOperationAdd) -> bool:
        """Whether it holds exactly this content under this path."""
        known = self.contents.get(addition.path_in_repo)
        if known is None or len(known) == _SHA256_DIGITS:
            return known == addition.upload_info.sha256.hex()
        with addition.as_file() as file:
            return git_hash(file.read()) == known

    def left_over(self, published: Collection[str]) -> list[str]:
        """Files of the suite that it holds which the new one does not have; nobody else's."""
        if self.manifest is None:
            return []
        return sorted(
            path
            for path in self.contents
            if path not in published and is_of_suite(path, self.manifest)
        )


def read_remote(api: HfApi, repo_id: str, revision: str | None) -> Remote:
    """What is there now."""
    with as_hub_errors(repo_id):
        has_branch = True
        try:
            info = api.model_info(repo_id, revision=revision)
        except RevisionNotFoundError:
            has_branch, info = False, api.model_info(repo_id)
        except RepositoryNotFoundError:
            return Remote()
        tree = api.list_repo_tree(repo_id, revision=info.sha, recursive=True)
        contents = {
            file.path: file.blob_id if file.lfs is None else file.lfs.sha256
            for file in tree
            if isinstance(file, RepoFile)
        }
        texts = {
            name: Path(api.hf_hub_download(repo_id, name, revision=info.sha)).read_bytes()
            for name in (files.CARD, files.SUITE)
            if name in contents
        }
    return Remote(
        commit=info.sha,
        has_branch=has_branch,
        is_private=info.private,
        contents=contents,
        card=_decoded(repo_id, files.CARD, texts),
        manifest=_manifest(repo_id, _decoded(repo_id, files.SUITE, texts)),
    )


def _decoded(repo_id: str, name: str, contents: Mapping[str, bytes]) -> str | None:
    try:
        return contents[name].decode("utf-8") if name in contents else None
    except UnicodeDecodeError as error:
        raise PublishError(
            f"{name} in {repo_id!r} on the Hub is not written in UTF-8; correct it there, and "
            "publish again"
        ) from error


def _manifest(repo_id: str, text: str | None) -> SuiteManifest | None:
    if text is None:
        return None
    try:
        return SuiteManifest.from_json(text)
    except SuiteError as error:
        raise PublishError(
            f"{repo_id!r} holds a suite that cannot be read, so its files cannot be told from "
            f"others: {error}; publish to another repository, or delete {files.SUITE} there"
        ) from error


def upload_weights(
    send: Callable[[list[CommitOperationAdd]], None], additions: Iterable[CommitOperationAdd]
) -> None:
    """Sends the weights among these files before the commit that names them, with one progress bar.

    The client shares chunks with what the Hub has already, and not between the files of one upload.
    So every layer is an upload, and those of a group are stored once.
    """
    weights = [addition for addition in additions if files.is_weights(addition.path_in_repo)]
    if not weights:
        return
    n_bytes = sum(addition.upload_info.size for addition in weights)
    is_silent = are_progress_bars_disabled()
    bar = tqdm(total=n_bytes, unit="B", unit_scale=True, disable=is_silent)
    disable_progress_bars()  # the client has one for each file
    try:
        for folder, of_folder in groupby(weights, lambda one: one.path_in_repo.rpartition("/")[0]):
            bar.set_description(folder)
            sent = list(of_folder)
            send(sent)
            bar.update(sum(addition.upload_info.size for addition in sent))
    finally:
        bar.close()
        if not is_silent:
            enable_progress_bars()
