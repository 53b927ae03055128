"""Opens trained SAEs wherever they lie: a folder, or the Hub, from which it fetches what is asked for."""

import contextlib
from collections.abc import Iterator
from glob import escape
from pathlib import Path
from typing import NamedTuple

from sae_lens_groups import files
from sae_lens_groups.errors import (
    GroupSAEError,
    HubError,
    InitSourceError,
    SuiteError,
    counted,
)
from sae_lens_groups.files import MISREAD, CheckedFolder
from sae_lens_groups.layers import Layers
from sae_lens_groups.saved.hub import HubRepo, is_repo_id
from sae_lens_groups.saved.others import OtherSAEs
from sae_lens_groups.saved.released import ReleasedSAEs, is_converter, is_release
from sae_lens_groups.saved.source import SAESource
from sae_lens_groups.saved.suite import SavedSuite
from sae_lens_groups.saved.sweep_index import is_sweep_folder, read_sweep_index

_FACTS = files.fetched_with("facts")
_OF_THE_WHOLE = (*files.fetched_with("groups"), *files.fetched_with("whole"))
# What SAELens reads of an SAE, and what we do.
_OF_AN_SAE = (
    *(files.SAE_CFG, files.SAE_WEIGHTS, files.SPARSITY),
    *(files.SCALER, files.WHITENING_MATRICES, files.RUNNER_CFG),
)
FORMS = (
    "name a suite's folder, the folder of one or several SAELens SAEs, a release that SAELens knows, "
    "release:sae_id, owner/repo for a suite on the Hub, owner/repo:sae_id for an SAE there, or "
    "converter:owner/repo:sae_id for one in another library's format, such as sparsify; * in a "
    "folder's name or a sae_id names several layers"
)


class _Starred(NamedTuple):
    """Folders whose names have a `*`."""

    folder: Path
    """What they lie in,"""
    pattern: str
    """and their path in there."""


def open_saes(
    place: str | Path | HubRepo, layers: Layers | None = None, *, groups_only: bool = False
) -> SAESource:
    """The trained SAEs at a place, to be read one by one; downloads them where they are on the Hub.

    Args:
        place: a text is a folder, or has one of the other `FORMS`; a path is a folder.
        layers: of a suite on the Hub, what is downloaded; all where it is None.
        groups_only: of a suite on the Hub, downloads the SAEs of its groups and no layer's.

    Raises:
        SuiteError: there are none, or they are broken, or of a newer format. The message begins
            with the place.
        HubError: they cannot be fetched from the Hub. So does this one.
        UnknownLayerError: the suite on the Hub lacks one of the layers.
    """
    if isinstance(place, HubRepo):
        return _in_folder(_download(place, layers, groups_only=groups_only), place.repo_id)
    found = _located(place)
    if isinstance(found, Path):
        return _in_folder(found, str(place))
    if isinstance(found, _Starred):
        return OtherSAEs(found.folder, str(place), found.pattern)
    if not isinstance(found, HubRepo):
        return ReleasedSAEs(str(place), *found)
    with _sought_on_the_hub(found):
        return open_saes(found, layers, groups_only=groups_only)


@contextlib.contextmanager
def named_by(flag: str, as_error: type[GroupSAEError] | None = None) -> Iterator[None]:
    """Says of what is wrong with trained SAEs which flag named them.

    Raises:
        SuiteError, HubError: by default, what was raised.
    """
    try:
        yield
    except (SuiteError, HubError) as error:
        raise (as_error or type(error))(f"{flag} {error}") from error


def training_tokens_of(init_from: str) -> int | None:
    """How many tokens the SAEs that `init_from` names were trained on; None where they do not say.

    Raises:
        InitSourceError: there are no such SAEs.
    """
    with named_by("init_from", InitSourceError):
        found = _located(init_from)
        if isinstance(found, tuple):
            return None
        if isinstance(found, HubRepo):
            with _sought_on_the_hub(found):
                found = found.fetch(_FACTS)
        if (found / files.TRAINER_STATE).exists():
            return None  # a checkpoint of a run that was to go on
        # A single SAE lies in its run's folder or, in a suite, one or two levels below it.
        above = (found.parent, found.parent.parent)
        suites = (folder for folder in above if (folder / files.SUITE).is_file())
        for folder in map(CheckedFolder, (found, *suites)):
            if folder.has(files.RUNNER_CFG):
                n_tokens = run_training_tokens(folder.file(files.RUNNER_CFG).parent)
                if n_tokens is not None:
                    return n_tokens
    return None


def run_training_tokens(folder: Path) -> int | None:
    """How many tokens the run was to train on that left its settings in a folder, if one did."""
    try:
        settings = files.parse_json((folder / files.RUNNER_CFG).read_text(encoding="utf-8"))
        n_tokens = int(settings["training_tokens"])
    except (OSError, *MISREAD):
        return None
    return n_tokens if 0 < n_tokens < 2**63 else None


def _located(place: str | Path) -> Path | _Starred | HubRepo | tuple[str, ...]:
    """Where a place is: a folder or several, a suite on the Hub, or SAEs by SAELens's names.

    Raises:
        SuiteError: it is not a folder, and has none of the forms that mean the Hub.
    """
    folder = files.expanded(place)
    if files.exists(folder):
        return folder
    if (starred := _starred(folder)) is not None:
        return starred
    if isinstance(place, Path):
        hint = "; for one on the Hub, SAESuite.from_pretrained" if is_repo_id(str(place)) else ""
        raise SuiteError(
            f"{str(place)!r} does not exist; give the output_path of a training run{hint}"
        )
    release, colon, sae_id = place.partition(":")
    if is_release(place):
        return place, "*"
    if place.startswith((".", "/", "~")) or not (colon or place.count("/") == 1):
        raise SuiteError(f"{place!r} does not exist; {FORMS}")
    repo, second_colon, sae_in_repo = sae_id.partition(":")
    if second_colon and is_converter(release):
        return repo, sae_in_repo, release
    return (release, sae_id) if colon else HubRepo(place)


def _starred(path: Path) -> _Starred | None:
    """The folders that a path with a `*` names; None where it is none, or means the Hub."""
    first = next((n for n, part in enumerate(path.parts) if "*" in part), None)
    if first is None or ":" in path.parts[first]:
        return None
    folder = Path(*path.parts[:first])
    return _Starred(folder, "/".join(path.parts[first:])) if files.exists(folder) else None


@contextlib.contextmanager
def _sought_on_the_hub(repo: HubRepo) -> Iterator[None]:
    try:
        yield
    except HubError as error:
        raise HubError(
            f"{repo.repo_id!r} is not a folder, and cannot be fetched from the Hub: {error}; {FORMS}"
        ) from error


def _download(repo: HubRepo, layers: Layers | None, *, groups_only: bool = False) -> Path:
    """A local folder with what is asked for, as `open_saes` says; all layers of SAEs without groups."""
    facts = CheckedFolder(repo.fetch(_FACTS))
    repo = repo.pinned(facts.path)
    if not facts.is_suite():
        return _download_others(repo, layers)
    manifest = SavedSuite(facts).manifest
    if groups_only and not manifest.is_imported:
        return repo.fetch([f"{files.GROUPS}/*", *_FACTS])
    names = map(manifest.hook_template.hook_name, manifest.require_layers(layers))
    of_the_whole = _OF_THE_WHOLE if layers is None else ()
    return repo.fetch(
        [*(f"{escape(name)}/*" for name in names), *_FACTS, files.CURVES, *of_the_whole]
    )


def _download_others(repo: HubRepo, layers: Layers | None) -> Path:
    """SAEs that lie in a repository without a manifest, found by what each says of itself."""
    folder = repo.fetch([files.SAE_CFG, f"*/{files.SAE_CFG}", files.CARD])
    source = OtherSAEs(folder, repo.repo_id)
    saes = [source.saved(layer) for layer in source.manifest.require_layers(layers)]
    if any("sae_lens_groups" in sae.metadata for sae in saes):
        raise SuiteError(
            f"{repo.repo_id!r} on the Hub holds layers of a suite, and its {files.SUITE} is neither "
            "there nor in the cache; try again with a network, or take the layers one by one with "
            "SAE.from_pretrained"
        )
    wanted = [f"{escape(sae.name)}/{name}" for sae in saes for name in _OF_AN_SAE]
    return repo.fetch([*(name.removeprefix("./") for name in wanted), files.CARD])


def _in_folder(folder: Path, name: str) -> SAESource:
    if is_sweep_folder(folder):
        raise SuiteError(f"{name!r} {_sweep_in_words(folder)}")
    suite = CheckedFolder(folder)
    return SavedSuite(suite) if suite.is_suite() else OtherSAEs(folder, name)


_MOST_NAMED = 8


def _sweep_in_words(folder: Path) -> str:
    names = read_sweep_index(folder).names
    named = [str(folder / name) for name in names[:_MOST_NAMED]]
    more = len(names) - len(named)
    return (
        f"is a sweep of {counted(len(names), 'suite')}; name one of them: {', '.join(named)}"
        + (f" and {more} more" if more else "")
        + " (sae-lens-groups evaluate takes the whole sweep)"
    )
