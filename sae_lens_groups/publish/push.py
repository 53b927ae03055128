"""Puts a suite on the Hugging Face Hub, where plain SAELens loads every layer of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard

from sae_lens_groups import files
from sae_lens_groups._version import __version__
from sae_lens_groups.errors import HubError, PublishError, counted
from sae_lens_groups.publish.publication import Publication, PublishOptions, prepared
from sae_lens_groups.publish.remote import Remote, read_remote, upload_weights
from sae_lens_groups.saved import SuiteManifest, as_hub_errors, require_repo_id


@dataclass(frozen=True)
class Published:
    """Where a suite is to be found."""

    repo_id: str
    url: str
    """The repository's page, or that of the pull request."""
    commit: str
    is_changed: bool
    """False where the repository held exactly this already, so that no commit was made."""
    license: str | None
    """What the card says, whoever wrote it there."""
    base_model: str | None
    """The model's id on the Hub, likewise."""
    n_sent: int = 0
    """Files that were new or changed."""
    n_deleted: int = 0
    """Files of the suite that was there before, which this one does not have."""
    pr_revision: str | None = None
    """The revision of the pull request, if it is one."""


def publish_suite_folder(
    folder: Path, manifest: SuiteManifest, repo_id: str, options: PublishOptions
) -> Published:
    """Publishes the suite in a folder in one commit; see `SAESuite.push_to_hub`."""
    require_repo_id(repo_id)
    api = HfApi(token=options.token, library_name="sae-lens-groups", library_version=__version__)
    publication = prepared(folder, manifest, repo_id, options)
    remote = read_remote(api, repo_id, options.revision)
    remote.require_same_suite(publication)
    _require_visibility(repo_id, remote, options.private)
    if options.create_pr and not remote.has_branch:
        raise HubError(
            f"{repo_id!r} on the Hub: there is nothing yet that a pull request could change; "
            "leave create_pr out"
        )
    contents = publication.with_card(remote.card)
    card = ModelCard(str(contents[files.CARD]), ignore_metadata_errors=True)
    said: dict[str, Any] = {name: card.data.get(name) for name in ("license", "base_model")}
    operations = _changes(contents, remote)
    page = f"{api.endpoint}/{repo_id}"
    if not operations and remote.has_branch:
        assert remote.commit is not None
        return Published(repo_id, page, remote.commit, is_changed=False, **said)
    with as_hub_errors(repo_id):
        _validate(card)
        parent = _start(api, repo_id, remote, options)
        commit = _commit(api, publication, operations, remote, parent)
    return Published(
        repo_id,
        commit.pr_url or page,
        commit.oid,
        is_changed=True,
        **said,
        n_sent=sum(isinstance(change, CommitOperationAdd) for change in operations),
        n_deleted=sum(isinstance(change, CommitOperationDelete) for change in operations),
        pr_revision=commit.pr_revision,
    )


def _require_visibility(repo_id: str, remote: Remote, private: bool | None) -> None:
    if private is None or remote.is_private in (None, private):
        return
    now, wanted = ("private", "public") if remote.is_private else ("public", "private")
    raise PublishError(
        f"{repo_id!r} exists and is {now}, so nothing that is to be {wanted} goes there; make it "
        f"{wanted} in its settings on the Hub, or name another repository"
    )


def _validate(card: ModelCard) -> None:
    """Refuses a card that the Hub would, before anything is made or sent there."""
    try:
        card.validate()
    except ValueError as error:
        raise PublishError(
            f"the Hub does not take the front matter of the card ({error}); name another license, "
            "base_model or dataset_name, or correct the card there"
        ) from error


def _start(api: HfApi, repo_id: str, remote: Remote, options: PublishOptions) -> str:
    """Makes the repository or the branch where it is missing, and gives its newest commit."""
    commit = remote.commit
    # Not exist_ok: what somebody else made in the meantime was not looked at.
    if commit is None:
        api.create_repo(repo_id, private=options.private)
        commit = api.model_info(repo_id).sha
    assert commit is not None
    if options.revision is not None and not remote.has_branch and options.revision != "main":
        api.create_branch(repo_id, branch=options.revision, revision=commit)
    return commit


def _commit(
    api: HfApi,
    publication: Publication,
    operations: list[CommitOperationAdd | CommitOperationDelete],
    remote: Remote,
    parent: str,
) -> CommitInfo:
    repo_id, options = publication.repo_id, publication.options
    upload_weights(
        lambda additions: api.preupload_lfs_files(
            repo_id,
            additions,
            revision=options.revision or "main",
            create_pr=options.create_pr,
            free_memory=False,
        ),
        [change for change in operations if isinstance(change, CommitOperationAdd)],
    )
    return api.create_commit(
        repo_id,
        operations,
        commit_message=_message(publication.manifest, remote),
        revision=options.revision,
        create_pr=options.create_pr,
        # Refused if somebody wrote in between: the card was made from what was there.
        parent_commit=parent,
    )


def _changes(
    contents: Mapping[str, Path | str], remote: Remote
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What makes the repository hold these files; nothing for what it holds already."""
    additions = [
        CommitOperationAdd(path, content if isinstance(content, Path) else content.encode())
        for path, content in sorted(contents.items())
    ]
    return [
        *(addition for addition in additions if not remote.has(addition)),
        *(CommitOperationDelete(path) for path in remote.left_over(contents)),
    ]


def _message(manifest: SuiteManifest, remote: Remote) -> str:
    groups = counted(len(manifest.groups), "group")
    what = f"{counted(len(manifest.layers), 'layer')} in {groups}"
    verb = "Publish" if remote.manifest is None else "Update"
    return f"{verb} SAEs for {what} (sae-lens-groups {__version__})"
