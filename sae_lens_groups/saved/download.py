"""Fetches the parts of a suite that are asked for from the Hub."""

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
from sae_lens_groups.files import CheckedFolder
from sae_lens_groups.layers import Layers
from sae_lens_groups.saved.hub import HubRepo
from sae_lens_groups.saved.others import OtherSAEs
from sae_lens_groups.saved.suite import SavedSuite

FACTS = files.fetched_with("facts")
_OF_THE_WHOLE = (*files.fetched_with("groups"), *files.fetched_with("whole"))
# What SAELens reads of an SAE, and what we do.
_OF_AN_SAE = (
    *(SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME),
    *(ACTIVATION_SCALER_CFG_FILENAME, files.WHITENING_MATRICES, files.RUNNER_CFG),
)


def download(repo: HubRepo, layers: Layers | None, *, groups_only: bool = False) -> Path:
    """A local folder with these layers of the suite, or with all of it where they are None.

    Args:
        groups_only: only the SAEs of its groups, and not those of its layers. SAEs that were
            trained elsewhere have no groups; of them it is all layers.

    Raises:
        HubError: it cannot be fetched.
        SuiteError: the repository holds no SAELens SAEs, or broken ones.
        UnknownLayerError: it lacks one of the layers.
    """
    facts = CheckedFolder(repo.fetch(FACTS))
    repo = repo.pinned(facts.path)
    if not facts.is_suite():
        return _download_others(repo, layers)
    manifest = SavedSuite(facts).manifest
    if groups_only and not manifest.is_imported:
        return repo.fetch([f"{files.GROUPS}/*", *FACTS])
    names = map(manifest.hook_template.hook_name, manifest.require_layers(layers))
    of_the_whole = _OF_THE_WHOLE if layers is None else ()
    return repo.fetch(
        [*(f"{escape(name)}/*" for name in names), *FACTS, files.CURVES, *of_the_whole]
    )


def _download_others(repo: HubRepo, layers: Layers | None) -> Path:
    """SAEs that lie in a repository without a manifest, found by what each says of itself."""
    folder = repo.fetch([SAE_CFG_FILENAME, f"*/{SAE_CFG_FILENAME}", files.CARD])
    source = OtherSAEs(folder, repo.repo_id)
    saes = [source.saved(layer) for layer in source.manifest.require_layers(layers)]
    if any("sae_lens_groups" in sae.metadata for sae in saes):
        raise SuiteError(
            f"{repo.repo_id!r} on the Hub holds layers of a suite, and its {files.SUITE} is neither "
            "there nor in the cache; try again with a network, or take the layers one by one with "
            "SAE.from_pretrained"
        )
    wanted = [f"{escape(sae.name)}/{name}" for sae in saes for name in _OF_AN_SAE]
    return repo.fetch([*(name.removeprefix("./") for name in wanted), files.CARD])
