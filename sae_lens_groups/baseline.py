"""Opens what a suite is compared with: another suite, or SAEs that SAELens trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens import SAE, TrainingSAE
from sae_lens.constants import ACTIVATION_SCALER_CFG_FILENAME, SAE_CFG_FILENAME
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups import files
from sae_lens_groups.errors import SuiteError
from sae_lens_groups.fold import layer_sae
from sae_lens_groups.normalization import ESTIMATED_MODES
from sae_lens_groups.quiet import without_model_kwargs_advice
from sae_lens_groups.source import is_groups_own, is_training_form
from sae_lens_groups.suite import SAESuite, read_json
from sae_lens_groups.unreadable import UNREADABLE


@dataclass(frozen=True)
class Baseline:
    """SAEs by hook name, which take a layer's activations as they are."""

    name: str
    saes: Mapping[str, SAE[Any]]
    n_saes: int
    """How many were trained: fewer than layers where layers share one."""
    is_one_run: bool = False
    """Whether one run trained them all."""
    runner_cfg: Mapping[str, Any] | None = None
    """The settings of the run, where they are known."""
    dataset_rows_read: int | None = None
    """Rows of its dataset that training read, where they are known."""

    @classmethod
    def of(cls, saes: Mapping[str, SAE[Any]], name: str = "baseline") -> "Baseline":
        """What is known of these SAEs; a suite knows how it was trained, and its folder's name."""
        if not isinstance(saes, SAESuite):
            return cls(name, saes, len(saes))
        return cls(
            name if saes.path is None else saes.path.resolve().name,
            saes,
            len(saes.manifest.trained_groups),
            is_one_run=True,
            runner_cfg=saes.runner_cfg,
            dataset_rows_read=saes.manifest.dataset_rows_read,
        )

    @property
    def trained_hook_names(self) -> list[str]:
        """The hooks that its training read; a filled-in suite was trained at some of its own."""
        if isinstance(self.saes, SAESuite):
            manifest = self.saes.manifest
            return manifest.hook_template.hook_names(manifest.trained_groups)
        return list(self.saes)


def open_baseline(path: str | Path, device: str = "cpu") -> Baseline:
    """A suite's folder, the folder of a SAELens SAE, or one that holds such folders.

    Raises:
        SuiteError: there is none of these, or an SAE in it cannot be used.
    """
    path = Path(path)
    if (path / files.SUITE).is_file():
        return Baseline.of(SAESuite.load(path, device))
    found = sorted({*path.glob(SAE_CFG_FILENAME), *path.glob(f"*/{SAE_CFG_FILENAME}")})
    if not found:
        raise SuiteError(
            f"baseline {str(path)!r} is neither a suite nor a folder of SAELens SAEs: it has no "
            f"{files.SUITE}, and no {SAE_CFG_FILENAME} in itself or in the folders inside"
        )
    saes: dict[str, SAE[Any]] = {}
    for folder in (file.parent for file in found):
        sae = _plain_sae(folder, device)
        hook_name = str(sae.cfg.metadata.hook_name)
        if hook_name in saes:
            raise SuiteError(
                f"baseline {str(path)!r} holds two SAEs for {hook_name}; name the folder of one"
            )
        saes[hook_name] = sae
    settings = found[0].with_name(files.RUNNER_CFG)
    return Baseline(
        path.resolve().name,
        saes,
        len(saes),
        runner_cfg=read_json(settings) if settings.is_file() else None,
    )


def _plain_sae(folder: Path, device: str) -> SAE[Any]:
    """The SAE in a folder, in inference form and with its scaling folded in."""
    try:
        with without_model_kwargs_advice():
            if not is_training_form(folder):
                return _folded(SAE.load_from_disk(folder, device=device), folder)
            trained = TrainingSAE.load_from_disk(folder, device=device)
        if is_groups_own(trained):
            raise _unscaled(folder)
        scaler = ActivationScaler()
        if (folder / ACTIVATION_SCALER_CFG_FILENAME).exists():
            scaler.load(folder / ACTIVATION_SCALER_CFG_FILENAME)
        elif trained.cfg.normalize_activations in ESTIMATED_MODES:
            raise _unscaled(folder)
        sae = layer_sae(trained, scaler, {})
        sae.cfg.normalize_activations = "none"  # it is folded in now
        return sae
    except UNREADABLE as error:
        if isinstance(error, SuiteError):
            raise
        raise SuiteError(f"{str(folder)!r} does not hold a SAELens SAE: {error}") from error


def _folded(sae: SAE[Any], folder: Path) -> SAE[Any]:
    if sae.cfg.normalize_activations in ESTIMATED_MODES:
        raise _unscaled(folder)
    return sae


def _unscaled(folder: Path) -> SuiteError:
    return SuiteError(
        f"{str(folder)!r} holds an SAE for scaled activations, without their scaling; name a whole "
        "suite, or the folder that SAELens's runner wrote to output_path, which has it folded in"
    )
