"""Opens trained SAEs wherever they lie: a folder, or the Hub."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens import SAE
from sae_lens.constants import SAE_CFG_FILENAME
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups import files
from sae_lens_groups.errors import (
    GroupSAEError,
    HookNameError,
    InitSourceError,
    SuiteError,
    first_line,
)
from sae_lens_groups.files.folder import CheckedFolder
from sae_lens_groups.files.reading import MISREAD, UNREADABLE
from sae_lens_groups.layers import HookTemplate, LayerGroup
from sae_lens_groups.saved.download import FACTS, download_groups, download_suite
from sae_lens_groups.saved.hub import HubRepo
from sae_lens_groups.saved.others import imported_manifest
from sae_lens_groups.saved.sae import SavedSAE, find_saes, is_groups_own
from sae_lens_groups.saved.suite import SavedSuite
from sae_lens_groups.scaling.fold import without_model_kwargs_advice
from sae_lens_groups.scaling.group_scaling import MEAN_NORM, WHITENING
from sae_lens_groups.scaling.stored import load_layer_scaler
from sae_lens_groups.suite import SAESuite

FORMS = (
    "name a suite's folder, the folder of one or several SAELens SAEs, release:sae_id, owner/repo "
    "for a suite on the Hub, or owner/repo:sae_id for an SAE there"
)


@dataclass(frozen=True)
class HubSuite:
    """A suite in a repository of the Hub."""

    repo_id: str

    def facts_folder(self) -> Path:
        """A local folder with what the suite says of itself, and perhaps more."""
        with self._as_source():
            return HubRepo(self.repo_id).fetch(FACTS)

    def groups_folder(self, *, whole: bool) -> Path:
        """A local folder with the SAEs of its groups too; with all its files if `whole`."""
        with self._as_source():
            repo = HubRepo(self.repo_id)
            return download_suite(repo, None) if whole else download_groups(repo)

    @contextlib.contextmanager
    def _as_source(self) -> Iterator[None]:
        try:
            yield
        except GroupSAEError as error:
            raise InitSourceError(
                f"init_from {self.repo_id!r} is no folder, and cannot be had from the Hub: "
                f"{error}; {FORMS}"
            ) from error


@dataclass(frozen=True)
class HubSAE:
    """An SAE on the Hub, by SAELens's names."""

    release: str
    sae_id: str


def locate(init_from: str) -> Path | HubSuite | HubSAE:
    """Where the SAEs lie that `init_from` names; nothing is downloaded.

    Raises:
        InitSourceError: it is no folder, and has none of the forms that mean the Hub.
    """
    folder = files.expanded(init_from)
    if files.exists(folder):
        return folder
    release, colon, sae_id = init_from.partition(":")
    if init_from.startswith((".", "/", "~")) or not (colon or init_from.count("/") == 1):
        raise InitSourceError(f"init_from {init_from!r} does not exist; {FORMS}")
    return HubSAE(release, sae_id) if colon else HubSuite(init_from)


def training_tokens_of(init_from: str) -> int | None:
    """How many tokens the SAEs that `init_from` names were trained on; None where they do not say.

    Raises:
        InitSourceError: there are no such SAEs.
    """
    place = locate(init_from)
    if isinstance(place, HubSAE):
        return None
    folder = place.facts_folder() if isinstance(place, HubSuite) else place
    if (folder / files.TRAINER_STATE).exists():
        return None  # a checkpoint of a run that was to go on
    # A single SAE lies in its run's folder or, in a suite, one or two levels below it.
    suites = (level for level in (folder.parent, folder.parent.parent) if _is_suite(level))
    return next((n for level in (folder, *suites) if (n := _training_tokens(level))), None)


def run_training_tokens(folder: Path) -> int | None:
    """How many tokens the run was to train on that left its settings in a folder, if one did."""
    try:
        settings = files.parse_json((folder / files.RUNNER_CFG).read_text(encoding="utf-8"))
        n_tokens = int(settings["training_tokens"])
    except (OSError, *MISREAD):
        return None
    return n_tokens if 0 < n_tokens < 2**63 else None


def _training_tokens(folder: Path) -> int | None:
    """`run_training_tokens` of what may be a suite, of which nothing altered is read."""
    suite = CheckedFolder(folder)
    try:
        if suite.has(files.RUNNER_CFG):
            suite.file(files.RUNNER_CFG)
    except SuiteError as error:
        raise InitSourceError(f"init_from {error}") from error
    return run_training_tokens(folder)


def _is_suite(folder: Path) -> bool:
    return (folder / files.SUITE).is_file()


@dataclass(frozen=True, kw_only=True)
class InitSource:
    """Trained SAEs that others can start from. They are read when they are asked for."""

    name: str
    """As `init_from` gives it."""
    groups: tuple[LayerGroup, ...]
    """The layers of each of its SAEs, lowest first."""
    hook_template: HookTemplate
    model_name: str | None
    load_sae: Callable[[LayerGroup], SAE[Any]]
    load_scaler: Callable[[int], ActivationScaler | None]
    suite_folder: Path | None = None
    """Where the suite lies, if it is one."""

    @property
    def layers(self) -> list[int]:
        """All layers that it has SAEs for, lowest first."""
        return [layer for group in self.groups for layer in group.layers]

    def group_of(self, layer: int) -> LayerGroup:
        """The group that one of its layers belongs to."""
        return next(group for group in self.groups if layer in group.layers)

    def sae(self, group: LayerGroup) -> SAE[Any]:
        """The SAE of one of its groups, in training or inference form.

        Raises:
            InitSourceError: it is missing or damaged.
        """
        return self._read(self.load_sae, group, f"SAE for group {group}")

    def scaler(self, layer: int) -> ActivationScaler | None:
        """From the raw activations of a layer to those its SAE takes.

        None where only their mean norm is known, which is sqrt(d_in).

        Raises:
            InitSourceError: it is missing or damaged.
        """
        return self._read(self.load_scaler, layer, f"scaling of layer {layer}")

    def _read(self, load: Callable[[Any], Any], what: LayerGroup | int, in_words: str) -> Any:
        try:
            return load(what)
        except InitSourceError:
            raise
        except UNREADABLE as error:
            raise InitSourceError(
                f"init_from {self.name!r} has no usable {in_words}: {first_line(error)}"
            ) from error


def open_source(init_from: str, *, whole: bool = False) -> InitSource:
    """The SAEs that `init_from` names; downloads them where they lie on the Hub.

    Args:
        init_from: a folder, `release:sae_id`, `owner/repo` or `owner/repo:sae_id`.
        whole: of a suite on the Hub, downloads every file and not just what SAEs start from.

    Raises:
        InitSourceError: there is no such SAE or suite, or it does not say which layers it is for.
    """
    place = locate(init_from)
    if isinstance(place, HubSAE):
        return _open_hub_sae(init_from, place)
    if isinstance(place, HubSuite):
        return _open_folder(init_from, place.groups_folder(whole=whole))
    return _open_folder(init_from, place)


def _open_folder(name: str, folder: Path) -> InitSource:
    try:
        suite = CheckedFolder(folder)
        if suite.is_suite():
            return _open_suite(name, suite)
        if (folder / SAE_CFG_FILENAME).is_file():
            return _open_sae_folder(name, folder)
        return _open_saes(name, find_saes(folder, name))
    except SuiteError as error:
        raise InitSourceError(f"init_from {error}") from error


def _open_suite(name: str, folder: CheckedFolder) -> InitSource:
    try:
        suite = SavedSuite(folder)
        if suite.manifest.is_imported:
            return _open_saes(name, _saes_of(suite))
    except GroupSAEError as error:
        raise InitSourceError(f"init_from {name!r}: {error}") from error

    def load_scaler(layer: int) -> ActivationScaler:
        if not suite.has_scalers:
            raise _without_scaling(name, layer)
        return suite.scaler(layer)

    return InitSource(
        name=name,
        groups=suite.manifest.groups,
        hook_template=suite.manifest.hook_template,
        model_name=suite.manifest.model_name,
        load_sae=lambda group: suite.group(group, "cpu"),
        load_scaler=load_scaler,
        suite_folder=folder.path,
    )


def _saes_of(suite: SavedSuite) -> dict[str, SavedSAE]:
    """The SAEs of a suite that was imported, by their hooks."""
    return {name: SavedSAE(suite.folder, name) for name in suite.manifest.hook_names}


def _open_saes(name: str, saes: Mapping[str, SavedSAE]) -> InitSource:
    """SAEs of several layers that were trained elsewhere."""
    manifest = imported_manifest(name, saes)

    def sae_of(layer: int) -> SavedSAE:
        return saes[manifest.hook_template.hook_name(layer)]

    return InitSource(
        name=name,
        groups=manifest.groups,
        hook_template=manifest.hook_template,
        model_name=manifest.model_name,
        load_sae=lambda group: sae_of(group.first).load(),
        load_scaler=lambda layer: _scaler_of(
            name, sae_of(layer).cfg.get("normalize_activations"), sae_of(layer)
        ),
    )


def _open_sae_folder(name: str, folder: Path) -> InitSource:
    saved = SavedSAE.at(folder)
    try:
        sae = saved.load()
    except UNREADABLE as error:
        raise InitSourceError(f"init_from {name!r} holds no SAELens SAE: {error}") from error
    if is_groups_own(sae):  # a folder in a suite's groups/ or in a checkpoint
        return _single(name, sae, lambda layer: _layer_scaler(name, saved, layer))
    mode = sae.cfg.normalize_activations
    return _single(name, sae, lambda _: _scaler_of(name, mode, saved))


def _open_hub_sae(name: str, place: HubSAE) -> InitSource:
    try:
        with without_model_kwargs_advice():
            sae: SAE[Any] = SAE.from_pretrained(place.release, place.sae_id)
    except Exception as error:  # the client raises whatever its transport does
        raise InitSourceError(
            f"init_from {name!r}: SAELens finds no SAE {place.sae_id!r} in {place.release!r}: "
            f"{first_line(error)}; {FORMS}"
        ) from error
    if is_groups_own(sae):
        raise InitSourceError(
            f"init_from {name!r} is a group's own SAE, whose scaling lies beside it; "
            f"name the whole suite, {place.release}"
        )
    return _single(name, sae, lambda _: _scaler_of(name, sae.cfg.normalize_activations, None))


def _single(
    name: str, sae: SAE[Any], load_scaler: Callable[[int], ActivationScaler | None]
) -> InitSource:
    metadata = sae.cfg.metadata
    hook_name = metadata.hook_name if "hook_name" in metadata else None
    try:
        template = HookTemplate.from_hook_name(str(hook_name))
    except HookNameError as error:
        raise InitSourceError(
            f"init_from {name!r} does not say which layer its SAE is for: its hook_name is "
            f"{hook_name!r}"
        ) from error
    layer = template.layer_of(str(hook_name))
    assert layer is not None
    of_group = is_groups_own(sae)
    return InitSource(
        name=name,
        groups=(
            LayerGroup.from_layers(metadata.sae_lens_groups["layers"] if of_group else [layer]),
        ),
        hook_template=template,
        model_name=metadata.model_name if "model_name" in metadata else None,
        load_sae=lambda _: sae,
        load_scaler=load_scaler,
    )


def _layer_scaler(name: str, group: SavedSAE, layer: int) -> ActivationScaler:
    folder = group.file_name(files.layer_scaler_folder(layer))
    if not group.suite.has(f"{folder}/{files.SCALER}"):
        raise _without_scaling(name, layer)
    return load_layer_scaler(group.suite, folder, group.d_in)


def _without_scaling(name: str, layer: int) -> InitSourceError:
    return InitSourceError(
        f"init_from {name!r} lacks the scaling of layer {layer}, which lies beside a group's "
        "SAE since sae-lens-groups 0.3.0; name the folder of one layer's SAE"
    )


def _scaler_of(name: str, mode: str | None, saved: SavedSAE | None) -> ActivationScaler | None:
    """What SAELens scaled a single SAE's activations by in training."""
    if mode not in (MEAN_NORM, WHITENING):
        return ActivationScaler()
    if saved is not None and (scaler := saved.scaler()) is not None:
        return scaler
    if mode == MEAN_NORM:
        return None
    raise InitSourceError(
        f"init_from {name!r} works on whitened activations, and the whitening is not beside it; "
        "name one of SAELens's checkpoint folders, or the trained SAE, which has it folded in"
    )


def load_suite(path: Path, device: str, layers: Iterable[int] | None = None) -> SAESuite:
    """The suite, or the SAEs of several layers, in a folder.

    Raises:
        SuiteError: there is neither, or it is broken or of a newer format.
        UnknownLayerError: it lacks one of the layers.
    """
    folder = CheckedFolder(path)
    if folder.is_suite():
        return _load_own(folder, device, layers)
    return _import(path, device, layers)


def _load_own(folder: CheckedFolder, device: str, layers: Iterable[int] | None) -> SAESuite:
    saved = SavedSuite(folder)
    held = saved.manifest.require_layers(layers)
    names = [saved.manifest.hook_template.hook_name(layer) for layer in held]
    missing = [name for name in names if not folder.has_folder(name)]
    if missing:
        raise SuiteError(
            f"suite {str(folder.path)!r} lacks the folders {', '.join(missing)}; copy or download "
            "it anew"
        )
    return SAESuite(
        saved.manifest,
        build_layer=lambda layer: saved.layer(layer, device),
        build_group=(lambda group: saved.group(group, device)) if saved.has_groups else None,
        build_scaler=saved.scaler if saved.has_scalers else None,
        build_sparsity=saved.log_sparsity,
        layers=held,
        runner_cfg=saved.runner_cfg,
        training_curves=saved.training_curves,
        path=folder.path,
    )


def _import(path: Path, device: str, layers: Iterable[int] | None) -> SAESuite:
    """A suite of SAEs that nobody trained in groups."""
    saes = find_saes(path)
    for sae in saes.values():
        sae.require_plain()
    manifest = imported_manifest(str(path), saes)
    template = manifest.hook_template

    def sae_of(layer: int) -> SavedSAE:
        return saes[template.hook_name(layer)]

    any_sae = sae_of(manifest.layers[0])
    settings = any_sae.file_name(files.RUNNER_CFG)
    return SAESuite(
        manifest,
        build_layer=lambda layer: sae_of(layer).plain(device),
        build_group=None,
        build_scaler=None,
        build_sparsity=lambda layer: sae_of(layer).log_sparsity(),
        layers=manifest.require_layers(layers),
        runner_cfg=any_sae.suite.json(settings) if any_sae.suite.has(settings) else None,
    )
