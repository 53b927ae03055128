"""SAEs without a suite around them: others trained them, or it is the SAE of one group."""

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.constants import SAE_CFG_FILENAME
from sae_lens.training.activation_scaler import ActivationScaler
from typing_extensions import override

from sae_lens_groups import files
from sae_lens_groups.errors import HookNameError, SuiteError
from sae_lens_groups.files import suite_around
from sae_lens_groups.layers import HookTemplate, LayerGroup, Layers, layer_in
from sae_lens_groups.saved.manifest import SuiteManifest
from sae_lens_groups.saved.sae import SavedSAE, is_of_group
from sae_lens_groups.saved.source import SAESource

UNKNOWN = "unknown"
"""What the manifest says where the SAEs do not name their model, or the version of SAELens."""


class OtherSAEs(SAESource):
    """The SAEs in a folder that is not a suite, and in the folders inside; with a pattern, in those
    of the folders inside that it matches.

    One for each layer, started from in the form that it is in; or a single one, which may be that
    of a group in a suite or a checkpoint, with its layers' scaling beside it.

    Raises:
        SuiteError: there is none, one is damaged, or they cannot stand side by side.
    """

    def __init__(self, folder: Path, name: str, pattern: str | None = None) -> None:
        self._saes = _found(folder, name, pattern)
        self.manifest = known(name, {sae.name: sae.metadata for sae in self._saes})

    def saved(self, layer: int) -> SavedSAE:
        """Where a layer's SAE lies."""
        return next(sae for sae in self._saes if layer in _layers(sae.metadata))

    @property
    @override
    def runner_cfg(self) -> Mapping[str, Any] | None:
        sae = self.saved(self.manifest.layers[0])
        name = sae.file_name(files.RUNNER_CFG)
        return sae.suite.json(name) if sae.suite.has(name) else None

    @override
    def require_layers(self, layers: Layers | None) -> list[int]:
        for sae in self._saes:
            sae.require_plain()
        return self.manifest.require_layers(layers)

    @override
    def layer(self, layer: int, device: str = "cpu") -> SAE[Any]:
        return self.saved(layer).plain(device)

    @override
    def group(self, group: LayerGroup, device: str = "cpu") -> SAE[Any]:
        return self.saved(group.first).load(device)

    @override
    def scaler(self, layer: int) -> ActivationScaler | None:
        return self.saved(layer).scaler(layer)

    @override
    def log_sparsity(self, layer: int) -> torch.Tensor | None:
        return self.saved(layer).log_sparsity()


def known(name: str, saes: Mapping[str, Mapping[str, Any]]) -> SuiteManifest:
    """What is known of SAEs that were trained elsewhere: `saes` is folder -> metadata.

    Raises:
        SuiteError: they are not for one kind of hook.
    """
    templates = {_template(name, folder, saes[folder], len(saes) == 1) for folder in saes}
    kinds = sorted(map(str, templates))
    if len(kinds) > 1:
        raise SuiteError(
            f"{name!r} holds SAEs for {len(kinds)} kinds of hooks, {', '.join(kinds)}; "
            "give a folder that has one kind (of a repository on the Hub, `hf download` makes one)"
        )
    facts = list(saes.values())
    return SuiteManifest(
        groups=tuple(sorted(LayerGroup.from_layers(_layers(metadata)) for metadata in facts)),
        hook_template=templates.pop(),
        scaling_factors={
            layer: _ours(metadata).get("scaling_factor")
            for metadata in facts
            for layer in _layers(metadata)
        },
        model_name=str(facts[0].get("model_name") or UNKNOWN),
        versions={"sae-lens": str(facts[0].get("sae_lens_version") or UNKNOWN)},
    )


def _template(name: str, folder: str, metadata: Mapping[str, Any], is_alone: bool) -> HookTemplate:
    hook_name = metadata.get("hook_name")
    try:
        return HookTemplate.from_hook_name(str(hook_name))
    except HookNameError as error:
        why = (
            f"does not say which layer its SAE is for: its hook_name is {hook_name!r} ({error})"
            if is_alone
            else f"is not a suite, because of the SAE in {folder!r}: {error}"
        )
        raise SuiteError(f"{name!r} {why}") from error


def _ours(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an SAE says of the group that it was trained in."""
    return metadata.get("sae_lens_groups") or {}


def _layers(metadata: Mapping[str, Any]) -> list[int]:
    """The layer that an SAE is for; all of its layers if it is a group's own."""
    hook_name, facts = str(metadata.get("hook_name")), _ours(metadata)
    if is_of_group(facts):
        return facts["layers"]
    return [layer_in(hook_name)]


def _found(folder: Path, name: str, pattern: str | None) -> list[SavedSAE]:
    """The SAEs in a folder and the folders inside, at most one for each hook.

    Args:
        name: what the user calls the folder.
        pattern: which of the folders inside, as `matches` takes it; all where it is None.
    """
    saes = _in_and_inside(folder, pattern)
    if not saes:
        if pattern is not None:
            raise SuiteError(
                f"{name!r} names no SAELens SAE: of the folders in {str(folder)!r} that it matches, "
                f"none holds {SAE_CFG_FILENAME}"
            )
        raise SuiteError(
            f"{name!r} is neither a suite nor a folder of SAELens SAEs: it has no "
            f"{files.SUITE}, and no {SAE_CFG_FILENAME} in itself or in the folders inside; "
            "give the output_path of a training run"
        )
    if len(saes) == 1:
        _require_sound(name, saes[0])
    elif any(sae.is_groups_own for sae in saes):
        raise SuiteError(
            f"{name!r} has no {files.SUITE}, and holds SAEs of a suite's groups; name the "
            "whole suite, or one of the SAEs in it: "
            + ", ".join(_name_in(folder, sae) for sae in saes[:8])
        )
    found: dict[str, SavedSAE] = {}
    for sae in saes:
        other = found.setdefault(str(sae.metadata.get("hook_name")), sae)
        if other is not sae:
            raise SuiteError(
                f"{name!r} holds two SAEs for {sae.metadata.get('hook_name')}, "
                f"{_name_in(folder, other)} and {_name_in(folder, sae)}; name the folder of one"
            )
    return saes


def _require_sound(name: str, sae: SavedSAE) -> None:
    try:
        assert sae.cfg is not None
    except SuiteError as error:
        raise SuiteError(f"{name!r} holds no SAELens SAE: {error}") from error


def matches(path: PurePath, pattern: str) -> bool:
    """Whether a path, name by name, is what a pattern such as `layer_*/trainer_0` stands for."""
    return len(path.parts) == len(PurePath(pattern).parts) and path.match(pattern)


def _in_and_inside(folder: Path, pattern: str | None) -> list[SavedSAE]:
    suite, name = suite_around(folder)
    own = SavedSAE(suite, name)
    if pattern is None and suite.has(own.file_name(SAE_CFG_FILENAME)):
        return [own]
    inside = (path.parent.relative_to(folder) for path in folder.rglob(SAE_CFG_FILENAME))
    if pattern is not None:
        n_names = len(PurePath(pattern).parts)
        inside = (path for path in inside if matches(PurePath(*path.parts[:n_names]), pattern))
    visible = (path for path in inside if not any(part.startswith(".") for part in path.parts))
    return [SavedSAE(suite, own.file_name(path.as_posix())) for path in sorted(visible)]


def _name_in(folder: Path, sae: SavedSAE) -> str:
    return sae.folder.absolute().relative_to(folder.absolute()).as_posix()
