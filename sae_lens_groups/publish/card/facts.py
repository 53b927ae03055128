"""What a model card is written from, and the few questions that its sections ask of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.saved.manifest import SuiteManifest
from sae_lens_groups.scaling.group_scaling import WHITENING

MAIN = "main"
# Modules of transformers whose output is the residual stream after the block. Compared with
# TransformerLens without processing: equal to 1e-6 for GPT-NeoX, GPT-2, Qwen3 and Mistral.
_BLOCKS = ("gpt_neox.layers.", "transformer.h.", "model.layers.")
_TRANSFORMER_LENS_BLOCKS = "blocks."


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
    base_model: str | None
    """The model's id on the Hub; None where it is not there."""
    dataset_name: str | None
    """The training text's id on the Hub; None where it is not there."""
    license: str | None
    """Of the SAEs, as the Hub writes it; None leaves it to whoever edits the card."""
    revision: str | None = None
    """The branch that is published to; None is main."""
    eval_cfg: Mapping[str, Any] | None = None
    """`eval_cfg` of any entry of `evaluation/all_eval_results.json`: what was measured on."""

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
        return self.any_cfg.get("metadata") or {}

    @property
    def any_cfg(self) -> Mapping[str, Any]:
        """The `cfg.json` of any layer."""
        return next(iter(self.sae_cfgs.values()), {})

    @property
    def is_imported(self) -> bool:
        """Whether the SAEs were trained elsewhere, so that nothing is known of how."""
        return self.manifest.is_imported

    @property
    def shared_groups(self) -> list[LayerGroup]:
        """The groups of several layers."""
        return [group for group in self.manifest.groups if len(group) > 1]

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
    def is_scaled(self) -> bool:
        """Whether any layer's activations were multiplied by a factor in training."""
        return any(factor is not None for factor in self.manifest.scaling_factors.values())

    @property
    def three_layers(self) -> list[int]:
        """Examples from across the model; fewer where there are fewer."""
        layers = self.manifest.layers
        return sorted({layers[len(layers) * n // 6] for n in (1, 3, 5)})

    @property
    def example(self) -> int:
        """A layer from the middle."""
        return self.manifest.layers[len(self.manifest.layers) // 2]

    def setting(self, name: str, default: Any = None) -> Any:
        """A setting of the run."""
        return (self.runner_cfg or {}).get(name, default)

    def cfg_values(self, name: str) -> list[Any]:
        """The different values of an entry of the layers' `cfg.json`."""
        found = [cfg[name] for cfg in self.sae_cfgs.values() if cfg.get(name) is not None]
        return list(dict.fromkeys(found))

    @property
    def transformer_lens_hook(self) -> tuple[str, str] | None:
        """What TransformerLens calls the hook, before and after the layer; None if unknown."""
        template = self.manifest.hook_template
        if template.before == _TRANSFORMER_LENS_BLOCKS:
            return template.before, template.after
        if template.before in _BLOCKS and not template.after:
            return _TRANSFORMER_LENS_BLOCKS, ".hook_resid_post"
        return None

    @property
    def is_renamed_for_transformer_lens(self) -> bool:
        """Whether TransformerLens has another name for the hook."""
        template = self.manifest.hook_template
        return self.transformer_lens_hook != (template.before, template.after)

    @cached_property
    def transformer_lens_model(self) -> str | None:
        """A name under which TransformerLens loads the model from the Hub; None if none is known."""
        from transformer_lens.loading_from_pretrained import get_official_model_name

        if self.base_model is None:  # else a local model's folder could pass for a model there
            return None
        for name in (self.manifest.model_name, self.base_model):
            try:
                official = get_official_model_name(name)
            except ValueError:
                continue
            if _last_part(official) == _last_part(self.base_model):
                return name
        return None


def _last_part(name: str) -> str:
    """The id without its owner: TransformerLens says gpt2, the Hub openai-community/gpt2."""
    return name.rpartition("/")[2]
