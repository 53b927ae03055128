"""What a layer's activations pass before the SAE: scaling, and the map to another layer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens.training.activation_scaler import ActivationScaler
from safetensors.torch import save_file
from typing_extensions import override

from sae_lens_groups import files


@dataclass(frozen=True)
class LayerMap:
    """From a layer's activations to another's, and back by a map of its own. In float64."""

    matrix_DD: torch.Tensor
    offset_D: torch.Tensor
    reverse_matrix_DD: torch.Tensor
    reverse_offset_D: torch.Tensor

    def forward(self, acts: torch.Tensor) -> torch.Tensor:
        """The layer's activations (..., D) as the other layer's."""
        return acts @ self.matrix_DD.to(acts) + self.offset_D.to(acts)

    def backward(self, acts: torch.Tensor) -> torch.Tensor:
        """The other layer's activations (..., D) as this layer's."""
        return acts @ self.reverse_matrix_DD.to(acts) + self.reverse_offset_D.to(acts)

    def then(self, other: "LayerMap | None") -> "LayerMap":
        """This map followed by another."""
        if other is None:
            return self
        return LayerMap(
            self.matrix_DD @ other.matrix_DD,
            self.offset_D @ other.matrix_DD + other.offset_D,
            other.reverse_matrix_DD @ self.reverse_matrix_DD,
            other.reverse_offset_D @ self.reverse_matrix_DD + self.reverse_offset_D,
        )

    def reversed(self) -> "LayerMap":
        """The way back as the map, and the map as the way back."""
        return LayerMap(
            self.reverse_matrix_DD, self.reverse_offset_D, self.matrix_DD, self.offset_D
        )


class LayerScaler(ActivationScaler):
    """SAELens's scaler of a layer, followed by a map to another layer's scaled activations."""

    layer_map: LayerMap | None = None

    @classmethod
    def of(cls, scaler: ActivationScaler, layer_map: LayerMap | None) -> "LayerScaler":
        """A scaler that does what this one does, and maps."""
        aligned = cls(**vars(scaler))
        aligned.layer_map = layer_map
        return aligned

    @override
    def scale(self, acts: torch.Tensor) -> torch.Tensor:
        scaled = super().scale(acts)
        return scaled if self.layer_map is None else self.layer_map.forward(scaled)

    @override
    def unscale(self, acts: torch.Tensor) -> torch.Tensor:
        return super().unscale(acts if self.layer_map is None else self.layer_map.backward(acts))

    @override
    def save(self, file_path: str) -> None:
        super().save(file_path)
        if self.layer_map is not None:
            save_file(vars(self.layer_map), Path(file_path).with_name(files.ALIGNMENT))


def layer_map_of(scaler: ActivationScaler) -> LayerMap | None:
    """The map that follows a scaler, if one does."""
    return scaler.layer_map if isinstance(scaler, LayerScaler) else None


def without_offset(matrix_DD: torch.Tensor, reverse_DD: torch.Tensor) -> LayerMap:
    zero_D = torch.zeros(len(matrix_DD), dtype=torch.float64)
    return LayerMap(matrix_DD, zero_D, reverse_DD, zero_D.clone())


def scaling_map(scaler: ActivationScaler, d_in: int) -> LayerMap:
    """What SAELens's part of a scaler does, as a map: from raw activations to scaled ones."""
    whitening: Any = getattr(scaler, "whitening", None)
    factor = 1.0 if scaler.scaling_factor is None else scaler.scaling_factor
    if whitening is None:
        identity_DD = torch.eye(d_in, dtype=torch.float64)
        return without_offset(factor * identity_DD, identity_DD / factor)
    matrix_DD, mean_D = whitening.matrix.cpu().double(), whitening.mean.cpu().double()
    inverse_DD = whitening.inverse_matrix.cpu().double()
    return LayerMap(factor * matrix_DD, -mean_D @ matrix_DD, inverse_DD / factor, mean_D / factor)
