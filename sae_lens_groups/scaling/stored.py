"""The scaling of a group's layers, as it lies beside the group's SAE."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups import files
from sae_lens_groups.errors import SuiteError
from sae_lens_groups.files import CheckedFolder, Shape, load_numbers
from sae_lens_groups.scaling.group_scaling import whitening_of
from sae_lens_groups.scaling.layer_scaler import LayerMap, LayerScaler

_TO_DO = "copy or download the suite again"


class _Scaling(files.Entries):
    scaling_factor: files.Positive | None


def load_scaler(suite: CheckedFolder, name: str, d_in: int) -> ActivationScaler:
    """The scaling in a file of a suite, or of another folder, with the whitening beside it.

    Raises:
        SuiteError: a file is missing, damaged, or for another width.
    """
    data = suite.json(name)
    with files.refusing(SuiteError, f"{str(suite.path / name)!r} cannot be used", _TO_DO):
        factor = files.read_entries(_Scaling, data).scaling_factor
    whitening = PurePosixPath(name).with_name(files.WHITENING_MATRICES).as_posix()
    # Files of before SAELens had whitening do not say that they have none.
    if not data.get("has_whitening", suite.has(whitening)):
        return ActivationScaler(scaling_factor=factor)
    shapes = {"mean": (d_in,), "matrix": (d_in, d_in), "inverse_matrix": (d_in, d_in)}
    load_numbers(suite.file(whitening), shapes, "its SAE")
    scaler = ActivationScaler()
    scaler.load(suite.path / name)
    if whitening_of(scaler) is None:
        raise suite.unusable(
            f"{name} has a whitening, which this version of SAELens does not know; upgrade sae-lens"
        )
    return scaler


def load_layer_map(suite: CheckedFolder, name: str, d_in: int) -> LayerMap:
    """The map of a layer's scaled activations to its group's middle layer."""
    shapes: dict[str, Shape] = {
        **dict.fromkeys(("matrix_DD", "reverse_matrix_DD"), (d_in, d_in)),
        **dict.fromkeys(("offset_D", "reverse_offset_D"), (d_in,)),
    }
    return LayerMap(**load_numbers(suite.file(name), shapes, "its group's SAE"))


def load_layer_scaler(
    suite: CheckedFolder, folder: str, d_in: int, *, is_mapped: bool | None = None
) -> LayerScaler:
    """The scaling of a layer of a group, with its map to the group's middle layer.

    `is_mapped` says whether there has to be a map; None where only its file does.

    Raises:
        SuiteError: a file is missing, damaged, or there though it has no place.
    """
    scaler = load_scaler(suite, f"{folder}/{files.SCALER}", d_in)
    name = f"{folder}/{files.ALIGNMENT}"
    has_map = suite.has(name)
    if is_mapped is False and has_map:
        raise suite.unusable(f"{name} is there, and that layer is not aligned; remove that file")
    if is_mapped is None:
        is_mapped = has_map
    return LayerScaler.of(scaler, load_layer_map(suite, name, d_in) if is_mapped else None)


def save_layer_scalers(folder: Path, scalers: Mapping[int, ActivationScaler]) -> None:
    """Writes the scaler of each layer into a group's folder."""
    for layer, scaler in scalers.items():
        of_layer = folder / files.layer_scaler_folder(layer)
        of_layer.mkdir()
        scaler.save(str(of_layer / files.SCALER))
