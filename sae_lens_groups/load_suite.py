"""Reads suites from folders: our own, and those made of SAEs that were trained elsewhere."""

from collections.abc import Iterable
from pathlib import Path

from sae_lens_groups import files
from sae_lens_groups.errors import SuiteError
from sae_lens_groups.imported_manifest import imported_manifest
from sae_lens_groups.saved_saes import SavedSAE, find_saes
from sae_lens_groups.saved_suite import SavedSuite
from sae_lens_groups.suite import SAESuite
from sae_lens_groups.suite_folder import SuiteFolder


def load_suite(path: Path, device: str, layers: Iterable[int] | None = None) -> SAESuite:
    """The suite, or the SAEs of several layers, in a folder.

    Raises:
        SuiteError: there is neither, or it is broken or of a newer format.
        UnknownLayerError: it lacks one of the layers.
    """
    folder = SuiteFolder(path)
    if folder.is_suite():
        return _load_own(folder, device, layers)
    return _import(path, device, layers)


def _load_own(folder: SuiteFolder, device: str, layers: Iterable[int] | None) -> SAESuite:
    saved = SavedSuite(folder)
    held = saved.manifest.require_layers(layers)
    names = [saved.manifest.hook_template.hook_name(layer) for layer in held]
    missing = [name for name in names if not folder.has_folder(name)]
    if missing:
        raise SuiteError(
            f"suite {str(folder.path)!r} lacks the folders {', '.join(missing)}; copy or download "
            "it anew"
        )
    return SAESuite(
        saved.manifest,
        build_layer=lambda layer: saved.layer(layer, device),
        build_group=(lambda group: saved.group(group, device)) if saved.has_groups else None,
        build_scaler=saved.scaler if saved.has_scalers else None,
        build_sparsity=saved.log_sparsity,
        layers=held,
        runner_cfg=saved.runner_cfg,
        training_curves=saved.training_curves,
        path=folder.path,
    )


def _import(path: Path, device: str, layers: Iterable[int] | None) -> SAESuite:
    """A suite of SAEs that nobody trained in groups."""
    saes = find_saes(path)
    for sae in saes.values():
        sae.require_plain()
    manifest = imported_manifest(str(path), saes)
    template = manifest.hook_template

    def sae_of(layer: int) -> SavedSAE:
        return saes[template.hook_name(layer)]

    any_sae = sae_of(manifest.layers[0])
    settings = any_sae.file_name(files.RUNNER_CFG)
    return SAESuite(
        manifest,
        build_layer=lambda layer: sae_of(layer).plain(device),
        build_group=None,
        build_scaler=None,
        build_sparsity=lambda layer: sae_of(layer).log_sparsity(),
        layers=manifest.require_layers(layers),
        runner_cfg=any_sae.suite.json(settings) if any_sae.suite.has(settings) else None,
    )
