"""One SAE in a folder of SAELens's, read into the form in which a layer's SAE is used."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from sae_lens import SAE, TrainingSAE
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME
from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting
from sae_lens.registry import get_sae_class, get_sae_training_class
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups import files
from sae_lens_groups.errors import SuiteError
from sae_lens_groups.files import (
    UNREADABLE,
    CheckedFolder,
    load_numbers,
    require_numbers,
    require_tensors,
    suite_around,
)
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.scaling import (
    ESTIMATED_MODES,
    MEAN_NORM,
    WHITENING,
    layer_sae,
    load_layer_scaler,
    load_scaler,
    without_model_kwargs_advice,
)

_TO_DO = "copy or download it again"
# What SAELens raises on settings of another form, beside what it does on damaged files.
_UNUSABLE = (*UNREADABLE, AttributeError, OverflowError, AssertionError)

_Count = Annotated[int, Field(gt=0)]


class _Metadata(files.Entries):
    """What our own code takes from an SAE's metadata, wherever that is from; all may be absent."""

    hook_name: str | None = None
    model_name: str | None = None
    model_class_name: str | None = None
    dataset_path: str | None = None
    context_size: int | None = None
    hook_head_index: int | None = None
    model_from_pretrained_kwargs: dict[str, Any] | None = None
    sae_lens_groups: dict[str, Any] | None = None
    max_activation_norm: float | None = None
    activation_norms: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _require_layers(self) -> Self:
        if self.sae_lens_groups is not None and is_of_group(self.sae_lens_groups):
            LayerGroup.from_layers(self.sae_lens_groups["layers"])
        return self


class _Settings(files.Entries):
    d_in: _Count
    d_sae: _Count
    k: Annotated[float, Field(gt=0)] | None = None
    metadata: _Metadata

    @model_validator(mode="after")
    def _require_size(self) -> Self:
        if self.d_in * self.d_sae > files.MOST_NUMBERS:
            raise ValueError(f"d_in={self.d_in:,}, d_sae={self.d_sae:,} is larger than any SAE")
        if self.k is not None and self.k > self.d_sae:
            raise ValueError(f"k is {self.k:g} of {self.d_sae:,} features")
        return self


@dataclass(frozen=True)
class SavedSAE:
    """A folder that SAELens wrote an SAE to. Its weights are read when they are asked for.

    What is missing, damaged or of another SAE raises a SuiteError.
    """

    suite: CheckedFolder
    """What it lies in; its files are checked by that."""
    name: str = "."
    """Its path in there; `.` where it is the folder itself."""

    @classmethod
    def at(cls, folder: Path) -> "SavedSAE":
        """The SAE in a folder, which may be a part of a suite."""
        return cls(*suite_around(folder))

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.suite.path / self.name

    def file_name(self, name: str) -> str:
        """The path of one of its files in what it lies in."""
        return (PurePosixPath(self.name) / name).as_posix()

    @cached_property
    def cfg(self) -> Mapping[str, Any]:
        """What `cfg.json` says, in the form of SAELens 6."""
        with self._readable():
            cfg = handle_config_defaulting(self.suite.json(self.file_name(SAE_CFG_FILENAME)))
        with files.refusing(SuiteError, self._unusable, _TO_DO):
            files.read_entries(_Settings, cfg)
        return cfg

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the SAE says of its training: `hook_name`, `model_name` and so on."""
        return self.cfg["metadata"]

    @property
    def is_training_form(self) -> bool:
        """Whether it can be trained further, rather than being in its inference form."""
        return "decoder_init_norm" in self.cfg

    @property
    def is_groups_own(self) -> bool:
        """Whether it is a group's, on scaled activations, rather than one layer's."""
        return is_of_group(self.metadata.get("sae_lens_groups"))

    def scaler(self, layer: int) -> ActivationScaler | None:
        """From the raw activations of a layer to those that it takes.

        None where only their mean norm is known, which is sqrt(d_in).
        """
        if self.is_groups_own:
            folder = self.file_name(files.layer_scaler_folder(layer))
            if not self.suite.has(f"{folder}/{files.SCALER}"):
                raise without_scaling(str(self.folder), layer)
            return load_layer_scaler(self.suite, folder, self.d_in)
        mode, name = self.cfg.get("normalize_activations"), self.file_name(files.SCALER)
        if mode in ESTIMATED_MODES and self.suite.has(name):
            return load_scaler(self.suite, name, self.d_in)
        return unwritten_scaler(str(self.folder), mode)

    @property
    def d_in(self) -> int:
        """The width of the activations that it takes."""
        return self.cfg["d_in"]

    def load(self, device: str = "cpu") -> SAE[Any]:
        """The SAE in the form that it is in."""
        weights = self.suite.file(self.file_name(SAE_WEIGHTS_FILENAME))
        with self._readable(), without_model_kwargs_advice():
            wanted = _tensors_of(self.cfg, is_training_form=self.is_training_form)
            require_tensors(weights, wanted, SAE_CFG_FILENAME)
            sae_class = TrainingSAE if self.is_training_form else SAE
            sae: SAE[Any] = sae_class.load_from_disk(self.folder, device=device)
            require_numbers(weights, sae.state_dict())
            return sae

    def log_sparsity(self) -> torch.Tensor | None:
        """log10 of how often each feature fires; None where that is not beside it. Shape (d_sae,)."""
        name = self.file_name(SPARSITY_FILENAME)
        if not self.suite.has(name):
            return None
        wanted = {"sparsity": (self.cfg["d_sae"],)}
        return load_numbers(self.suite.file(name), wanted, SAE_CFG_FILENAME)["sparsity"]

    def plain(self, device: str) -> SAE[Any]:
        """The SAE in inference form, with its scaling folded in."""
        self.require_plain()
        trained = self.load(device)
        if not isinstance(trained, TrainingSAE):
            return trained
        name = self.file_name(files.SCALER)
        has_it = self.suite.has(name)
        scaler = load_scaler(self.suite, name, self.d_in) if has_it else ActivationScaler()
        with self._readable(), without_model_kwargs_advice():
            sae = layer_sae(trained, scaler, {})
        sae.cfg.normalize_activations = "none"  # it is folded in now
        return sae

    def require_plain(self) -> None:
        """Refuses an SAE for scaled activations whose scaling is not beside it."""
        is_scaled = self.cfg.get("normalize_activations") in ESTIMATED_MODES
        has_scaling = self.is_training_form and self.suite.has(self.file_name(files.SCALER))
        if self.is_groups_own or (is_scaled and not has_scaling):
            raise for_scaled_rows(str(self.folder))

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except SuiteError:
            raise
        except _UNUSABLE as error:
            raise SuiteError(f"{self._unusable}: {error!r}; {_TO_DO}") from error

    @property
    def _unusable(self) -> str:
        return f"{str(self.folder)!r} does not hold a SAELens SAE: {SAE_CFG_FILENAME}"


def _tensors_of(cfg: Mapping[str, Any], *, is_training_form: bool) -> dict[str, tuple[int, ...]]:
    """Name -> shape of what an SAE of these settings consists of. Takes no memory."""
    get_classes = get_sae_training_class if is_training_form else get_sae_class
    sae_class, config_class = get_classes(cfg["architecture"])
    with torch.device("meta"):
        sae = sae_class(config_class.from_dict({**cfg, "device": "meta"}))
    return {name: tuple(tensor.shape) for name, tensor in sae.state_dict().items()}


def is_groups_own(sae: SAE[Any]) -> bool:
    """Whether an SAE is a group's, on scaled activations, rather than one layer's exported one."""
    return is_of_group(sae.cfg.metadata.sae_lens_groups)


def is_of_group(facts: Mapping[str, Any] | None) -> bool:
    """Whether what an SAE says under `sae_lens_groups` is said by a group's own."""
    return facts is not None and "layers" in facts and "layer" not in facts


def unwritten_scaler(place: str, mode: str | None) -> ActivationScaler | None:
    """What an SAE's activations were scaled by, where no file beside it says so.

    None where only their mean norm is known, which is sqrt(d_in).

    Raises:
        SuiteError: it cannot be known.
    """
    if mode == WHITENING:
        raise SuiteError(
            f"{place!r} works on whitened activations, and the whitening is not beside it; "
            "name one of SAELens's checkpoint folders, or the trained SAE, which has it folded in"
        )
    return None if mode == MEAN_NORM else ActivationScaler()


def without_scaling(place: str, layer: int) -> SuiteError:
    """The error that says that a group's SAE cannot be used without its layer's scaling."""
    return SuiteError(
        f"{place!r} lacks the scaling of layer {layer}, which lies beside a group's SAE since "
        "sae-lens-groups 0.3.0; name the folder of one layer's SAE"
    )


def for_scaled_rows(place: str) -> SuiteError:
    """The error that says that there can be no plain SAE."""
    return SuiteError(
        f"{place!r} holds an SAE for scaled activations, without their scaling; "
        "name a whole suite, or the folder that SAELens's runner wrote to output_path, "
        "which has it folded in"
    )
