"""Puts a suite on the Hugging Face Hub, where plain SAELens loads every layer of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from sae_lens.constants import SAE_WEIGHTS_FILENAME

from sae_lens_groups._version import __version__
from sae_lens_groups.errors import HubError, PublishError
from sae_lens_groups.hub import as_hub_errors, require_repo_id
from sae_lens_groups.manifest import SuiteManifest
from sae_lens_groups.publish.public_values import PublicNames
from sae_lens_groups.publish.publication import prepared
from sae_lens_groups.publish.remote import Remote, read_remote
from sae_lens_groups.suite import SAESuite


@dataclass(frozen=True)
class Published:
    """Where a suite is to be found."""

    repo_id: str
    url: str
    """The repository's page, or that of the pull request."""
    commit: str
    is_changed: bool
    """False where the repository held exactly this already, so that no commit was made."""
    pr_url: str | None = None


def publish_suite(
    suite: SAESuite,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
    base_model: str | None = None,
    dataset_name: str | None = None,
    license: str | None = None,  # noqa: A002  # as the Hub's cards call it
    allow: Collection[str] = (),
) -> Published:
    """Publishes a suite in one commit; see `SAESuite.push_to_hub`."""
    require_repo_id(repo_id)
    names = PublicNames(base_model=base_model, dataset_name=dataset_name)
    api = HfApi(token=token, library_name="sae-lens-groups", library_version=__version__)
    with prepared(
        suite, repo_id, names=names, license=license, revision=revision, allowed=allow
    ) as publication:
        remote = read_remote(api, repo_id, revision)
        remote.require_same_suite(repo_id, publication.manifest)
        _require_visibility(repo_id, remote, private)
        if create_pr and remote.commit is None:
            raise HubError(
                f"{repo_id!r} on the Hub: there is nothing yet that a pull request could change; "
                "leave create_pr out"
            )
        contents = publication.with_card(remote.card)
        operations = _changes(contents, remote)
        if not operations:
            assert remote.commit is not None
            return Published(repo_id, _page(api, repo_id), remote.commit, is_changed=False)
        parent = remote.commit or _created(api, repo_id, remote, private, revision)
        with as_hub_errors(repo_id):
            # In an upload of their own: the client shares chunks with what is stored already, and
            # not between the files of one upload. What follows has the same matrices.
            api.preupload_lfs_files(
                repo_id,
                _first_weights(operations, publication.manifest),
                revision=revision or "main",
                create_pr=create_pr,
                free_memory=False,
            )
            commit = api.create_commit(
                repo_id,
                operations,
                commit_message=_message(publication.manifest, remote),
                revision=revision,
                create_pr=create_pr,
                # Refused if somebody wrote in between: the card was made from what was there.
                parent_commit=parent,
            )
    url = commit.pr_url or _page(api, repo_id)
    return Published(repo_id, url, commit.oid, is_changed=True, pr_url=commit.pr_url)


def _require_visibility(repo_id: str, remote: Remote, private: bool | None) -> None:
    if private and remote.is_private is False:
        raise PublishError(
            f"{repo_id!r} exists and is public, so a private suite cannot go there; make it "
            "private in its settings on the Hub, or name another repository"
        )


def _created(
    api: HfApi, repo_id: str, remote: Remote, private: bool | None, revision: str | None
) -> str:
    """Makes what does not exist yet, and gives the commit that it begins with."""
    with as_hub_errors(repo_id):
        if not remote.exists:
            api.create_repo(repo_id, private=private, exist_ok=True)
        if revision not in (None, "main"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        sha = api.model_info(repo_id, revision=revision).sha
    assert sha is not None
    return sha


def _changes(
    contents: Mapping[str, Path | str], remote: Remote
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What makes the repository hold these files; nothing for what it holds already."""
    raw = {
        path: content if isinstance(content, Path) else content.encode()
        for path, content in contents.items()
    }
    return [
        *(
            CommitOperationAdd(path, content)
            for path, content in sorted(raw.items())
            if not remote.has(path, content)
        ),
        *(CommitOperationDelete(path) for path in remote.left_over(raw)),
    ]


def _first_weights(
    operations: Sequence[CommitOperationAdd | CommitOperationDelete], manifest: SuiteManifest
) -> list[CommitOperationAdd]:
    """The weights of one layer of each group."""
    first_layers = [manifest.hook_template.hook_name(group.first) for group in manifest.groups]
    paths = {f"{hook_name}/{SAE_WEIGHTS_FILENAME}" for hook_name in first_layers}
    return [
        operation
        for operation in operations
        if isinstance(operation, CommitOperationAdd) and operation.path_in_repo in paths
    ]


def _page(api: HfApi, repo_id: str) -> str:
    return f"{api.endpoint}/{repo_id}"


def _message(manifest: SuiteManifest, remote: Remote) -> str:
    what = f"{len(manifest.layers)} layers in {len(manifest.groups)} groups"
    verb = "Publish" if remote.manifest is None else "Update"
    return f"{verb} SAEs for {what} (sae-lens-groups {__version__})"
