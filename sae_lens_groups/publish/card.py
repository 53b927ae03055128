"""The model card of a published suite: what its template, `card.md.j2`, is filled with."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sae_lens_groups import files
from sae_lens_groups.activations import official_name
from sae_lens_groups.errors import PublishError
from sae_lens_groups.layers import LayerGroup, format_layer_groups, in_words
from sae_lens_groups.publish import markdown
from sae_lens_groups.publish.card_merge import FrontMatter, card_with, is_hub_id
from sae_lens_groups.saved import SuiteManifest
from sae_lens_groups.scaling import WHITENING

MAIN = "main"
TAGS = [
    "saelens",
    "sparse-autoencoder",
    "sae",
    "mechanistic-interpretability",
    "sae-lens-groups",
]
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
# Which SAELens 6.0 does not know.
_LATE_ARCHITECTURES = ("abstopk", "matching_pursuit")
# SAEBench's own example.
_SOME_TEXT = "Skylion007/openwebtext"
# Values of layer_groups that mean the same everywhere; others name a file.
_GROUPS_BY_RULE = re.compile(r"\s*(each|(even|auto|optimal)(:\d+)?|[\d\s,-]+)\s*")
_templates = Environment(
    loader=PackageLoader("sae_lens_groups", "publish"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    autoescape=False,  # it is Markdown
)
_FILTERS = (
    *(files.plain, files.code, files.cell, markdown.words, markdown.py),
    *(markdown.f_string, markdown.shell, markdown.fenced, markdown.paragraph),
    *(markdown.number, markdown.numbers, in_words, markdown.drawing),
)
_templates.filters |= {"repr": repr, **{each.__name__: each for each in _FILTERS}}


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """A suite as it is published: names in place of local paths."""

    repo_id: str
    manifest: SuiteManifest
    runner_cfg: Mapping[str, Any] | None
    """The run's settings; None for SAEs that were trained elsewhere."""
    sae_cfgs: Mapping[str, Mapping[str, Any]]
    """Hook name -> the layer's `cfg.json`."""
    scores: Sequence[Mapping[str, str]] | None
    """The rows of `evaluation.csv`; None where the suite was not evaluated."""
    layer_table: str | None = None
    """Every layer's scores, as the evaluation wrote them for the card; None without one."""
    has_features: bool = False
    """Whether the page of features lies beside the suite."""
    base_model: str | None
    """The model's id on the Hub; None where it is not there."""
    dataset_name: str | None
    """The training text's id on the Hub; None where it is not there."""
    license: str | None
    """Of the SAEs, as the Hub writes it; None leaves it to whoever edits the card."""
    revision: str | None = None
    """The branch that is published to; None is main."""

    @property
    def name(self) -> str:
        """The repository's name without its owner."""
        return self.repo_id.rpartition("/")[2]

    @property
    def branch(self) -> str | None:
        """The branch, where it is not main, the only one that SAELens reads."""
        # What is proposed is for main.
        is_main = self.revision in (None, MAIN) or self.revision.startswith("refs/pr/")
        return None if is_main else self.revision

    @property
    def metadata(self) -> Mapping[str, Any]:
        """SAELens's metadata of any layer, for what all layers have in common."""
        return next(iter(self.sae_cfgs.values()), {}).get("metadata") or {}

    @property
    def leaves_out_outliers(self) -> bool:
        """Whether training left out tokens of massive activations, where the model has some."""
        metadata = [cfg.get("metadata") or {} for cfg in self.sae_cfgs.values()]
        return any(
            (of.get("activation_norms") or {}).get("largest", 0) > of["max_activation_norm"]
            for of in metadata
            if of.get("max_activation_norm") is not None
        )

    @property
    def begins_with_bos(self) -> bool | None:
        """Whether prompts did in training; before 0.9, whether BOS was to be prepended to text."""
        return self.metadata.get("prompts_begin_with_bos", self.metadata.get("prepend_bos"))

    @property
    def shared_groups(self) -> list[LayerGroup]:
        """The groups of several layers."""
        return [group for group in self.manifest.groups if len(group) > 1]

    @property
    def trains_shared_groups(self) -> bool:
        """Whether any SAE was trained for several layers."""
        return any(len(group) > 1 for group in self.manifest.trained_groups)

    @property
    def kept_layers(self) -> list[int]:
        """Layers whose SAEs were taken over from the source, and not trained."""
        trained = [layer for group in self.manifest.trained_groups for layer in group.layers]
        return [layer for layer in self.manifest.layers if layer not in trained]

    @property
    def is_whitened(self) -> bool:
        """Whether every layer's whitening is in its matrices."""
        return self.setting("sae", {}).get("normalize_activations") == WHITENING

    @property
    def own_normalizations(self) -> list[str]:
        """How the SAEs normalise activations themselves."""
        return [mode for mode in self._cfg_values("normalize_activations") if mode != "none"]

    @property
    def architectures(self) -> list[str]:
        """Those of the exported SAEs."""
        return self._cfg_values("architecture")

    @property
    def trained_as(self) -> str | None:
        """The architecture in training, where the export has another one."""
        trained = self.setting("sae", {}).get("architecture")
        return None if not self.architectures or trained in self.architectures else trained

    @property
    def late_architecture(self) -> str | None:
        """One that the first version of SAELens 6 does not know."""
        return next((name for name in self.architectures if name in _LATE_ARCHITECTURES), None)

    @property
    def sizes(self) -> list[str]:
        """`d_in 768`, `k 32 to 64`, as far as they are known."""
        found = {name: self._cfg_values(name) for name in ("d_in", "d_sae", "k")}
        return [
            f"{name} {min(of)}" + f" to {max(of)}" * (len(of) > 1)
            for name, of in found.items()
            if of
        ]

    @property
    def training_l0s(self) -> Mapping[int, float | None]:
        """L0 of each layer in training; empty where it is known of none."""
        of_layers = zip(self.manifest.layers, self.manifest.hook_names)
        cfgs = {layer: self.sae_cfgs.get(name, {}) for layer, name in of_layers}
        l0s = {layer: (cfg.get("metadata") or {}).get("l0") for layer, cfg in cfgs.items()}
        known = {layer: l0 if isinstance(l0, int | float) else None for layer, l0 in l0s.items()}
        return (
            {}
            if self.manifest.is_imported or not any(l0 is not None for l0 in known.values())
            else known
        )

    @property
    def three_layers(self) -> list[int]:
        """Examples from across the model; fewer where there are fewer."""
        layers = self.manifest.layers
        return sorted({layers[len(layers) * n // 6] for n in (1, 3, 5)})

    def setting(self, name: str, default: Any = None) -> Any:
        """A setting of the run."""
        return (self.runner_cfg or {}).get(name, default)

    def _cfg_values(self, name: str) -> list[Any]:
        """The different values of an entry of the layers' `cfg.json`."""
        found = [cfg[name] for cfg in self.sae_cfgs.values() if cfg.get(name) is not None]
        return list(dict.fromkeys(found))

    @property
    def groups_to_name(self) -> str | None:
        """`layer_groups` to say when training again, where the settings name a file."""
        if _GROUPS_BY_RULE.fullmatch(str(self.setting("layer_groups"))):
            return None
        return format_layer_groups(self.manifest.trained_groups)

    @cached_property
    def transformer_lens_model(self) -> str | None:
        """A name under which TransformerLens loads the model from the Hub; None if none is known."""
        if self.base_model is None:  # else a local model's folder could pass for a model there
            return None
        for name in (self.manifest.model_name, self.base_model):
            official = official_name(name)
            if official is not None and _last_part(official) == _last_part(self.base_model):
                return name
        return None

    @property
    def loader_options(self) -> Mapping[str, Any]:
        """With which options the model was loaded."""
        options = self.metadata.get("model_from_pretrained_kwargs") or {}
        return {name: value for name, value in options.items() if name.isidentifier()}

    @property
    def saebench_finds_all(self) -> bool:
        """Whether SAEBench finds the model and the hook in the files by itself."""
        return (
            self.branch is None
            and self.manifest.hook_template.in_transformer_lens == self.manifest.hook_template
            and self.transformer_lens_model == self.metadata.get("model_name")
        )

    @property
    def some_text(self) -> str:
        """A dataset on the Hub with a column of text."""
        is_tokens = self.setting("is_dataset_tokenized", True)
        return _SOME_TEXT if is_tokens or self.dataset_name is None else self.dataset_name


def model_card(facts: CardFacts, existing: str | None = None) -> str:
    """The card of a suite; what somebody wrote into an existing one stays.

    The same facts give the same card, and the card that it gave before comes back unchanged.
    """
    text = _templates.get_template("card.md.j2").render(facts=facts)
    part = re.sub(r"\n{3,}", "\n\n", text).strip()  # where a section was left out
    return card_with(part, _front_matter(facts), existing)


def _front_matter(facts: CardFacts) -> FrontMatter:
    """Our keys; those that the Hub would refuse, or that are not known, are left out."""
    if facts.license is not None and not _LICENSE.fullmatch(facts.license):
        raise PublishError(
            f"the license {facts.license!r} is not an identifier of the Hub; give one in lower case "
            "such as mit, apache-2.0 or other, see "
            "https://huggingface.co/docs/hub/repositories-licenses"
        )
    model, dataset = facts.base_model, facts.dataset_name
    return {
        "library_name": "saelens",
        "tags": TAGS,
        **({"license": facts.license} if facts.license is not None else {}),
        **({"base_model": model} if model and is_hub_id(model) else {}),
        **({"datasets": [dataset]} if dataset and is_hub_id(dataset) else {}),
    }


def _last_part(name: str) -> str:
    """The id without its owner: TransformerLens says gpt2, the Hub openai-community/gpt2."""
    return name.rpartition("/")[2]
