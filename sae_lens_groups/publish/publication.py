"""A suite as it will be published: every file, in the form in which everybody may see it."""

import csv
import io
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sae_lens.constants import SAE_CFG_FILENAME

from sae_lens_groups import files
from sae_lens_groups.activations import official_name
from sae_lens_groups.errors import PublishError
from sae_lens_groups.files import CheckedFolder, checksums_text, is_covered
from sae_lens_groups.publish.card import CardFacts, model_card
from sae_lens_groups.publish.card_merge import is_hub_id
from sae_lens_groups.publish.public_files import public_files
from sae_lens_groups.publish.scan import require_nothing_private
from sae_lens_groups.saved import SuiteManifest


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """The arguments of `SAESuite.push_to_hub`, which says what they mean.

    Raises:
        PublishError: `base_model` or `dataset_name` can be nobody's id on the Hub.
    """

    private: bool | None = None
    revision: str | None = None
    token: str | bool | None = None
    create_pr: bool = False
    base_model: str | None = None
    dataset_name: str | None = None
    license: str | None = None
    allow: Collection[str] = ()
    features: bool = False

    def __post_init__(self) -> None:
        if self.revision == "":
            raise PublishError("the revision is empty; name a branch, or leave it out for main")
        for name, value in (("base_model", self.base_model), ("dataset_name", self.dataset_name)):
            if value is not None and not is_hub_id(value):
                raise PublishError(
                    f"{name} {value!r} is not an id on the Hub; give owner/name, or leave it out for "
                    "one that is not there"
                )


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What goes to `repo_id`, checked, and what its card is written from."""

    repo_id: str
    options: PublishOptions
    own_model_name: str
    """What the suite on this machine calls its model."""
    files: Mapping[str, Path | str]
    """Path in the repository -> the file as it lies here, or its text. Without the card."""

    def with_card(self, existing: str | None = None) -> dict[str, Path | str]:
        """All files, with a card that keeps what somebody wrote into the existing one."""
        return {**self.files, files.CARD: model_card(self.facts, existing)}

    @cached_property
    def manifest(self) -> SuiteManifest:
        """As it is published."""
        return SuiteManifest.from_json(_text(self.files, files.SUITE) or "")

    @cached_property
    def facts(self) -> CardFacts:
        """What the card and the entry for SAELens's list say."""
        settings = None if self.manifest.is_imported else self._json(files.RUNNER_CFG)
        scores = _text(self.files, files.EVALUATION)
        cfgs = {name: self._json(f"{name}/{SAE_CFG_FILENAME}") for name in self.manifest.hook_names}
        known = next(iter(cfgs.values())).get("metadata") if settings is None else settings
        dataset = self.options.dataset_name or (known or {}).get("dataset_path")
        return CardFacts(
            repo_id=self.repo_id,
            manifest=self.manifest,
            runner_cfg=settings,
            sae_cfgs=cfgs,
            scores=None if scores is None else list(csv.DictReader(io.StringIO(scores))),
            layer_table=_text(self.files, f"{files.EVALUATION_FOLDER}/{files.LAYER_TABLE}"),
            base_model=self._hub_model(),
            dataset_name=dataset if dataset and "/" in dataset and is_hub_id(dataset) else None,
            has_features=self.options.features,
            license=self.options.license,
            revision=self.options.revision,
        )

    def _hub_model(self) -> str | None:
        """The Hub's id of the model; None for one that lies in a folder."""
        name = self.options.base_model or self.manifest.model_name
        if self.options.base_model is None and self.manifest.is_model_local:
            return None
        if (official := official_name(name)) is not None:
            return official  # of pythia-160m EleutherAI/pythia-160m
        return name if "/" in name and is_hub_id(name) else None

    def _json(self, path: str) -> Any:
        text = _text(self.files, path)
        return None if text is None else json.loads(text)


def prepared(
    folder: Path, manifest: SuiteManifest, repo_id: str, options: PublishOptions
) -> Publication:
    """The publication of a suite; nothing has left the machine yet.

    Raises:
        PublishError: the suite is incomplete, or something private is left in it.
    """
    public = public_files(
        folder, manifest, options.base_model, options.dataset_name, with_features=options.features
    )
    publication = Publication(
        repo_id=repo_id,
        options=options,
        own_model_name=manifest.model_name,
        files=_with_checksums(_with_model_marked(public.contents, manifest, options), folder),
    )
    allowed = (*options.allow, *filter(None, (options.base_model, options.dataset_name)))
    require_nothing_private(
        publication.with_card(),
        repo_id=repo_id,
        allowed=allowed,
        paths=[folder, *public.local_paths],
    )
    return publication


def _with_model_marked(
    public: dict[str, Path | str], manifest: SuiteManifest, options: PublishOptions
) -> dict[str, Path | str]:
    """Says in `suite.json` that the model was local, as its name may be that of one on the Hub."""
    text = _text(public, files.SUITE) or ""
    data = json.loads(text)
    is_local = manifest.is_model_local or data["model_name"] != manifest.model_name
    if options.base_model is not None:
        data.pop("is_model_local", None)
        if is_local:
            data["model_name"] = options.base_model
    elif is_local:
        data["is_model_local"] = True
    new = files.json_text(data)
    return public if new == text else {**public, files.SUITE: new}


def _with_checksums(public: dict[str, Path | str], folder: Path) -> dict[str, Path | str]:
    """Adds the checksums of the files as they are published."""
    covered = {name: content for name, content in public.items() if is_covered(name)}
    return {**public, files.CHECKSUMS: checksums_text(covered, CheckedFolder(folder).checksums)}


def _text(contents: Mapping[str, Path | str], path: str) -> str | None:
    content = contents.get(path)
    return content.read_text(encoding="utf-8") if isinstance(content, Path) else content
