"""Fetches the parts of a suite that are asked for from the Hub."""

from collections.abc import Collection, Iterable
from glob import escape
from pathlib import Path

from sae_lens.constants import (
    ACTIVATION_SCALER_CFG_FILENAME,
    SAE_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    SPARSITY_FILENAME,
)

from sae_lens_groups import files
from sae_lens_groups.errors import SuiteError
from sae_lens_groups.files.folder import CheckedFolder
from sae_lens_groups.saved.hub import HubRepo
from sae_lens_groups.saved.manifest import SuiteManifest, read_manifest
from sae_lens_groups.saved.others import imported_manifest
from sae_lens_groups.saved.sae import find_saes

FACTS = files.fetched_with("facts")
_OF_THE_WHOLE = (*files.fetched_with("groups"), *files.fetched_with("whole"))


def download_suite(repo: HubRepo, layers: Collection[int] | None) -> Path:
    """A local folder with these layers of the suite, or with all of it where they are None.

    Raises:
        HubError: it cannot be had.
        SuiteError: the repository holds no SAELens SAEs, or broken ones.
        UnknownLayerError: it lacks one of the layers.
    """
    repo, manifest = _facts(repo)
    if manifest is None:
        return _download_saes(repo, layers)
    wanted = _hook_names(manifest, layers)
    of_the_whole = _OF_THE_WHOLE if layers is None else ()
    return repo.fetch(
        [*(f"{escape(name)}/*" for name in wanted), *FACTS, files.CURVES, *of_the_whole]
    )


def download_groups(repo: HubRepo) -> Path:
    """A local folder with the SAEs of the suite's groups, without those of its layers.

    SAEs that were trained elsewhere have no groups; of them it has those of all layers.

    Raises:
        HubError: they cannot be had.
        SuiteError: the repository holds no SAELens SAEs, or broken ones.
    """
    repo, manifest = _facts(repo)
    if manifest is None:
        return _download_saes(repo, None)
    if manifest.is_imported:
        return download_suite(repo, None)
    return repo.fetch([f"{files.GROUPS}/*", *FACTS])


def _facts(repo: HubRepo) -> tuple[HubRepo, SuiteManifest | None]:
    """The repository in the state that it is in now, and its manifest if it holds a suite."""
    folder = CheckedFolder(repo.fetch(FACTS))
    return repo.pinned(folder.path), read_manifest(folder) if folder.is_suite() else None


def _download_saes(repo: HubRepo, layers: Iterable[int] | None) -> Path:
    """SAEs that lie in a repository without a manifest, found by what each says of itself."""
    folder = repo.fetch([SAE_CFG_FILENAME, f"*/{SAE_CFG_FILENAME}", files.CARD])
    saes = find_saes(folder, repo.repo_id)
    if any("sae_lens_groups" in sae.metadata for sae in saes.values()):
        raise SuiteError(
            f"{repo.repo_id!r} on the Hub holds layers of a suite, and its {files.SUITE} is neither "
            "there nor in the cache; try again with a network, or take the layers one by one with "
            "SAE.from_pretrained"
        )
    wanted = _hook_names(imported_manifest(repo.repo_id, saes), layers)
    names = [saes[name].folder.relative_to(folder).as_posix() for name in wanted]
    return repo.fetch([*_files_of(names), files.CARD])


def _files_of(folders: Iterable[str]) -> list[str]:
    """What SAELens reads of the SAEs in these folders, and what we do."""
    return [
        f"{escape(folder)}/{name}" if folder != "." else name
        for folder in folders
        for name in (
            *(SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME),
            *(ACTIVATION_SCALER_CFG_FILENAME, files.WHITENING, files.RUNNER_CFG),
        )
    ]


def _hook_names(manifest: SuiteManifest, layers: Iterable[int] | None) -> list[str]:
    return [manifest.hook_template.hook_name(n) for n in manifest.require_layers(layers)]
