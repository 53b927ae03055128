"""What of a suite is published: its files and no others, with the local paths in them rewritten."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sae_lens_groups import files
from sae_lens_groups.errors import PublishError, SuiteError
from sae_lens_groups.files import (
    ALL_RESULTS,
    BESIDE_THE_LAYERS,
    OF_A_LAYER,
    CheckedFolder,
    is_of_evaluation,
    is_of_features,
)
from sae_lens_groups.publish.public import PublicValues
from sae_lens_groups.saved import SuiteManifest
from sae_lens_groups.scaling import NONE

_TO_DO = "nothing was published; copy the suite again, or train it again"


class PublicFiles(NamedTuple):
    """What of a suite is published, and what was left out of it."""

    contents: dict[str, Path | str]
    """Path in the repository -> the file as it lies here, or its new text."""
    local_paths: list[str]
    """The paths in place of which it has names."""


def public_files(
    folder: Path,
    manifest: SuiteManifest,
    base_model: str | None = None,
    dataset_name: str | None = None,
    *,
    with_features: bool = False,
) -> PublicFiles:
    """What of a suite is published, with names in place of local paths.

    Weights are neither read nor copied; a text that needs no change stays the file that it is.

    Args:
        base_model: what stands for the suite's own model, if that is local; None: its folder's name.
        dataset_name: the same for the dataset that the suite was trained on.
        with_features: the page of features too.
    """
    suite = CheckedFolder(folder)
    try:
        found = _checked_files(suite, manifest)
        found |= _of_features(suite) if with_features else {}
    except SuiteError as error:
        raise PublishError(f"the suite is damaged: {error}; nothing was published") from error
    public = PublicValues(
        folder=folder,
        manifest=manifest,
        settings=_settings(found, manifest),
        base_model=base_model,
        dataset_name=dataset_name,
    )
    published: dict[str, Path | str] = {}
    for name, path in found.items():
        if files.is_weights(name):
            published[name] = path
            continue
        # One at a time: those of an evaluation are large.
        old = _text(name, path)
        new_name, new = _public_version(public, name, old)
        published[new_name] = path if new == old else new
    return PublicFiles(dict(sorted(published.items())), sorted(public.replaced))


def _checked_files(suite: CheckedFolder, manifest: SuiteManifest) -> dict[str, Path]:
    """The files that a suite consists of, by their path in it; each is found to be whole."""
    needed = _needed(suite, manifest)
    missing = [name for name in needed if not files.exists(suite.path / name)]
    if missing:
        listed = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" * (len(missing) > 5))
        raise PublishError(f"the suite is incomplete: it lacks {listed}; {_TO_DO}")
    others = [*BESIDE_THE_LAYERS, *(f"{name}/{files.SPARSITY}" for name in manifest.hook_names)]
    evaluated = sorted(path.name for path in suite.path.glob(f"{files.EVALUATION_FOLDER}/*"))
    others += [
        f"{files.EVALUATION_FOLDER}/{name}"
        for name in evaluated
        if is_of_evaluation(name, manifest.hook_names)
    ]
    found = {name: suite.file(name) for name in needed}
    # A link may lead to anything of the user's.
    found |= {name: suite.file(name) for name in others if suite.lists(name) or suite.owns(name)}
    for name, path in found.items():
        if files.is_weights(name):
            files.tensors_in(path)
    return found


def _of_features(suite: CheckedFolder) -> dict[str, Path]:
    """The page of features and its data."""
    paths = sorted((suite.path / files.FEATURES_FOLDER).rglob("*"))
    names = [path.relative_to(suite.path).as_posix() for path in paths if path.is_file()]
    found = {name: suite.file(name) for name in names if is_of_features(name) and suite.owns(name)}
    if f"{files.FEATURES_FOLDER}/{files.FEATURES_PAGE}" not in found:
        raise PublishError(
            f"the suite has no {files.FEATURES_FOLDER}/{files.FEATURES_PAGE}; write it with "
            "`sae-lens-groups features`, or publish without features"
        )
    return found


def _needed(suite: CheckedFolder, manifest: SuiteManifest) -> list[str]:
    """The files without which nobody could use the suite, or go on from it."""
    if manifest.is_imported:  # SAEs that were trained elsewhere come without much of it
        of_layer = (files.SAE_CFG, files.SAE_WEIGHTS)
        return [files.SUITE, *(f"{hook}/{of}" for hook in manifest.hook_names for of in of_layer)]
    needed = [files.SUITE, files.RUNNER_CFG]
    needed += [f"{hook}/{name}" for hook in manifest.hook_names for name in OF_A_LAYER]
    scalers: list[str] = []
    for group in manifest.groups:
        folder = files.group_folder(group.name)
        needed += [f"{folder}/{files.SAE_CFG}", f"{folder}/{files.SAE_WEIGHTS}"]
        for layer in group.layers:
            of_layer = f"{folder}/{files.layer_scaler_folder(layer)}"
            scalers.append(f"{of_layer}/{files.SCALER}")
            is_there = files.exists(suite.path / scalers[-1])
            if is_there and suite.json(scalers[-1]).get("has_whitening"):
                scalers.append(f"{of_layer}/{files.WHITENING_MATRICES}")
            if manifest.layer_alignment != NONE and layer != group.middle:
                scalers.append(f"{of_layer}/{files.ALIGNMENT}")
    return needed + scalers * any(map(suite.has, scalers))  # older suites have none


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


def _settings(found: Mapping[str, Path], manifest: SuiteManifest) -> Mapping[str, Any]:
    """The settings of the run, or where they are not known, what an SAE says of them."""
    name = f"{manifest.hook_names[0]}/{files.SAE_CFG}"
    if files.RUNNER_CFG in found:
        return _json(files.RUNNER_CFG, _text(files.RUNNER_CFG, found[files.RUNNER_CFG]))
    return _json(name, _text(name, found[name])).get("metadata") or {}


def _public_version(public: PublicValues, name: str, text: str) -> tuple[str, str]:
    """The name and the content that a text has in public."""
    # evaluate and features write them with public names
    if name.endswith((".html", ".md")) or is_of_features(name):
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
