"""What of a suite is published: its files and no others, with the local paths in them rewritten."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sae_lens.constants import (
    SAE_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    SPARSITY_FILENAME,
)
from safetensors import safe_open

from sae_lens_groups import files
from sae_lens_groups.errors import PublishError, SuiteError
from sae_lens_groups.files import (
    ALL_RESULTS,
    BESIDE_THE_LAYERS,
    OF_A_LAYER,
    UNREADABLE,
    CheckedFolder,
    is_of_evaluation,
    lies_inside,
)
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.publish.public import PublicValues
from sae_lens_groups.saved import SuiteManifest
from sae_lens_groups.scaling import NONE

_WEIGHTS = ".safetensors"
_TO_DO = "nothing was published; copy the suite again, or train it again"


class PublicFiles(NamedTuple):
    """What of a suite is published, and what was left out of it."""

    contents: dict[str, Path | str]
    """Path in the repository -> the file as it lies here, or its new text."""
    local_paths: list[str]
    """The paths in place of which it has names."""


def public_files(
    suite_folder: Path,
    manifest: SuiteManifest,
    base_model: str | None = None,
    dataset_name: str | None = None,
) -> PublicFiles:
    """What of a suite is published, with names in place of local paths.

    Weights are neither read nor copied; a text that needs no change stays the file that it is.

    Args:
        base_model: what stands for the suite's own model, if that is local; None: its folder's name.
        dataset_name: the same for the dataset that the suite was trained on.

    Raises:
        PublishError: a file that the suite needs is missing or damaged.
    """
    found = _find_suite(Path(suite_folder), manifest)
    facts = {name: _text(name, path) for name, path in found.items() if _holds_facts(name)}
    public = PublicValues(
        folder=found.folder,
        manifest=manifest,
        settings=_settings(facts, manifest),
        base_model=base_model,
        dataset_name=dataset_name,
    )
    for name, text in facts.items():
        _json(name, text)  # is it whole?
        public.note_paths(text)
    published: dict[str, Path | str] = {}
    for name, path in found.items():
        if _is_weights(name):
            published[name] = path
            continue
        # One at a time: those of an evaluation are large.
        old = _text(name, path)
        new_name, new = _public_version(public, name, old)
        published[new_name] = path if new == old else new
    return PublicFiles(dict(sorted(published.items())), list(public.known))


class _Found(dict[str, Path]):
    """The files of a suite by their path in it, in the order in which they were looked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.suite = CheckedFolder(folder)

    def has(self, name: str) -> bool:
        """Whether the suite has this file; notes it then."""
        path = self.folder / name
        if not path.is_file() or not (_is_weights(name) or lies_inside(path, self.folder)):
            return False
        self.require_unaltered(name)
        if _is_weights(name):
            _require_whole(name, path)
        self[name] = path
        return True

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of these files that the suite lacks; notes the others."""
        return [
            f"{name} (a link that leads out of it)" * (self.folder / name).is_file() or name
            for name in names
            if not self.has(name)
        ]

    def require_unaltered(self, name: str) -> None:
        """Refuses a file that is not what `checksums.json` says, or is missing though that has it.

        Raises:
            PublishError: it is damaged.
        """
        try:
            self.suite.file(name)
        except SuiteError as error:
            raise PublishError(f"the suite is damaged: {error}; nothing was published") from error


def _find_suite(folder: Path, manifest: SuiteManifest) -> _Found:
    """The files that a suite consists of.

    Raises:
        PublishError: one that it needs is missing or damaged.
    """
    found = _Found(folder)
    is_own = not manifest.is_imported  # SAEs that were trained elsewhere come without much of it
    of_layer = OF_A_LAYER if is_own else (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME)
    needed = [files.SUITE, *([files.RUNNER_CFG] if is_own else [])]
    needed += [f"{hook_name}/{name}" for hook_name in manifest.hook_names for name in of_layer]
    missing = found.missing(needed)
    if is_own:
        missing += _missing_of_groups(found, manifest)
    if missing:
        listed = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" * (len(missing) > 5))
        raise PublishError(f"the suite is incomplete: it lacks {listed}; {_TO_DO}")
    for name in (
        *BESIDE_THE_LAYERS,
        *(f"{hook_name}/{SPARSITY_FILENAME}" for hook_name in manifest.hook_names),
    ):
        if not found.has(name) and found.suite.lists(name):
            found.require_unaltered(name)
    for path in sorted(found.folder.glob(f"{files.EVALUATION_FOLDER}/*")):
        if is_of_evaluation(path.name, manifest.hook_names):
            found.has(f"{files.EVALUATION_FOLDER}/{path.name}")
    return found


def _missing_of_groups(found: _Found, manifest: SuiteManifest) -> list[str]:
    missing: list[str] = []
    scalers: list[str] = []
    for group in manifest.groups:
        folder = files.group_folder(group.name)
        missing += found.missing(
            [f"{folder}/{SAE_CFG_FILENAME}", f"{folder}/{SAE_WEIGHTS_FILENAME}"]
        )
        scalers += _scaler_names(found.folder, group, manifest)
    if any((found.folder / name).exists() for name in scalers):  # older suites have none
        missing += found.missing(scalers)
    return missing


def _scaler_names(suite: Path, group: LayerGroup, manifest: SuiteManifest) -> Iterator[str]:
    """What the scaling of a group's layers needs."""
    for layer in group.layers:
        folder = f"{files.group_folder(group.name)}/{files.layer_scaler_folder(layer)}"
        scaler = f"{folder}/{files.SCALER}"
        yield scaler
        if (suite / scaler).is_file() and _json(scaler, _text(scaler, suite / scaler)).get(
            "has_whitening"
        ):
            yield f"{folder}/{files.WHITENING_MATRICES}"
        if manifest.layer_alignment != NONE and layer != group.middle:
            yield f"{folder}/{files.ALIGNMENT}"


def _is_weights(name: str) -> bool:
    return name.endswith(_WEIGHTS)


def _require_whole(name: str, path: Path) -> None:
    """Refuses weights that are cut short; reads no more of them than what they say they hold."""
    try:
        with safe_open(path, framework="np") as weights:
            weights.keys()
    except UNREADABLE as error:
        raise PublishError(
            f"the suite is incomplete: {name} is cut short or damaged ({error}); {_TO_DO}"
        ) from error


def _text(name: str, path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")  # line ends as they are
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(name, f"cannot be read ({error})") from error


def _json(name: str, text: str) -> Any:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(name, f"is not JSON ({error})") from error
    if not isinstance(data, dict) and not name.endswith(f"{ALL_RESULTS}.json"):
        raise _damaged(name, "holds no JSON object")
    return data


def _damaged(name: str, how: str) -> PublishError:
    return PublishError(f"the suite is damaged: {name} {how}; {_TO_DO}")


def _holds_facts(name: str) -> bool:
    """Whether a file says what the suite is, rather than how good it is."""
    return name.endswith(".json") and not name.startswith(f"{files.EVALUATION_FOLDER}/")


def _settings(facts: Mapping[str, str], manifest: SuiteManifest) -> Mapping[str, Any]:
    """The settings of the run, or where they are not known, what an SAE says of them."""
    if files.RUNNER_CFG in facts:
        return _json(files.RUNNER_CFG, facts[files.RUNNER_CFG])
    name = f"{manifest.hook_names[0]}/{SAE_CFG_FILENAME}"
    return _json(name, facts[name]).get("metadata") or {}


def _public_version(public: PublicValues, name: str, text: str) -> tuple[str, str]:
    """The name and the content that a text has in public."""
    if name.endswith((".html", ".md")):  # evaluate writes them with public names
        return name, text
    if name == files.EVALUATION and not text.startswith("layer,"):
        raise _damaged(name, "is not a table of scores")
    if name.endswith(".csv"):
        try:
            return name, public.of_csv(text)
        except csv.Error as error:
            raise _damaged(name, f"is not CSV ({error})") from error
    return _public_name(public, name, _json(name, text)), public.of_json(text)


def _public_name(public: PublicValues, name: str, data: Any) -> str:
    """A layer's evaluation has its dataset in its name, of which it may be the path."""
    settings = data.get("eval_cfg") if isinstance(data, dict) else None
    dataset = settings.get("dataset") if isinstance(settings, dict) else None
    end = f"_{_in_name(dataset)}.json"
    if not isinstance(dataset, str) or not name.endswith(end):
        return name
    return f"{name.removesuffix(end)}_{_in_name(public.value('dataset', dataset))}.json"


def _in_name(dataset: str | None) -> str:
    return str(dataset).replace("/", "_")  # as SAELens makes file names of it
