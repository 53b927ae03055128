"""What can be asked of trained SAEs, wherever they lie: in a folder, on the Hub, or in memory."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from sae_lens import SAE
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.saved.manifest import SuiteManifest
from sae_lens_groups.saved.training_curves import TrainingPoint


class SAESource(Protocol):
    """Trained SAEs. Each is read when it is asked for, and checked before it is used.

    What a source does not have is None or empty, and `has_groups` and `has_scalers` say of the
    SAEs' parts. What cannot be read raises a SuiteError, whose message begins with the place.
    """

    @property
    def manifest(self) -> SuiteManifest:
        """The layers and groups; of SAEs that others trained, what is known of them."""
        ...

    @property
    def folder(self) -> Path | None:
        """Where the suite lies, if it is one that lies anywhere."""
        ...

    @property
    def has_groups(self) -> bool:
        """Whether they were trained in groups, whose SAEs are there in training form."""
        ...

    @property
    def has_scalers(self) -> bool:
        """Whether the scaling of every layer of every group is there."""
        ...

    @property
    def runner_cfg(self) -> Mapping[str, Any] | None:
        """The settings of the run that trained them."""
        ...

    @property
    def training_curves(self) -> tuple[TrainingPoint, ...]:
        """How training went."""
        ...

    def require_layers(self, layers: Iterable[int] | None) -> list[int]:
        """These of its layers, lowest first, of which there are plain SAEs; all where it is None.

        Raises:
            UnknownLayerError: it lacks one.
            SuiteError: there can be no plain SAE of one.
        """
        ...

    def layer(self, layer: int, device: str = "cpu") -> SAE[Any]:
        """A layer's plain SAE, which takes the layer's activations as they are."""
        ...

    def group(self, group: LayerGroup, device: str = "cpu") -> SAE[Any]:
        """A group's SAE as it was trained, which takes what the layers' scalers give.

        Without `has_groups`, the SAE of the group's one layer, in training or inference form.
        """
        ...

    def scaler(self, layer: int) -> ActivationScaler | None:
        """From the raw activations of a layer to those that its group's SAE takes.

        None where only their mean norm is known, which is sqrt(d_in).
        """
        ...

    def log_sparsity(self, layer: int) -> torch.Tensor | None:
        """log10 of how often each feature fires on a layer. Shape (d_sae,)."""
        ...
