"""A suite's folder, read part by part. Nothing in it is taken for granted."""

from functools import cached_property
from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.constants import SAE_CFG_FILENAME

from sae_lens_groups import files
from sae_lens_groups.files.folder import CheckedFolder
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.saved.manifest import read_manifest
from sae_lens_groups.saved.sae import SavedSAE
from sae_lens_groups.saved.training_curves import TrainingPoint, points_from_csv
from sae_lens_groups.scaling.alignments import NONE
from sae_lens_groups.scaling.layer_scaler import LayerScaler
from sae_lens_groups.scaling.stored import load_layer_scaler

_MIXED_UP = "the suite's files were mixed up, take it anew from where it was trained"


class SavedSuite:
    """What lies in the folder of a suite of ours.

    Raises:
        SuiteError: its manifest is missing, broken or of a newer format. So do the methods where
            a file is missing, damaged, or contradicts the manifest.
    """

    def __init__(self, folder: CheckedFolder) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)

    def layer(self, layer: int, device: str) -> SAE[Any]:
        """A layer's SAE."""
        sae = self._saved_layer(layer).load(device)
        self._require_own(layer, sae)
        return sae

    def log_sparsity(self, layer: int) -> torch.Tensor | None:
        """log10 of how often each feature fires on a layer; None where it is not known."""
        return self._saved_layer(layer).log_sparsity()

    def group(self, group: LayerGroup, device: str) -> TrainingSAE[Any]:
        """A group's SAE in training form."""
        sae = self._saved_group(group).load(device)
        facts = sae.cfg.metadata.sae_lens_groups or {}
        if not isinstance(sae, TrainingSAE) or facts.get("layers") != [*group.layers]:
            raise self.folder.unusable(
                f"{self._group_folder(group)}/{SAE_CFG_FILENAME} is not that of the SAE of group "
                f"{group} in training form; {_MIXED_UP}"
            )
        return sae

    def scaler(self, layer: int) -> LayerScaler:
        """What a layer's activations pass before its group's SAE."""
        group = self.manifest.group_of(layer)
        folder = f"{self._group_folder(group)}/{files.layer_scaler_folder(layer)}"
        is_mapped = self.manifest.layer_alignment != NONE and layer != group.middle
        d_in = self._saved_group(group).d_in
        scaler = load_layer_scaler(self.folder, folder, d_in, is_mapped=is_mapped)
        wanted = self.manifest.scaling_factors[layer]
        if scaler.scaling_factor != wanted:
            raise self.folder.unusable(
                f"{folder}/{files.SCALER} has scaling_factor {scaler.scaling_factor}, and "
                f"{files.SUITE} has {wanted} there; {_MIXED_UP}"
            )
        return scaler

    @property
    def has_groups(self) -> bool:
        """Whether it holds its groups' SAEs; an imported suite has none."""
        return self.folder.has_any_in(files.GROUPS)

    @property
    def has_scalers(self) -> bool:
        """Whether it holds its layers' scaling; a suite of an early version does not."""
        return any(
            self.folder.has(
                f"{self._group_folder(group)}/{files.layer_scaler_folder(layer)}/{files.SCALER}"
            )
            for group in self.manifest.groups
            for layer in group.layers
        )

    @cached_property
    def runner_cfg(self) -> dict[str, Any] | None:
        """The run's settings; None where they are not known."""
        has_it = self.folder.has(files.RUNNER_CFG)
        return self.folder.json(files.RUNNER_CFG) if has_it else None

    @cached_property
    def training_curves(self) -> tuple[TrainingPoint, ...]:
        """How training went; empty where it is not known."""
        has_them = self.folder.has(files.CURVES)
        return points_from_csv(self.folder.text(files.CURVES)) if has_them else ()

    def _saved_layer(self, layer: int) -> SavedSAE:
        return SavedSAE(self.folder, self.manifest.hook_template.hook_name(layer))

    def _saved_group(self, group: LayerGroup) -> SavedSAE:
        return SavedSAE(self.folder, self._group_folder(group))

    def _group_folder(self, group: LayerGroup) -> str:
        return f"{files.GROUPS}/{group.name}"

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
            raise self.folder.unusable(
                f"{hook_name}/{SAE_CFG_FILENAME} says that its SAE was made for "
                f"{metadata.hook_name} with scaling_factor {own}, and the suite has {wanted} there; "
                f"{_MIXED_UP}"
            )
