"""The entry of a published suite in SAELens's `pretrained_saes.yaml`."""

import math
from collections.abc import Mapping

import yaml

from sae_lens_groups.errors import PublishError
from sae_lens_groups.publish.card import CardFacts


def pretrained_entry(facts: CardFacts) -> str:
    """The YAML to put at the end of SAELens's file, for `SAE.from_pretrained(release, hook_name)`.

    The release has the repository's name.

    Raises:
        PublishError: SAELens could not find the suite under this entry.
    """
    _require_usable(facts)
    scores = {row.get("hook_name"): row for row in facts.scores or ()}
    entry = {
        # SAELens reads the folders as they are, and every cfg.json says what else it needs.
        "conversion_func": None,
        "model": _model(facts),
        "repo_id": facts.repo_id,
        "saes": [
            {"id": name, "path": name, **_expected(scores.get(name, {}))}
            for name in facts.manifest.hook_names
        ],
    }
    return yaml.safe_dump({facts.name: entry}, sort_keys=False, allow_unicode=True)


def _require_usable(facts: CardFacts) -> None:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    if facts.branch is not None:
        raise PublishError(
            f"an entry for SAELens names no revision, and SAELens reads main; the suite is on "
            f"{facts.branch!r}: publish it to main, or write no entry"
        )
    known = get_pretrained_saes_directory().get(facts.name)
    if known is not None and known.repo_id != facts.repo_id:
        raise PublishError(
            f"SAELens has a release {facts.name!r} already, of {known.repo_id!r}; "
            "publish to a repository of another name"
        )


def _model(facts: CardFacts) -> str:
    """The entries of SAELens have TransformerLens's name or the Hub's, whichever loads the model."""
    by_name = facts.metadata.get("model_class_name", "HookedTransformer") == "HookedTransformer"
    if by_name and facts.transformer_lens_model is not None:
        return facts.manifest.model_name
    return facts.base_model or facts.manifest.model_name


def _expected(row: Mapping[str, str]) -> dict[str, float]:
    """What the layer scored, where it was evaluated."""
    columns = {"l0": "l0", "variance_explained": "explained_variance"}
    found = {name: _number_of(row, column) for name, column in columns.items()}
    return {name: round(value, 4) for name, value in found.items() if math.isfinite(value)}


def _number_of(row: Mapping[str, str], column: str) -> float:
    """A number from `evaluation.csv`; not a number where there is none."""
    try:
        return float(row.get(column) or "nan")
    except ValueError:
        return math.nan
