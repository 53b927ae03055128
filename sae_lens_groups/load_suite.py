"""Reads suites from folders: our own, and those made of SAEs that were trained elsewhere."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.constants import SPARSITY_FILENAME
from sae_lens.training.activation_scaler import ActivationScaler
from safetensors.torch import load_file

from sae_lens_groups import files
from sae_lens_groups.errors import SuiteError
from sae_lens_groups.imported_manifest import imported_manifest
from sae_lens_groups.layer_scalers import has_layer_scalers, load_layer_scalers
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.manifest import SuiteManifest, read_manifest
from sae_lens_groups.quiet import without_model_kwargs_advice
from sae_lens_groups.saved_saes import SavedSAE, find_saes
from sae_lens_groups.suite import SAESuite
from sae_lens_groups.training_curves import points_from_csv
from sae_lens_groups.unreadable import UNREADABLE


def load_suite(path: Path, device: str, layers: Iterable[int] | None = None) -> SAESuite:
    """The suite, or the SAEs of several layers, in a folder.

    Raises:
        SuiteError: there is neither, or it is broken or of a newer format.
        UnknownLayerError: it lacks one of the layers.
    """
    if files.exists(path / files.SUITE):
        return _load_own(path, device, layers)
    return _import(path, device, layers)


def _load_own(path: Path, device: str, layers: Iterable[int] | None) -> SAESuite:
    manifest = read_manifest(path)
    held = manifest.require_layers(layers)
    folders = {layer: path / manifest.hook_template.hook_name(layer) for layer in held}
    missing = [folder.name for folder in folders.values() if not folder.is_dir()]
    if missing:
        raise SuiteError(f"suite {str(path)!r} lacks the folders {', '.join(missing)}")
    runner_cfg, curves = path / files.RUNNER_CFG, path / files.CURVES
    return SAESuite(
        manifest,
        build_layer=lambda layer: _load_sae(SAE, folders[layer], device),
        build_group=_group_loader(path, device),
        build_scaler=_scaler_loader(path, manifest),
        build_sparsity=lambda layer: _load_sparsity(folders[layer]),
        layers=held,
        runner_cfg=files.read_json(runner_cfg) if runner_cfg.exists() else None,
        training_curves=points_from_csv(curves.read_text()) if curves.exists() else (),
        path=path,
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

    settings = sae_of(manifest.layers[0]).folder / files.RUNNER_CFG
    return SAESuite(
        manifest,
        build_layer=lambda layer: sae_of(layer).plain(device),
        build_group=None,
        build_scaler=None,
        build_sparsity=lambda layer: _load_sparsity(sae_of(layer).folder),
        layers=manifest.require_layers(layers),
        runner_cfg=files.read_json(settings) if settings.is_file() else None,
    )


def _group_loader(path: Path, device: str) -> Callable[[LayerGroup], TrainingSAE[Any]] | None:
    """Reads a group's SAE; None for a suite that was imported, which has none."""
    if not (path / files.GROUPS).is_dir():
        return None
    return lambda group: _load_sae(TrainingSAE, path / files.GROUPS / group.name, device)


def _scaler_loader(path: Path, manifest: SuiteManifest) -> Callable[[int], ActivationScaler] | None:
    """Reads a layer's scaler; None for a suite of an earlier version, which holds none."""
    folders = [(path / files.GROUPS / group.name, group) for group in manifest.groups]
    if not any(has_layer_scalers(folder, group.layers) for folder, group in folders):
        return None

    def load(layer: int) -> ActivationScaler:
        folder = path / files.GROUPS / manifest.group_of(layer).name
        try:
            return load_layer_scalers(folder, [layer])[layer]
        except UNREADABLE as error:
            raise SuiteError(
                f"{str(folder)!r} does not hold the scaling of layer {layer}: {error}"
            ) from error

    return load


def _load_sae(sae_class: Any, folder: Path, device: str) -> Any:
    try:
        with without_model_kwargs_advice():
            return sae_class.load_from_disk(folder, device=device)
    except UNREADABLE as error:
        raise SuiteError(f"{str(folder)!r} does not hold a SAELens SAE: {error}") from error


def _load_sparsity(folder: Path) -> torch.Tensor | None:
    file = folder / SPARSITY_FILENAME
    return load_file(file)["sparsity"] if file.is_file() else None
