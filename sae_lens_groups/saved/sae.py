"""SAEs in SAELens's folders: found, and read into the form in which a layer's SAE is used."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME
from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting
from sae_lens.registry import get_sae_class, get_sae_training_class
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups import files
from sae_lens_groups.errors import SuiteError
from sae_lens_groups.files.folder import CheckedFolder, suite_around
from sae_lens_groups.files.reading import UNREADABLE
from sae_lens_groups.files.tensors import (
    load_numbers,
    require_numbers,
    require_size,
    require_tensors,
)
from sae_lens_groups.saved.hub import is_repo_id
from sae_lens_groups.scaling.fold import layer_sae, without_model_kwargs_advice
from sae_lens_groups.scaling.group_scaling import ESTIMATED_MODES
from sae_lens_groups.scaling.stored import load_scaler

# What SAELens raises on settings of another form, beside what it does on damaged files.
_UNUSABLE = (*UNREADABLE, AttributeError, OverflowError, AssertionError)

# What our own code takes from an SAE's metadata, and may be absent.
_METADATA: Mapping[str, type] = {
    "hook_name": str,
    "model_name": str,
    "model_class_name": str,
    "dataset_path": str,
    "context_size": int,
    "hook_head_index": int,
    "model_from_pretrained_kwargs": dict,
    "sae_lens_groups": dict,
}


@dataclass(frozen=True)
class SavedSAE:
    """A folder that SAELens wrote an SAE to. Its weights are read when they are asked for."""

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
        """What `cfg.json` says, in the form of SAELens 6.

        Raises:
            SuiteError: it is damaged, or no SAE's.
        """
        try:
            cfg = handle_config_defaulting(self.suite.json(self.file_name(SAE_CFG_FILENAME)))
            _require_usable_metadata(cfg["metadata"])
            self._require_usable_sizes(cfg)
            return cfg
        except SuiteError:
            raise
        except _UNUSABLE as error:
            raise self._unusable(SAE_CFG_FILENAME, error) from error

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
        return _is_groups(self.metadata.get("sae_lens_groups"))

    def scaler(self) -> ActivationScaler | None:
        """What SAELens's checkpoints keep of the activations' scaling; None where it is not there.

        Raises:
            SuiteError: it is damaged.
        """
        name = self.file_name(files.SCALER)
        return load_scaler(self.suite, name, self.d_in) if self.suite.has(name) else None

    @property
    def d_in(self) -> int:
        """The width of the activations that it takes."""
        return self.cfg["d_in"]

    def load(self, device: str = "cpu") -> SAE[Any]:
        """The SAE in the form that it is in.

        Raises:
            SuiteError: a file of it is missing, damaged, or does not fit the others.
        """
        try:
            with without_model_kwargs_advice():
                return self._load(device)
        except SuiteError:
            raise
        except _UNUSABLE as error:
            raise self._unusable(SAE_CFG_FILENAME, error) from error

    def log_sparsity(self) -> torch.Tensor | None:
        """log10 of how often each feature fires; None where that is not beside it. Shape (d_sae,).

        Raises:
            SuiteError: the file is damaged, or another SAE's.
        """
        name = self.file_name(SPARSITY_FILENAME)
        if not self.suite.has(name):
            return None
        wanted = {"sparsity": (self.cfg["d_sae"],)}
        return load_numbers(self.suite.file(name), wanted, SAE_CFG_FILENAME)["sparsity"]

    def _load(self, device: str) -> SAE[Any]:
        weights = self._sound_weights()
        sae_class = TrainingSAE if self.is_training_form else SAE
        sae: SAE[Any] = sae_class.load_from_disk(self.folder, device=device)
        require_numbers(weights, sae.state_dict())
        return sae

    def _require_usable_sizes(self, cfg: Mapping[str, Any]) -> None:
        file = self.suite.path / self.file_name(SAE_CFG_FILENAME)
        require_size(file, d_in=cfg.get("d_in"), d_sae=cfg.get("d_sae"))
        k = cfg.get("k")
        if k is not None and not 0 < k <= cfg["d_sae"]:
            raise self._unusable(SAE_CFG_FILENAME, f"k is {k!r} of {cfg['d_sae']:,} features")

    def _sound_weights(self) -> Path:
        """The file of the weights, with the names and shapes that `cfg.json` asks for.

        Raises:
            SuiteError: it is damaged, or holds others.
        """
        weights = self.suite.file(self.file_name(SAE_WEIGHTS_FILENAME))
        wanted = _tensors_of(self.cfg, is_training_form=self.is_training_form)
        require_tensors(weights, wanted, SAE_CFG_FILENAME)
        return weights

    def plain(self, device: str) -> SAE[Any]:
        """The SAE in inference form, with its scaling folded in.

        Raises:
            SuiteError: its weights are damaged, or its scaling is not beside it.
        """
        try:
            return self._plain(device)
        except SuiteError:
            raise
        except _UNUSABLE as error:
            raise self._unusable(SAE_CFG_FILENAME, error) from error

    def require_plain(self) -> None:
        """Refuses an SAE for scaled activations whose scaling is not beside it.

        Raises:
            SuiteError: it is one.
        """
        is_scaled = self.cfg.get("normalize_activations") in ESTIMATED_MODES
        if self.is_groups_own or (is_scaled and not self._has_scaling):
            raise SuiteError(
                f"{str(self.folder)!r} holds an SAE for scaled activations, without their scaling; "
                "name a whole suite, or the folder that SAELens's runner wrote to output_path, "
                "which has it folded in"
            )

    @property
    def _has_scaling(self) -> bool:
        return self.is_training_form and self.suite.has(self.file_name(files.SCALER))

    def _plain(self, device: str) -> SAE[Any]:
        self.require_plain()
        trained = self.load(device)
        if not isinstance(trained, TrainingSAE):
            return trained
        scaler = self.scaler() or ActivationScaler()
        with without_model_kwargs_advice():
            sae = layer_sae(trained, scaler, {})
        sae.cfg.normalize_activations = "none"  # it is folded in now
        return sae

    def _unusable(self, file: str, why: object) -> SuiteError:
        reason = repr(why) if isinstance(why, Exception) else why
        return SuiteError(
            f"{str(self.folder)!r} does not hold a SAELens SAE: {file}: {reason}; "
            "copy or download it anew"
        )


def _tensors_of(cfg: Mapping[str, Any], *, is_training_form: bool) -> dict[str, tuple[int, ...]]:
    """Name -> shape of what an SAE of these settings consists of. Takes no memory."""
    get_classes = get_sae_training_class if is_training_form else get_sae_class
    sae_class, config_class = get_classes(cfg["architecture"])
    with torch.device("meta"):
        sae = sae_class(config_class.from_dict({**cfg, "device": "meta"}))
    return {name: tuple(tensor.shape) for name, tensor in sae.state_dict().items()}


def _require_usable_metadata(metadata: object) -> None:
    """Refuses metadata of another form, which comes with the SAE from wherever it is from."""
    if not isinstance(metadata, dict):
        raise TypeError(f"metadata is {metadata!r}")
    for name, kind in _METADATA.items():
        value = metadata.get(name)
        if value is not None and not isinstance(value, kind):
            raise TypeError(
                f"{name} in metadata is {value!r}, and has to be of type {kind.__name__}"
            )


def is_groups_own(sae: SAE[Any]) -> bool:
    """Whether an SAE is a group's, on scaled activations, rather than one layer's exported one."""
    return _is_groups(sae.cfg.metadata.sae_lens_groups)


def _is_groups(facts: Mapping[str, Any] | None) -> bool:
    return facts is not None and "layers" in facts and "layer" not in facts


def find_saes(folder: Path, name: str | None = None) -> dict[str, SavedSAE]:
    """The SAEs in a folder and the folders inside, by the hook that each says it is for.

    Args:
        name: what the user calls the folder.

    Raises:
        SuiteError: there is none, one is damaged, or two are for the same hook.
    """
    if name is None and not files.exists(folder):
        hint = "; for one on the Hub, SAESuite.from_pretrained" if is_repo_id(str(folder)) else ""
        raise SuiteError(
            f"{str(folder)!r} does not exist; give the output_path of a training run{hint}"
        )
    name = name or str(folder)
    saes = _sae_folders(folder)
    if len(saes) > 1 and any(sae.is_groups_own for sae in saes):
        raise SuiteError(
            f"{name!r} has no {files.SUITE}, and holds SAEs of a suite's groups; name the "
            "whole suite, or one of the SAEs in it: "
            + ", ".join(_name_in(folder, sae) for sae in saes[:8])
        )
    found: dict[str, SavedSAE] = {}
    for sae in saes:
        hook_name = str(sae.metadata.get("hook_name"))
        if hook_name in found:
            raise SuiteError(
                f"{name!r} holds two SAEs for {hook_name}, "
                f"{_name_in(folder, found[hook_name])} and {_name_in(folder, sae)}; "
                "name the folder of one"
            )
        found[hook_name] = sae
    if not found:
        raise SuiteError(
            f"{name!r} is neither a suite nor a folder of SAELens SAEs: it has no "
            f"{files.SUITE}, and no {SAE_CFG_FILENAME} in itself or in the folders inside; "
            "give the output_path of a training run"
        )
    return found


def _sae_folders(folder: Path) -> list[SavedSAE]:
    suite, name = suite_around(folder)
    own = SavedSAE(suite, name)
    if suite.has(own.file_name(SAE_CFG_FILENAME)):
        return [own]
    inside = (path.parent.relative_to(folder) for path in folder.rglob(SAE_CFG_FILENAME))
    visible = (path for path in inside if not any(part.startswith(".") for part in path.parts))
    return [SavedSAE(suite, own.file_name(path.as_posix())) for path in sorted(visible)]


def _name_in(folder: Path, sae: SavedSAE) -> str:
    return sae.folder.absolute().relative_to(folder.absolute()).as_posix()
