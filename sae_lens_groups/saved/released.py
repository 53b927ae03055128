"""SAEs by SAELens's names, found, downloaded and loaded by it."""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from sae_lens import SAE
from sae_lens.loading.pretrained_sae_loaders import (
    NAMED_PRETRAINED_SAE_CONFIG_GETTERS,
    NAMED_PRETRAINED_SAE_LOADERS,
    handle_config_defaulting,
    load_sae_config_from_huggingface,
)
from sae_lens.loading.pretrained_saes_directory import (
    get_norm_scaling_factor,
    get_pretrained_saes_directory,
)
from sae_lens.training.activation_scaler import ActivationScaler
from typing_extensions import override

from sae_lens_groups.errors import HubError, SuiteError, first_line
from sae_lens_groups.layers import Layers
from sae_lens_groups.saved.hub import HubRepo
from sae_lens_groups.saved.others import known, matches
from sae_lens_groups.saved.sae import for_scaled_rows, is_of_group, unwritten_scaler
from sae_lens_groups.saved.source import SAESource
from sae_lens_groups.scaling import ESTIMATED_MODES, MEAN_NORM, without_model_kwargs_advice


class ReleasedSAEs(SAESource):
    """The SAE `release:sae_id`, or one for each of several layers: those of an id with a `*`, and all
    of a release that is named alone.

    What they say of themselves is fetched at once, an SAE when it is asked for. `converter` is
    SAELens's name of another library's format, for a repository that SAELens does not list.

    Raises:
        HubError: SAELens finds none, or the release that was named alone has several for a layer.
        SuiteError: one does not say which layer it is for, is a group's, or has the layer of another.
    """

    def __init__(self, name: str, release: str, sae_id: str, converter: str | None = None) -> None:
        self._name, self._release, self._converter = name, release, converter
        self.is_whole_release = name == release
        ids = _sae_ids(release, sae_id) if converter is None else _ids_in(release, sae_id)
        if self.is_whole_release:
            _require_one_per_layer(release, ids)
        cfgs: dict[str, dict[str, Any]] = {}
        for found in ids:
            with self._fetching(found):
                cfgs[found] = _cfg(release, found, converter)
        metadata = {found: cfg["metadata"] for found, cfg in cfgs.items()}
        if any(is_of_group(of.get("sae_lens_groups")) for of in metadata.values()):
            raise SuiteError(
                f"{name!r} is a group's own SAE, whose scaling lies beside it; "
                f"name the whole suite, {release}"
            )
        self.manifest = known(name, metadata)
        self._ids = self._one_each(metadata)
        self._modes = {found: _mode(release, found, cfg) for found, cfg in cfgs.items()}

    def _one_each(self, metadata: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        ids: dict[str, str] = {}
        for found, of in metadata.items():
            other = ids.setdefault(of["hook_name"], found)
            if other != found:
                raise SuiteError(
                    f"{self._name!r} names two SAEs for {of['hook_name']}, {other} and {found}; "
                    "write more of the sae_id, so that each layer has one"
                )
        return ids

    @contextlib.contextmanager
    def _fetching(self, sae_id: str) -> Iterator[None]:
        try:
            with without_model_kwargs_advice():
                yield
        except Exception as error:  # the client raises whatever its transport does
            raise HubError(
                f"{self._name!r}: SAELens finds no SAE {sae_id!r} in {self._release!r}: "
                f"{first_line(error)}"
            ) from error

    def _id(self, layer: int) -> str:
        return self._ids[self.manifest.hook_template.hook_name(layer)]

    @override
    def require_layers(self, layers: Layers | None) -> list[int]:
        if any(mode in ESTIMATED_MODES for mode in self._modes.values()):
            raise for_scaled_rows(self._name)
        return self.manifest.require_layers(layers)

    @override
    def layer(self, layer: int, device: str = "cpu") -> SAE[Any]:
        sae_id = self._id(layer)
        with self._fetching(sae_id):
            load = (
                None if self._converter is None else NAMED_PRETRAINED_SAE_LOADERS[self._converter]
            )
            return SAE.from_pretrained(self._release, sae_id, device, converter=load)

    @override
    def scaler(self, layer: int) -> ActivationScaler | None:
        return unwritten_scaler(self._name, self._modes[self._id(layer)])


def is_converter(name: str) -> bool:
    """Whether SAELens reads a format of this name: `sparsify`, `dictionary_learning_1` and so on."""
    return name in NAMED_PRETRAINED_SAE_LOADERS


def is_release(name: str) -> bool:
    """Whether SAELens lists a release of this name."""
    return name in get_pretrained_saes_directory()


_LAYER_IN_ID = re.compile(r"(?<![a-z])(?:layers?|blocks?|l)[._-]?(\d+)", re.IGNORECASE)


def _require_one_per_layer(release: str, ids: Sequence[str]) -> None:
    """Refuses a release of several SAEs for a layer, by their ids alone: there may be hundreds."""
    found = [match for one in ids if (match := _LAYER_IN_ID.search(one)) is not None]
    of_layer: dict[int, list[str]] = {}
    for match in found:
        of_layer.setdefault(int(match[1]), []).append(match.string)
    several = next((item for item in sorted(of_layer.items()) if len(item[1]) > 1), None)
    if several is None:
        return
    layer, (first, second, *others) = several
    patterns = Counter(f"{one.string[: one.start(1)]}*{one.string[one.end(1) :]}" for one in found)
    raise HubError(
        f"{release!r} has {2 + len(others)} SAEs for layer {layer}, such as {first} and {second}; "
        f"name one of each layer with a pattern, such as {release}:{patterns.most_common(1)[0][0]}"
    )


def _ids_in(repo_id: str, sae_id: str) -> list[str]:
    """The folders of a repository that an id with a `*` names, or the id itself.

    Raises:
        HubError: none of them holds the settings of an SAE.
    """
    if "*" not in sae_id:
        return [sae_id]
    folder = HubRepo(repo_id).fetch([f"{sae_id}/*.json"])
    inside = {
        PurePosixPath(path.parent.relative_to(folder).as_posix()) for path in folder.rglob("*.json")
    }
    found = sorted(str(path) for path in inside if matches(path, sae_id))
    if not found:
        raise HubError(
            f"{repo_id!r} has no folder {sae_id!r} with a JSON file of settings in it; look at the "
            "repository's files, and name folders with * for the layer"
        )
    return found


def _cfg(release: str, sae_id: str, converter: str | None) -> dict[str, Any]:
    if converter is None:
        return load_sae_config_from_huggingface(release, sae_id)
    getter = NAMED_PRETRAINED_SAE_CONFIG_GETTERS[converter]
    return handle_config_defaulting(getter(release, sae_id, "cpu", False, {}))


def _sae_ids(release: str, sae_id: str) -> list[str]:
    """Those of a release that SAELens knows, or the id itself, of a repository on the Hub.

    Raises:
        HubError: none is called so.
    """
    registered = get_pretrained_saes_directory().get(release)
    if registered is None and "/" in release and "*" not in sae_id:
        return [sae_id]
    if registered is None:
        raise HubError(
            f"SAELens knows no release {release!r} to find {sae_id!r} in; of a repository on the Hub "
            "name the whole, owner/repo, or one SAE, owner/repo:sae_id"
        )
    there = list(registered.saes_map)
    found = [one for one in there if one == sae_id] or [
        one for one in there if fnmatchcase(one, sae_id)
    ]
    if not found:
        shown = ", ".join(there[:4]) + (f" and {len(there) - 4} more" if len(there) > 4 else "")
        raise HubError(f"{release!r} has no SAE {sae_id!r}; it has {shown}")
    return found


def _mode(release: str, sae_id: str, cfg: Mapping[str, Any]) -> str:
    """What its activations are normalised by, which SAELens folds in where its list has the factor."""
    mode = cfg.get("normalize_activations") or "none"
    is_folded = mode == MEAN_NORM and get_norm_scaling_factor(release, sae_id) is not None
    return "none" if is_folded else mode
