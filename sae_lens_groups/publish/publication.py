"""A suite as it will be published: every file, in the form in which everybody may see it."""

import csv
import io
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sae_lens.constants import SAE_CFG_FILENAME
from transformer_lens.loading_from_pretrained import get_official_model_name

from sae_lens_groups import files
from sae_lens_groups.manifest import SuiteManifest
from sae_lens_groups.publish.card.facts import CardFacts
from sae_lens_groups.publish.card.front_matter import is_hub_id
from sae_lens_groups.publish.card.model_card import model_card
from sae_lens_groups.publish.public_files import public_files
from sae_lens_groups.publish.public_values import PublicNames
from sae_lens_groups.publish.scan import require_nothing_private
from sae_lens_groups.suite import SAESuite

_EVALUATION_RESULTS = f"{files.EVALUATION_FOLDER}/all_eval_results.json"


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What goes to `repo_id`, checked, and what its card is written from."""

    repo_id: str
    files: Mapping[str, Path | str]
    """Path in the repository -> the file as it lies here, or its text. Without the card."""
    names: PublicNames
    is_model_local: bool
    """Whether the suite was trained on a model in a folder; its name may be that of another one."""
    license: str | None
    revision: str | None
    allowed: Collection[str]

    def with_card(self, existing: str | None) -> dict[str, Path | str]:
        """All files, with a card that keeps what somebody wrote into the existing one.

        Raises:
            PublishError: the existing card is damaged, or something private would be in it.
        """
        card = model_card(self.facts, existing)
        require_nothing_private({files.CARD: card}, repo_id=self.repo_id, allowed=self.allowed)
        return {**self.files, files.CARD: card}

    @cached_property
    def manifest(self) -> SuiteManifest:
        """As it is published."""
        return SuiteManifest.from_json(_text(self.files, files.SUITE) or "")

    @cached_property
    def facts(self) -> CardFacts:
        """What the card and the entry for SAELens's list say."""
        settings = self._json(files.RUNNER_CFG)
        scores = _text(self.files, files.EVALUATION)
        results = self._json(_EVALUATION_RESULTS)
        cfgs = {name: self._json(f"{name}/{SAE_CFG_FILENAME}") for name in self.manifest.hook_names}
        dataset = self.names.dataset_name or _dataset_path(settings, cfgs)
        return CardFacts(
            repo_id=self.repo_id,
            manifest=self.manifest,
            runner_cfg=settings,
            sae_cfgs=cfgs,
            scores=None if scores is None else list(csv.DictReader(io.StringIO(scores))),
            base_model=self.names.base_model or self._hub_model(),
            dataset_name=dataset if dataset and "/" in dataset and is_hub_id(dataset) else None,
            license=self.license,
            revision=self.revision,
            eval_cfg=None if not results else results[0].get("eval_cfg"),
        )

    def _hub_model(self) -> str | None:
        """The Hub's id of the model; None for one that lies in a folder."""
        name = self.manifest.model_name
        if self.is_model_local:
            return None
        try:
            return get_official_model_name(name)  # pythia-160m: EleutherAI/pythia-160m
        except ValueError:
            return name if "/" in name and is_hub_id(name) else None

    def _json(self, path: str) -> Any:
        text = _text(self.files, path)
        return None if text is None else json.loads(text)


@contextmanager
def prepared(
    suite: SAESuite,
    repo_id: str,
    *,
    names: PublicNames,
    license: str | None,  # noqa: A002  # as the Hub's cards call it
    revision: str | None,
    allowed: Collection[str],
) -> Iterator[Publication]:
    """The publication of a suite; nothing has left the machine yet.

    Raises:
        PublishError: the suite is incomplete, or something private is left in it.
    """
    suite.require_whole("publishing")
    with _folder_of(suite) as folder:
        public = public_files(folder, suite.manifest, names)
        require_nothing_private(public, repo_id=repo_id, allowed=allowed)
        public_name = SuiteManifest.from_json(_text(public, files.SUITE) or "").model_name
        yield Publication(
            repo_id=repo_id,
            files=public,
            names=names,
            is_model_local=suite.manifest.model_name != public_name,
            license=license,
            revision=revision,
            allowed=allowed,
        )


@contextmanager
def _folder_of(suite: SAESuite) -> Iterator[Path]:
    if suite.path is not None:
        yield suite.path
        return
    with tempfile.TemporaryDirectory(prefix="sae-lens-groups-") as folder:
        suite.save_copy(Path(folder) / "suite")
        yield Path(folder) / "suite"


def _dataset_path(settings: Mapping[str, Any] | None, cfgs: Mapping[str, Any]) -> str | None:
    if settings is not None:
        return settings.get("dataset_path")
    metadata = next(iter(cfgs.values())).get("metadata") or {}
    return metadata.get("dataset_path")


def _text(contents: Mapping[str, Path | str], path: str) -> str | None:
    content = contents.get(path)
    return content.read_text(encoding="utf-8") if isinstance(content, Path) else content
