"""Writes trained SAEs, wherever they lie, as a suite's folder."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sae_lens import SAE
from sae_lens.constants import SPARSITY_FILENAME
from safetensors.torch import save_file

from sae_lens_groups import files
from sae_lens_groups.files import is_covered, lies_inside, write_checksums
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.saved.source import SAESource
from sae_lens_groups.saved.training_curves import points_to_csv
from sae_lens_groups.scaling import save_layer_scalers


def write_suite(
    source: SAESource, path: Path, changed: Mapping[int, SAE[Any]], evaluated: Path | None = None
) -> None:
    """Writes a suite's folder, complete or not at all, with one SAE in memory at a time.

    Args:
        source: where its parts come from.
        path: the folder, which holds nothing yet.
        changed: layer -> an SAE in memory that takes the place of the source's.
        evaluated: a suite's folder whose evaluation is copied, if it has one.

    Raises:
        OutputFolderError: the folder already holds something.
        SuiteError: a part of the source is missing or damaged.
    """
    with files.new_folder(path) as folder:
        write_groups(source, folder, source.manifest.groups, changed)
        if evaluated is not None:
            _copy_evaluation(evaluated, folder)
        finish_suite(source, folder)


def write_groups(
    source: SAESource,
    folder: Path,
    groups: Iterable[LayerGroup],
    changed: Mapping[int, SAE[Any]] = MappingProxyType({}),
) -> None:
    """Writes some groups of a suite and their layers into its folder."""
    for group in groups:
        for layer in group.layers:
            name = source.manifest.hook_template.hook_name(layer)
            _write_layer(source, layer, changed.get(layer), folder / name)
        of_group = folder / files.group_folder(group.name)
        if source.has_groups:
            source.group(group).save_model(of_group)
        if source.has_scalers:
            scalers = {n: of for n in group.layers if (of := source.scaler(n)) is not None}
            save_layer_scalers(of_group, scalers)


def finish_suite(source: SAESource, folder: Path) -> None:
    """Adds what is said of all groups of a suite, once they are there."""
    # Of SAEs that were trained elsewhere, these are the settings of one layer's run.
    settings = None if source.manifest.is_imported else source.runner_cfg
    if settings is not None:
        files.write_text(folder / files.RUNNER_CFG, files.json_text(settings))
    if curves := source.training_curves:
        files.write_text(folder / files.CURVES, points_to_csv(curves))
    files.write_text(folder / files.SUITE, source.manifest.to_json())
    write_checksums(folder, is_covered)


def _write_layer(source: SAESource, layer: int, changed: SAE[Any] | None, folder: Path) -> None:
    sae = source.layer(layer) if changed is None else changed
    sae.save_model(folder)
    log_sparsity_F = source.log_sparsity(layer)
    if log_sparsity_F is not None:
        save_file({"sparsity": log_sparsity_F}, folder / SPARSITY_FILENAME)


def _copy_evaluation(old: Path, new: Path) -> None:
    """What an evaluation left in a suite's folder, if there was one; nothing that links lead to."""
    folder = old / files.EVALUATION_FOLDER
    names = [files.EVALUATION, files.REPORT]
    names += [path.relative_to(old).as_posix() for path in sorted(folder.rglob("*"))]
    for name in names:
        if (old / name).is_file() and lies_inside(old / name, old):
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(old / name, new / name)
