"""A suite's folder, read part by part. Nothing in it is taken for granted."""

from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.constants import SAE_CFG_FILENAME
from sae_lens.training.activation_scaler import ActivationScaler
from typing_extensions import override

from sae_lens_groups import files
from sae_lens_groups.errors import SuiteError
from sae_lens_groups.files import CheckedFolder
from sae_lens_groups.layers import LayerGroup, Layers
from sae_lens_groups.saved.manifest import SuiteManifest
from sae_lens_groups.saved.sae import SavedSAE, without_scaling
from sae_lens_groups.saved.source import SAESource
from sae_lens_groups.saved.training_curves import TrainingPoint, points_from_csv
from sae_lens_groups.scaling import NONE, load_layer_scaler

_MIXED_UP = "the suite's files were mixed up, copy it again from where it was trained"


class SavedSuite(SAESource):
    """What lies in the folder of a suite of ours.

    Raises:
        SuiteError: its manifest is missing, broken or of a newer format. So do the methods where
            a file is missing, damaged, or contradicts the manifest.
    """

    def __init__(self, checked: CheckedFolder) -> None:
        self._files = checked
        self.folder = checked.path
        text = checked.text(files.SUITE)
        try:
            self.manifest = SuiteManifest.from_json(text)
        except SuiteError as error:
            raise SuiteError(f"{str(self.folder)!r}: {error}") from error
        self.has_groups = checked.has_any_in(files.GROUPS)
        # Suites of before 0.3.0 hold none.
        scaler_folders = map(self._scaler_folder, self.manifest.layers)
        self.has_scalers = any(checked.has(f"{name}/{files.SCALER}") for name in scaler_folders)

    @property
    @override
    def runner_cfg(self) -> dict[str, Any] | None:
        has_it = self._files.has(files.RUNNER_CFG)
        return self._files.json(files.RUNNER_CFG) if has_it else None

    @property
    @override
    def training_curves(self) -> tuple[TrainingPoint, ...]:
        has_them = self._files.has(files.CURVES)
        return points_from_csv(self._files.text(files.CURVES)) if has_them else ()

    @override
    def require_layers(self, layers: Layers | None) -> list[int]:
        held = self.manifest.require_layers(layers)
        names = map(self.manifest.hook_template.hook_name, held)
        missing = [name for name in names if not self._files.has_folder(name)]
        if missing:
            raise SuiteError(
                f"suite {str(self.folder)!r} lacks the folders {', '.join(missing)}; copy or "
                "download it again"
            )
        return held

    @override
    def layer(self, layer: int, device: str = "cpu") -> SAE[Any]:
        sae = self._saved_layer(layer).load(device)
        self._require_own(layer, sae)
        return sae

    @override
    def log_sparsity(self, layer: int) -> torch.Tensor | None:
        return self._saved_layer(layer).log_sparsity()

    @override
    def group(self, group: LayerGroup, device: str = "cpu") -> SAE[Any]:
        if self.manifest.is_imported:
            return super().group(group, device)
        sae = self._saved_group(group).load(device)
        facts = sae.cfg.metadata.sae_lens_groups or {}
        if not isinstance(sae, TrainingSAE) or facts.get("layers") != [*group.layers]:
            raise self._files.unusable(
                f"{files.group_folder(group.name)}/{SAE_CFG_FILENAME} is not that of the SAE of group "
                f"{group} in training form; {_MIXED_UP}"
            )
        return sae

    @override
    def scaler(self, layer: int) -> ActivationScaler | None:
        if self.manifest.is_imported:
            return super().scaler(layer)
        if not self.has_scalers:
            raise without_scaling(str(self.folder), layer)
        group, folder = self.manifest.group_of(layer), self._scaler_folder(layer)
        is_mapped = self.manifest.layer_alignment != NONE and layer != group.middle
        d_in = self._saved_group(group).d_in
        scaler = load_layer_scaler(self._files, folder, d_in, is_mapped=is_mapped)
        wanted = self.manifest.scaling_factors[layer]
        if scaler.scaling_factor != wanted:
            raise self._files.unusable(
                f"{folder}/{files.SCALER} has scaling_factor {scaler.scaling_factor}, and "
                f"{files.SUITE} has {wanted} there; {_MIXED_UP}"
            )
        return scaler

    def _saved_layer(self, layer: int) -> SavedSAE:
        return SavedSAE(self._files, self.manifest.hook_template.hook_name(layer))

    def _saved_group(self, group: LayerGroup) -> SavedSAE:
        return SavedSAE(self._files, files.group_folder(group.name))

    def _scaler_folder(self, layer: int) -> str:
        group = self.manifest.group_of(layer)
        return f"{files.group_folder(group.name)}/{files.layer_scaler_folder(layer)}"

    def _require_own(self, layer: int, sae: SAE[Any]) -> None:
        """Refuses an SAE that lies at another layer than the one that it was made for.

        An SAE carries its layer's scaling in its parameters. At another layer of its group it would
        still give numbers, and bad ones.
        """
        hook_name = self.manifest.hook_template.hook_name(layer)
        metadata = sae.cfg.metadata
        own = (metadata.sae_lens_groups or {}).get("scaling_factor")
        wanted = self.manifest.scaling_factors[layer]
        if metadata.hook_name != hook_name or own != wanted or isinstance(sae, TrainingSAE):
            raise self._files.unusable(
                f"{hook_name}/{SAE_CFG_FILENAME} says that its SAE was made for "
                f"{metadata.hook_name} with scaling_factor {own}, and the suite has {wanted} there; "
                f"{_MIXED_UP}"
            )
