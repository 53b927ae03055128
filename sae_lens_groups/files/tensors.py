"""Checks tensors that come from elsewhere: their names and shapes before they take any memory."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from sae_lens_groups.errors import SuiteError, first_line
from sae_lens_groups.files.reading import UNREADABLE

if TYPE_CHECKING:  # it takes a second, and whoever brings tensors has it
    import torch

_DTYPES = ("F64", "F32", "F16", "BF16")
# 256 GiB in float32: no matrix of an SAE comes near.
MOST_NUMBERS = 2**36
# Names that SAELens reads as others (6.44 has the old ones in memory), or leaves out.
_OLD_NAMES = {"log_threshold": "threshold"}
_LEFT_OUT = ("scaling_factor",)
# Of a feature that never fires.
_MAY_BE_INFINITE = ("threshold", "sparsity")

Shape = tuple[int, ...]


def require_tensors(file: Path, wanted: Mapping[str, Shape], wanted_by: str) -> None:
    """Refuses a file that does not hold exactly these tensors, of floating-point numbers.

    Reads the file's header alone. `wanted_by` is what says that they have to be there.
    """
    found = {_OLD_NAMES.get(name, name): of for name, of in tensors_in(file).items()}
    wanted = {_OLD_NAMES.get(name, name): shape for name, shape in wanted.items()}
    missing = sorted(wanted.keys() - found.keys())
    extra = sorted(found.keys() - wanted.keys() - {*_LEFT_OUT})
    if missing or extra:
        which = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(extra[:4])} too many"
        raise _unusable(file, f"it {which}, according to {wanted_by}")
    for name, shape in wanted.items():
        of_file, dtype = found[name]
        # SAELens takes a single number in either form.
        if of_file != shape and (math.prod(of_file), math.prod(shape)) != (1, 1):
            raise _unusable(
                file,
                f"{name} has shape {_text(of_file)}, and according to {wanted_by} {_text(shape)}",
            )
        _require_usable(file, name, of_file, dtype)


def require_numbers(file: Path, tensors: Mapping[str, "torch.Tensor"]) -> None:
    """Refuses tensors with NaN or infinite numbers, which were read from this file."""
    for name, tensor in tensors.items():
        usable = ~tensor.isnan() if name in _MAY_BE_INFINITE else tensor.isfinite()
        if not bool(usable.all()):
            n = int((~usable).sum())
            raise _unusable(
                file, f"{n:,} of the {tensor.numel():,} numbers of {name} are NaN or infinite"
            )


def load_numbers(
    file: Path, wanted: Mapping[str, Shape], wanted_by: str
) -> dict[str, "torch.Tensor"]:
    """The tensors of a file that holds exactly these, all numbers finite.

    Raises:
        SuiteError: it is damaged, or holds something else.
    """
    from safetensors.torch import load_file

    require_tensors(file, wanted, wanted_by)
    try:
        tensors = load_file(file)
    except UNREADABLE as error:
        raise _unusable(file, first_line(error)) from error
    require_numbers(file, tensors)
    return tensors


def tensors_in(file: Path) -> dict[str, tuple[Shape, str]]:
    """Name -> shape and type of every tensor. The library refuses sizes that the file has not.

    Raises:
        SuiteError: the file is cut short or damaged.
    """
    try:
        with safe_open(file, framework="pt") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118  # no dict
            return {name: (tuple(of.get_shape()), of.get_dtype()) for name, of in slices.items()}
    except (*UNREADABLE, MemoryError) as error:  # the latter where it is too long to be mapped
        raise _unusable(file, f"it is cut short or damaged ({first_line(error)})") from error


def _require_usable(file: Path, name: str, shape: Shape, dtype: str) -> None:
    if dtype not in _DTYPES:
        raise _unusable(
            file, f"{name} holds numbers of type {dtype}; an SAE's are {', '.join(_DTYPES)}"
        )
    if math.prod(shape) > MOST_NUMBERS:
        raise _unusable(file, f"{name} of shape {_text(shape)} is larger than any SAE")


def _text(shape: Shape) -> str:
    return " x ".join(f"{size:,}" for size in shape) or "one number"


def _unusable(file: Path, why: str) -> SuiteError:
    return SuiteError(
        f"{str(file)!r} cannot be used: {why}; copy or download the SAE again, or ask its author"
    )
