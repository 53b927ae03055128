"""A plain SAELens SAE for every layer, in memory or on disk."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.constants import SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME
from sae_lens.training.activation_scaler import ActivationScaler
from safetensors.torch import load_file, save_file

from sae_lens_groups import files
from sae_lens_groups.errors import SuiteError, UnknownLayerError
from sae_lens_groups.layer_scalers import (
    has_layer_scalers,
    load_layer_scalers,
    save_layer_scalers,
)
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.manifest import SuiteManifest
from sae_lens_groups.quiet import without_model_kwargs_advice
from sae_lens_groups.training_curves import TrainingPoint, points_from_csv, points_to_csv
from sae_lens_groups.unreadable import UNREADABLE


class SAESuite(Mapping[str, SAE[Any]]):
    """A mapping from hook name to that layer's plain `sae_lens.SAE`.

    An SAE is built, or read from disk, when it is first asked for, and is the same object from
    then on. `run` of a `GroupSAETrainingRunner` and `SAESuite.load` make suites.
    """

    manifest: SuiteManifest
    """Groups, layers and scaling: the content of `suite.json`."""
    training_curves: tuple[TrainingPoint, ...]
    """How training went; empty where the suite does not hold it."""
    path: Path | None
    """The folder the suite was loaded from or saved to; None for one in memory only."""

    def __init__(
        self,
        manifest: SuiteManifest,
        build_layer: Callable[[int], SAE[Any]],
        build_group: Callable[[LayerGroup], TrainingSAE[Any]],
        build_scaler: Callable[[int], ActivationScaler] | None,
        build_sparsity: Callable[[int], torch.Tensor],
        runner_cfg: Mapping[str, Any] | None = None,
        training_curves: tuple[TrainingPoint, ...] = (),
        path: Path | None = None,
    ) -> None:
        self.manifest = manifest
        self.training_curves = training_curves
        self.runner_cfg = runner_cfg
        self.path = path
        self._build_layer = build_layer
        self._build_group = build_group
        self._build_scaler = build_scaler
        self._build_sparsity = build_sparsity
        self._built: dict[int, SAE[Any]] = {}

    def __getitem__(self, hook_name: str) -> SAE[Any]:
        layer = self.manifest.layer_of(hook_name)
        if layer is None:
            raise UnknownLayerError(
                f"this suite has no SAE for {hook_name!r}; it has {self._layers_in_words()}"
            )
        return self.layer(layer)

    def __iter__(self) -> Iterator[str]:
        return iter(self.manifest.hook_names)

    def __len__(self) -> int:
        return len(self.manifest.layers)

    def __contains__(self, hook_name: object) -> bool:
        # Mapping's own would build the SAE to find out.
        return isinstance(hook_name, str) and self.manifest.layer_of(hook_name) is not None

    def __repr__(self) -> str:
        model_name = Path(self.manifest.model_name)
        model = model_name.name if model_name.is_absolute() else model_name
        groups = ", ".join(group.name for group in self.manifest.groups)
        return f"SAESuite({len(self)} layers of {model}, groups {groups})"

    def layer(self, layer: int) -> SAE[Any]:
        """The SAE of a layer by its number."""
        if layer not in self.manifest.scaling_factors:
            raise UnknownLayerError(
                f"this suite has no SAE for layer {layer}; it has {self._layers_in_words()}"
            )
        if layer not in self._built:
            self._built[layer] = self._build_layer(layer)
        return self._built[layer]

    def group(self, group: LayerGroup) -> TrainingSAE[Any]:
        """A group's SAE in training form, which works on scaled activations."""
        return self._build_group(group)

    def scaler(self, layer: int) -> ActivationScaler:
        """What a layer's activations pass before the group's SAE: its scaling, and its alignment.

        `suite.layer(n)` does what `scaler.unscale(group_sae(scaler.scale(x)))` does.
        """
        if self._build_scaler is None:
            raise SuiteError(
                f"this suite does not hold the scaling of layer {layer}, which suites do since "
                "sae-lens-groups 0.3.0"
            )
        return self._build_scaler(layer)

    def log_sparsity(self, layer: int) -> torch.Tensor:
        """log10 firing frequency of each feature on this layer. Shape (d_sae,)."""
        return self._build_sparsity(layer)

    def expected_files(self) -> list[Path]:
        """The weights and statistics that a suite's folder holds, whether they are there or not."""
        assert self.path is not None
        folders = [self.path / name for name in self.manifest.hook_names]
        groups = [self.path / files.GROUPS / group.name for group in self.manifest.groups]
        return [
            *(folder / SAE_WEIGHTS_FILENAME for folder in [*folders, *groups]),
            *(folder / SPARSITY_FILENAME for folder in folders),
        ]

    def _layers_in_words(self) -> str:
        names = self.manifest.hook_names
        return f"{len(names)} layers, {names[0]} to {names[-1]}"

    def save(self, path: str | Path) -> Path:
        """Writes the suite folder, complete or not at all, and returns its path.

        Raises:
            OutputFolderError: the folder already holds something.
        """
        path = Path(path)
        with files.new_folder(path) as folder:
            for layer in self.manifest.layers:
                self._save_layer(layer, folder / self.manifest.hook_template.hook_name(layer))
            for group in self.manifest.groups:
                of_group = folder / files.GROUPS / group.name
                self._build_group(group).save_model(of_group)
                if self._build_scaler is not None:
                    scalers = {layer: self._build_scaler(layer) for layer in group.layers}
                    save_layer_scalers(of_group, scalers)
            if self.runner_cfg is not None:
                files.write_text(
                    folder / files.RUNNER_CFG, json.dumps(self.runner_cfg, indent=2) + "\n"
                )
            if self.training_curves:
                files.write_text(folder / files.CURVES, points_to_csv(self.training_curves))
            if self.path is not None:
                _copy_evaluation(self.path, folder)
            files.write_text(folder / files.SUITE, self.manifest.to_json())
        self.path = path
        return path

    def _save_layer(self, layer: int, folder: Path) -> None:
        # Not through self.layer: saving a large suite must not hold all of its SAEs.
        sae = self._built[layer] if layer in self._built else self._build_layer(layer)
        sae.save_model(folder)
        save_file({"sparsity": self.log_sparsity(layer)}, folder / SPARSITY_FILENAME)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> "SAESuite":
        """The suite in a folder that `save` or a training run wrote.

        Raises:
            SuiteError: there is no suite, or it is broken or of a newer format.
        """
        path = Path(path)
        manifest = read_manifest(path)
        folders = {layer: path / name for layer, name in zip(manifest.layers, manifest.hook_names)}
        missing = [folder.name for folder in folders.values() if not folder.is_dir()]
        if missing:
            raise SuiteError(f"suite {str(path)!r} lacks the folders {', '.join(missing)}")
        runner_cfg, curves = path / files.RUNNER_CFG, path / files.CURVES
        return cls(
            manifest,
            build_layer=lambda layer: _load_sae(SAE, folders[layer], device),
            build_group=lambda group: _load_sae(
                TrainingSAE, path / files.GROUPS / group.name, device
            ),
            build_scaler=_scaler_loader(path, manifest),
            build_sparsity=lambda layer: load_file(folders[layer] / SPARSITY_FILENAME)["sparsity"],
            runner_cfg=read_json(runner_cfg) if runner_cfg.exists() else None,
            training_curves=points_from_csv(curves.read_text()) if curves.exists() else (),
            path=path,
        )


def read_manifest(folder: Path) -> SuiteManifest:
    """The manifest of the suite in a folder.

    Raises:
        SuiteError: there is no suite, or its manifest is broken or of a newer format.
    """
    if not (folder / files.SUITE).is_file():
        raise SuiteError(
            f"{str(folder)!r} is no suite: it has no {files.SUITE}; "
            "give the output_path of a training run"
        )
    return SuiteManifest.from_json((folder / files.SUITE).read_text(encoding="utf-8"))


def _copy_evaluation(old: Path, new: Path) -> None:
    """What an evaluation left in a suite's folder, if there was one."""
    for name in (files.EVALUATION, files.REPORT):
        if (old / name).exists():
            shutil.copy(old / name, new / name)
    if (old / files.EVALUATION_FOLDER).is_dir():
        shutil.copytree(old / files.EVALUATION_FOLDER, new / files.EVALUATION_FOLDER)


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


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file beside an SAE says.

    Raises:
        SuiteError: it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SuiteError(f"{str(path)!r} cannot be read: {error}") from error


def _load_sae(sae_class: Any, folder: Path, device: str) -> Any:
    try:
        with without_model_kwargs_advice():
            return sae_class.load_from_disk(folder, device=device)
    except UNREADABLE as error:
        raise SuiteError(f"{str(folder)!r} does not hold a SAELens SAE: {error}") from error
