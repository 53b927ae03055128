"""SAEs in SAELens's folders: found, and read into the form in which a layer's SAE is used."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sae_lens import SAE, TrainingSAE
from sae_lens.constants import (
    ACTIVATION_SCALER_CFG_FILENAME,
    SAE_CFG_FILENAME,
)
from sae_lens.loading.pretrained_sae_loaders import (
    get_sae_lens_config_from_disk,
    handle_config_defaulting,
)
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups import files
from sae_lens_groups.errors import SuiteError
from sae_lens_groups.fold import layer_sae
from sae_lens_groups.hub import is_repo_id
from sae_lens_groups.normalization import ESTIMATED_MODES
from sae_lens_groups.quiet import without_model_kwargs_advice
from sae_lens_groups.unreadable import UNREADABLE


@dataclass(frozen=True)
class SavedSAE:
    """A folder that SAELens wrote an SAE to. Its weights are read when they are asked for."""

    folder: Path

    @cached_property
    def cfg(self) -> Mapping[str, Any]:
        """What `cfg.json` says, in the form of SAELens 6.

        Raises:
            SuiteError: it is damaged, or no SAE's.
        """
        try:
            cfg = handle_config_defaulting(get_sae_lens_config_from_disk(self.folder))
            assert isinstance(cfg["metadata"], dict)
            return cfg
        except (*UNREADABLE, AssertionError) as error:
            raise self._unusable(error) from error

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

    @property
    def scaler_file(self) -> Path:
        """Where SAELens's checkpoints keep the scaling of the activations; often not there."""
        return self.folder / ACTIVATION_SCALER_CFG_FILENAME

    def load(self) -> SAE[Any]:
        """The SAE in the form that it is in."""
        with without_model_kwargs_advice():
            return (TrainingSAE if self.is_training_form else SAE).load_from_disk(self.folder)

    def plain(self, device: str) -> SAE[Any]:
        """The SAE in inference form, with its scaling folded in.

        Raises:
            SuiteError: its weights are damaged, or its scaling is not beside it.
        """
        try:
            return self._plain(device)
        except SuiteError:
            raise
        except UNREADABLE as error:
            raise self._unusable(error) from error

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
        return self.is_training_form and self.scaler_file.exists()

    def _plain(self, device: str) -> SAE[Any]:
        self.require_plain()
        with without_model_kwargs_advice():
            if not self.is_training_form:
                return SAE.load_from_disk(self.folder, device=device)
            trained = TrainingSAE.load_from_disk(self.folder, device=device)
        scaler = ActivationScaler()
        if self._has_scaling:
            scaler.load(self.scaler_file)
        sae = layer_sae(trained, scaler, {})
        sae.cfg.normalize_activations = "none"  # it is folded in now
        return sae

    def _unusable(self, error: Exception) -> SuiteError:
        return SuiteError(f"{str(self.folder)!r} does not hold a SAELens SAE: {error!r}")


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
    if (folder / SAE_CFG_FILENAME).is_file():
        return [SavedSAE(folder)]
    inside = (path.parent for path in folder.rglob(SAE_CFG_FILENAME))
    visible = (
        path
        for path in inside
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    return [SavedSAE(path) for path in sorted(visible)]


def _name_in(folder: Path, sae: SavedSAE) -> str:
    return sae.folder.relative_to(folder).as_posix()
