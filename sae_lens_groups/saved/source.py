"""What can be asked of trained SAEs, wherever they lie: in a folder, on the Hub, or in memory."""

import abc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.training.activation_scaler import ActivationScaler
from typing_extensions import override

from sae_lens_groups.layers import HookTemplate, LayerGroup, Layers
from sae_lens_groups.saved.manifest import SuiteManifest
from sae_lens_groups.saved.training_curves import TrainingPoint


class SAESource(abc.ABC):
    """Trained SAEs. Each is read when it is asked for, and checked before it is used.

    By default they are plain SAEs of which nothing more is known. What cannot be read raises a
    SuiteError, whose message begins with the place.
    """

    manifest: SuiteManifest
    """The layers and groups; of SAEs that others trained, what is known of them."""
    folder: Path | None = None
    """Where the suite lies, if it is one that lies anywhere."""
    has_groups: bool = False
    """Whether the groups' SAEs are there in training form."""
    is_whole_release: bool = False
    """Whether a release was named to give each layer the SAE that it has for it."""
    has_scalers: bool = False
    """Whether the scaling of the groups' layers is there."""

    @property
    def runner_cfg(self) -> Mapping[str, Any] | None:
        """The settings of the run that trained them; None where they are not known."""
        return None

    @property
    def training_curves(self) -> tuple[TrainingPoint, ...]:
        """How training went; empty where it is not known."""
        return ()

    def require_layers(self, layers: Layers | None) -> list[int]:
        """These of its layers, lowest first, each with a plain SAE; all where it is None.

        Raises:
            UnknownLayerError: it lacks one.
            SuiteError: there can be no plain SAE of one.
        """
        return self.manifest.require_layers(layers)

    @abc.abstractmethod
    def layer(self, layer: int, device: str = "cpu") -> SAE[Any]:
        """A layer's plain SAE, which takes the layer's activations as they are."""

    def group(self, group: LayerGroup, device: str = "cpu") -> SAE[Any]:
        """A group's SAE, which takes what the scalers of its layers give.

        Where there are no groups, the SAE of the one layer, in training or inference form.
        """
        return self.layer(group.first, device)

    def scaler(self, layer: int) -> ActivationScaler | None:  # noqa: ARG002  # by default, no scaling
        """From the raw activations of a layer to those that its group's SAE takes.

        None where only their mean norm is known, which is sqrt(d_in).
        """
        return ActivationScaler()

    def log_sparsity(self, layer: int) -> torch.Tensor | None:  # noqa: ARG002
        """log10 of how often each feature fires on a layer; None where it is not known.

        Shape (d_sae,).
        """
        return None


class WrappedSource(SAESource):
    """Another source, but for what a subclass says."""

    def __init__(self, source: SAESource) -> None:
        self._source = source
        self.manifest = source.manifest
        self.has_groups, self.has_scalers = source.has_groups, source.has_scalers
        self.is_whole_release = source.is_whole_release

    def _of(self, layer: int) -> SAESource:  # noqa: ARG002  # by default, one for all
        """Where a layer is from."""
        return self._source

    @property
    @override
    def runner_cfg(self) -> Mapping[str, Any] | None:
        return self._source.runner_cfg

    @property
    @override
    def training_curves(self) -> tuple[TrainingPoint, ...]:
        return self._source.training_curves

    @override
    def layer(self, layer: int, device: str = "cpu") -> SAE[Any]:
        return self._of(layer).layer(layer, device)

    @override
    def group(self, group: LayerGroup, device: str = "cpu") -> SAE[Any]:
        return self._of(group.first).group(group, device)

    @override
    def scaler(self, layer: int) -> ActivationScaler | None:
        return self._of(layer).scaler(layer)

    @override
    def log_sparsity(self, layer: int) -> torch.Tensor | None:
        return self._of(layer).log_sparsity(layer)


class RenamedSource(WrappedSource):
    """The same SAEs under other names of their hooks: those of another library's model."""

    def __init__(self, source: SAESource, template: HookTemplate) -> None:
        super().__init__(source)
        self.manifest = replace(source.manifest, hook_template=template)

    @override
    def require_layers(self, layers: Layers | None) -> list[int]:
        self._source.require_layers(None)
        return self.manifest.require_layers(layers)
