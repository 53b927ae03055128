"""Finds what `init_from` names: a folder, or a suite or an SAE on the Hub."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sae_lens_groups import files
from sae_lens_groups.download_suite import FACTS, download_groups, download_suite
from sae_lens_groups.errors import GroupSAEError, InitSourceError, SuiteError
from sae_lens_groups.hub import HubRepo
from sae_lens_groups.json_kinds import MISREAD
from sae_lens_groups.suite_folder import SuiteFolder

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
    suite = SuiteFolder(folder)
    try:
        if suite.has(files.RUNNER_CFG):
            suite.file(files.RUNNER_CFG)
    except SuiteError as error:
        raise InitSourceError(f"init_from {error}") from error
    return run_training_tokens(folder)


def _is_suite(folder: Path) -> bool:
    return (folder / files.SUITE).is_file()
