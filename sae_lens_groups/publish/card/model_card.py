"""The model card: `README.md` of a published suite."""

import re

from sae_lens_groups.errors import PublishError
from sae_lens_groups.publish.card import front_matter, groups, snippets
from sae_lens_groups.publish.card.facts import CardFacts
from sae_lens_groups.publish.card.merge import card_with
from sae_lens_groups.publish.card.origin import cite, reproduce
from sae_lens_groups.publish.card.scores import layer_table
from sae_lens_groups.publish.card.text import words
from sae_lens_groups.publish.card.units import units

TAGS = [
    "saelens",
    "sparse-autoencoder",
    "sae",
    "mechanistic-interpretability",
    "sae-lens-groups",
]
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")


def model_card(facts: CardFacts, existing: str | None = None) -> str:
    """The card of a suite; what somebody wrote into an existing one stays.

    The same facts give the same card, and the card that it gave before comes back unchanged.

    Raises:
        PublishError: the licence is none of the Hub's, or the existing card is damaged.
    """
    return card_with(_part(facts), _values(facts), existing)


def _values(facts: CardFacts) -> front_matter.Values:
    """Our keys; those that the Hub would refuse, or that are not known, are left out."""
    if facts.license is not None and not _LICENSE.fullmatch(facts.license):
        raise PublishError(
            f"the license {facts.license!r} is no identifier of the Hub; give one in lower case "
            "such as mit, apache-2.0 or other, see "
            "https://huggingface.co/docs/hub/repositories-licenses"
        )
    model, dataset = facts.base_model, facts.dataset_name
    return {
        "library_name": "saelens",
        "tags": TAGS,
        **({"license": facts.license} if facts.license is not None else {}),
        **({"base_model": model} if model and front_matter.is_hub_id(model) else {}),
        **({"datasets": [dataset]} if dataset and front_matter.is_hub_id(dataset) else {}),
    }


def _part(facts: CardFacts) -> str:
    sections = [
        f"# {words(facts.name)}",
        groups.first_lines(facts),
        snippets.quick(facts),
        groups.groups(facts),
        layer_table(facts),
        units(facts),
        snippets.use(facts),
        groups.start(facts),
        reproduce(facts),
        cite(facts),
    ]
    return "\n\n".join(section for section in sections if section is not None)
