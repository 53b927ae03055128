"""How the scalers of a group's layers lie beside the group's SAE: in checkpoints and in suites."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups import files
from sae_lens_groups.alignment import AlignedScaler


def save_layer_scalers(folder: Path, scalers: Mapping[int, ActivationScaler]) -> None:
    """Writes the scaler of each layer into a group's folder."""
    for layer, scaler in scalers.items():
        of_layer = folder / files.layer_scaler_folder(layer)
        of_layer.mkdir()
        scaler.save(str(of_layer / files.SCALER))


def load_layer_scalers(folder: Path, layers: Iterable[int]) -> dict[int, AlignedScaler]:
    """Layer -> scaler, from a group's folder.

    Raises:
        OSError, KeyError, ValueError, SafetensorError: a file is missing or damaged.
    """
    scalers = {layer: AlignedScaler() for layer in layers}
    for layer, scaler in scalers.items():
        scaler.load(folder / files.layer_scaler_folder(layer) / files.SCALER)
    return scalers
