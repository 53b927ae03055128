"""Opens what `init_from` names: a suite or a single SAE, in a folder or on the Hub."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from sae_lens import SAE, TrainingSAE
from sae_lens.constants import ACTIVATION_SCALER_CFG_FILENAME, SAE_CFG_FILENAME
from sae_lens.training.activation_scaler import ActivationScaler
from safetensors import SafetensorError

from sae_lens_groups import files
from sae_lens_groups.errors import GroupSAEError, HookNameError, InitSourceError
from sae_lens_groups.layer_scalers import has_layer_scalers, load_layer_scalers
from sae_lens_groups.layers import HookTemplate, LayerGroup
from sae_lens_groups.normalization import MEAN_NORM, WHITENING
from sae_lens_groups.quiet import without_model_kwargs_advice
from sae_lens_groups.suite import read_manifest

_FORMS = (
    "name a suite's folder, the folder of a SAELens SAE, release:sae_id, owner/repo for a suite on "
    "the Hub, or owner/repo:sae_id for an SAE there"
)
# What torch, safetensors, json and SAELens raise on a folder that holds something else.
_DAMAGE = (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError)


@dataclass(frozen=True)
class SourceSAE:
    """An SAE to start from, and what it works on."""

    sae: SAE[Any]
    """In training or inference form."""
    scaler: ActivationScaler | None
    """From the layer's raw activations to those the SAE takes. None where only their mean norm is
    known, which is sqrt(d_in)."""


@dataclass(frozen=True)
class InitSource:
    """Trained SAEs that others can start from."""

    name: str
    """As `init_from` gives it."""
    groups: tuple[LayerGroup, ...]
    """The layers of each of its SAEs, lowest first."""
    hook_template: HookTemplate
    load: Callable[[LayerGroup, int], SourceSAE]
    """The SAE of a group, for one of its layers."""
    training_tokens: int | None
    """How many tokens it was trained on; None where it does not say."""
    suite_folder: Path | None = None
    """Where the suite lies, if it is one."""

    @property
    def layers(self) -> list[int]:
        """All layers that it has SAEs for, lowest first."""
        return [layer for group in self.groups for layer in group.layers]

    def group_of(self, layer: int) -> LayerGroup:
        """The group that one of its layers belongs to."""
        return next(group for group in self.groups if layer in group.layers)

    def sae_for(self, layer: int) -> SourceSAE:
        """The SAE of one of its layers.

        Raises:
            InitSourceError: it is missing or damaged.
        """
        try:
            return self.load(self.group_of(layer), layer)
        except InitSourceError:
            raise
        except _DAMAGE as error:
            raise InitSourceError(
                f"init_from {self.name!r} has no usable SAE for layer {layer}: {error}"
            ) from error

    @cached_property
    def first(self) -> SourceSAE:
        """The SAE of its first layer; what it says of itself holds for all."""
        return self.sae_for(self.layers[0])


def open_source(init_from: str, *, whole: bool = False) -> InitSource:
    """The SAEs that `init_from` names; downloads them where they lie on the Hub.

    Args:
        init_from: a folder, `release:sae_id`, `owner/repo` or `owner/repo:sae_id`.
        whole: of a suite on the Hub, downloads every file and not just what SAEs start from.

    Raises:
        InitSourceError: there is no such SAE or suite, or it does not say which layers it is for.
    """
    folder = Path(init_from).expanduser()
    if folder.exists():
        return _open_folder(init_from, folder)
    release, colon, sae_id = init_from.partition(":")
    if init_from.startswith((".", "/", "~")) or not (colon or init_from.count("/") == 1):
        raise InitSourceError(f"init_from {init_from!r} does not exist; {_FORMS}")
    if colon:
        return _open_hub_sae(init_from, release, sae_id)
    return _open_folder(init_from, _downloaded_suite(init_from, whole=whole))


def _open_folder(name: str, folder: Path) -> InitSource:
    if (folder / files.SUITE).is_file():
        return _open_suite(name, folder)
    if (folder / SAE_CFG_FILENAME).is_file():
        return _open_sae_folder(name, folder)
    inside = sorted(path.parent.name for path in folder.glob(f"*/{SAE_CFG_FILENAME}"))
    raise InitSourceError(
        f"init_from {name!r} is neither a suite nor a SAELens SAE: it has no {files.SUITE} and no "
        f"{SAE_CFG_FILENAME}; "
        + (f"name one of the SAEs in it: {', '.join(inside[:8])}" if inside else _FORMS)
    )


def _open_suite(name: str, folder: Path) -> InitSource:
    try:
        manifest = read_manifest(folder)
    except GroupSAEError as error:
        raise InitSourceError(f"init_from {name!r}: {error}") from error

    def load(group: LayerGroup, layer: int) -> SourceSAE:
        of_group = folder / files.GROUPS / group.name
        return SourceSAE(_load_sae(of_group), load_layer_scalers(of_group, [layer])[layer])

    return InitSource(
        name,
        manifest.groups,
        manifest.hook_template,
        load,
        training_tokens=_training_tokens(folder),
        suite_folder=folder,
    )


def _open_sae_folder(name: str, folder: Path) -> InitSource:
    try:
        sae = _load_sae(folder)
    except _DAMAGE as error:
        raise InitSourceError(f"init_from {name!r} holds no SAELens SAE: {error}") from error
    group, template = _layers_of(name, sae)
    if _is_groups_own(sae):  # a folder in a suite's groups/ or in a checkpoint
        if not has_layer_scalers(folder, group.layers):
            raise InitSourceError(
                f"init_from {name!r} lacks the scaling of its layers, which lies beside a group's "
                "SAE since sae-lens-groups 0.3.0; name the folder of one layer's SAE"
            )
        return InitSource(
            name,
            (group,),
            template,
            lambda _, layer: SourceSAE(sae, load_layer_scalers(folder, [layer])[layer]),
            training_tokens=_training_tokens(folder.parent, folder.parent.parent),
        )
    scaler_file = folder / ACTIVATION_SCALER_CFG_FILENAME
    return InitSource(
        name,
        (group,),
        template,
        lambda _, __: SourceSAE(sae, _scaler_of(name, sae, scaler_file)),
        training_tokens=_training_tokens(folder, folder.parent),
    )


def _open_hub_sae(name: str, release: str, sae_id: str) -> InitSource:
    try:
        with without_model_kwargs_advice():
            sae: SAE[Any] = SAE.from_pretrained(release, sae_id)
    except Exception as error:  # the client raises whatever its transport does
        raise InitSourceError(
            f"init_from {name!r}: SAELens finds no SAE {sae_id!r} in {release!r}: "
            f"{_first_line(error)}; {_FORMS}"
        ) from error
    group, template = _layers_of(name, sae)
    source = SourceSAE(sae, _scaler_of(name, sae, None))
    return InitSource(name, (group,), template, lambda _, __: source, training_tokens=None)


def _downloaded_suite(repo_id: str, *, whole: bool) -> Path:
    wanted = None if whole else [files.SUITE, files.RUNNER_CFG, f"{files.GROUPS}/*"]
    try:
        return Path(snapshot_download(repo_id, allow_patterns=wanted))
    except Exception as error:  # the client raises whatever its transport does
        raise InitSourceError(
            f"init_from {repo_id!r} is no folder, and cannot be had from the Hub: "
            f"{_first_line(error)}; {_FORMS}"
        ) from error


def _load_sae(folder: Path) -> SAE[Any]:
    """The SAE in a folder, in the form that it is in."""
    with without_model_kwargs_advice():
        return (TrainingSAE if is_training_form(folder) else SAE).load_from_disk(folder)


def is_training_form(folder: Path) -> bool:
    """Whether a folder holds an SAE that can be trained further, rather than its inference form."""
    return "decoder_init_norm" in json.loads((folder / SAE_CFG_FILENAME).read_text())


def _layers_of(name: str, sae: SAE[Any]) -> tuple[LayerGroup, HookTemplate]:
    """The layers that a single SAE is for: a group's, or the one of its hook."""
    metadata = sae.cfg.metadata
    hook_name = metadata.hook_name if "hook_name" in metadata else None
    try:
        template = HookTemplate.from_hook_name(str(hook_name))
    except HookNameError as error:
        raise InitSourceError(
            f"init_from {name!r} does not say which layer its SAE is for: its hook_name is "
            f"{hook_name!r}"
        ) from error
    if _is_groups_own(sae):
        return LayerGroup.from_layers(metadata.sae_lens_groups["layers"]), template
    layer = template.layer_of(str(hook_name))
    assert layer is not None
    return LayerGroup(layer, layer), template


def _is_groups_own(sae: SAE[Any]) -> bool:
    """Whether an SAE is a group's, on scaled activations, rather than one layer's exported one."""
    own: Mapping[str, Any] = sae.cfg.metadata.sae_lens_groups or {}
    return "layers" in own and "layer" not in own


def _scaler_of(name: str, sae: SAE[Any], scaler_file: Path | None) -> ActivationScaler | None:
    """What SAELens scaled a single SAE's activations by in training."""
    mode = sae.cfg.normalize_activations
    if mode not in (MEAN_NORM, WHITENING):
        return ActivationScaler()
    if scaler_file is not None and scaler_file.exists():
        scaler = ActivationScaler()
        scaler.load(scaler_file)
        return scaler
    if mode == MEAN_NORM:
        return None
    raise InitSourceError(
        f"init_from {name!r} works on whitened activations, and the whitening is not beside it; "
        "name one of SAELens's checkpoint folders, or the trained SAE, which has it folded in"
    )


def _training_tokens(*folders: Path) -> int | None:
    """From the first of these folders that a run left its settings in."""
    for folder in folders:
        if (folder / files.RUNNER_CFG).is_file():
            try:
                return int(json.loads((folder / files.RUNNER_CFG).read_text())["training_tokens"])
            except (ValueError, KeyError, TypeError):
                return None
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
