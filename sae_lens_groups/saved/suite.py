"""A suite's folder, read part by part. Nothing in it is taken for granted."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.constants import SAE_CFG_FILENAME
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups import files
from sae_lens_groups.errors import SuiteError
from sae_lens_groups.files.folder import CheckedFolder
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.saved.manifest import SuiteManifest
from sae_lens_groups.saved.sae import SavedSAE, without_scaling
from sae_lens_groups.saved.training_curves import TrainingPoint, points_from_csv
from sae_lens_groups.scaling.alignments import NONE
from sae_lens_groups.scaling.stored import load_layer_scaler

_MIXED_UP = "the suite's files were mixed up, take it anew from where it was trained"


class SavedSuite:
    """A SAESource: what lies in the folder of a suite of ours.

    Raises:
        SuiteError: its manifest is missing, broken or of a newer format. So do the methods where
            a file is missing, damaged, or contradicts the manifest.
    """

    def __init__(self, files_of_suite: CheckedFolder) -> None:
        self._files = files_of_suite
        self.folder: Path = files_of_suite.path
        text = files_of_suite.text(files.SUITE)
        try:
            self.manifest = SuiteManifest.from_json(text)
        except SuiteError as error:
            raise SuiteError(f"{str(self.folder)!r}: {error}") from error

    @property
    def has_groups(self) -> bool:
        """Whether it holds its groups' SAEs; an imported suite has none."""
        return self._files.has_any_in(files.GROUPS)

    @property
    def has_scalers(self) -> bool:
        """Whether it holds its layers' scaling; a suite of an early version does not."""
        scalers = (f"{self._scaler_folder(layer)}/{files.SCALER}" for layer in self.manifest.layers)
        return any(map(self._files.has, scalers))

    @property
    def runner_cfg(self) -> dict[str, Any] | None:
        """The run's settings; None where they are not known."""
        has_it = self._files.has(files.RUNNER_CFG)
        return self._files.json(files.RUNNER_CFG) if has_it else None

    @property
    def training_curves(self) -> tuple[TrainingPoint, ...]:
        """How training went; empty where it is not known."""
        has_them = self._files.has(files.CURVES)
        return points_from_csv(self._files.text(files.CURVES)) if has_them else ()

    def require_layers(self, layers: Iterable[int] | None) -> list[int]:
        """These of its layers, all of which have their folders."""
        held = self.manifest.require_layers(layers)
        names = map(self.manifest.hook_template.hook_name, held)
        missing = [name for name in names if not self._files.has_folder(name)]
        if missing:
            raise SuiteError(
                f"suite {str(self.folder)!r} lacks the folders {', '.join(missing)}; copy or "
                "download it anew"
            )
        return held

    def layer(self, layer: int, device: str = "cpu") -> SAE[Any]:
        """A layer's SAE."""
        sae = self._saved_layer(layer).load(device)
        self._require_own(layer, sae)
        return sae

    def log_sparsity(self, layer: int) -> torch.Tensor | None:
        """log10 of how often each feature fires on a layer; None where it is not known."""
        return self._saved_layer(layer).log_sparsity()

    def group(self, group: LayerGroup, device: str = "cpu") -> SAE[Any]:
        """A group's SAE in training form; of an imported suite, that of the layer."""
        if self.manifest.is_imported:
            return self.layer(group.first, device)
        sae = self._saved_group(group).load(device)
        facts = sae.cfg.metadata.sae_lens_groups or {}
        if not isinstance(sae, TrainingSAE) or facts.get("layers") != [*group.layers]:
            raise self._files.unusable(
                f"{_group_folder(group)}/{SAE_CFG_FILENAME} is not that of the SAE of group "
                f"{group} in training form; {_MIXED_UP}"
            )
        return sae

    def scaler(self, layer: int) -> ActivationScaler:
        """What a layer's activations pass before its group's SAE."""
        if self.manifest.is_imported:
            return ActivationScaler()  # it is folded into the SAE
        if not self.has_scalers:
            raise without_scaling(str(self.folder), layer)
        group = self.manifest.group_of(layer)
        folder = self._scaler_folder(layer)
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
        return SavedSAE(self._files, _group_folder(group))

    def _scaler_folder(self, layer: int) -> str:
        group = self.manifest.group_of(layer)
        return f"{_group_folder(group)}/{files.layer_scaler_folder(layer)}"

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


def _group_folder(group: LayerGroup) -> str:
    return f"{files.GROUPS}/{group.name}"
