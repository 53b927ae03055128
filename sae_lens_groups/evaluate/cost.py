"""What it took to train a suite, counted in FLOPs: the cost beside which its quality is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens.util import extract_stop_at_layer_from_tlens_hook_name
from transformer_lens import HookedRootModule

from sae_lens_groups.activations.flops import flops_of
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.evaluate.baseline import Baseline
from sae_lens_groups.train.cost import flops_of_sae_step

# Of a run that counts a step of its SAE and does not train: nothing is read for it.
_NOT_NEEDED: dict[str, Any] = {
    "device": "cpu",
    "layer_groups": "each",
    "layer_alignment": "none",
    "init_from": None,
    "init_keep_layers": False,
    "token_fraction": None,
    "use_cached_activations": False,
}


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """Passes of the language model and steps of SAEs, for every token an SAE was trained on."""

    name: str
    n_saes: int
    n_layers: int
    training_tokens: int
    """That each SAE was trained on."""
    lm_passes: float
    """FLOPs of the language model per token: of one pass for all SAEs of a run, up to its last
    layer where the model can stop there."""
    sae_steps: float
    """FLOPs of a training step of all SAEs together, per token."""

    @property
    def flops(self) -> float:
        """Of the whole training. What a suite it was started from took is not in it."""
        return self.training_tokens * (self.lm_passes + self.sae_steps)


def training_cost(
    trained: Baseline,
    model: HookedRootModule,
    tokens_ST: torch.Tensor,
    model_kwargs: Mapping[str, Any],
) -> TrainingCost | None:
    """What it took to train these SAEs; None where they do not say, or the model lacks a hook."""
    settings, hook_names = trained.runner_cfg or {}, trained.trained_hook_names
    if any(name not in model.hook_dict for name in hook_names):
        return None
    try:
        cfg = GroupSAERunnerConfig.from_saved(settings, **_NOT_NEEDED)
        training_tokens = int(settings["training_tokens"])
        sae_step = flops_of_sae_step(cfg)
    # Settings of another version, or edited by hand.
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    runs = [hook_names] if trained.is_one_run else [[name] for name in hook_names]
    return TrainingCost(
        name=trained.name,
        n_saes=trained.n_saes,
        n_layers=len(hook_names),
        training_tokens=training_tokens,
        lm_passes=sum(_lm_pass(model, tokens_ST[:1], names, model_kwargs) for names in runs),
        sae_steps=trained.n_saes * sae_step,
    )


@torch.no_grad()
def _lm_pass(
    model: HookedRootModule,
    prompt: torch.Tensor,
    hook_names: Sequence[str],
    model_kwargs: Mapping[str, Any],
) -> float:
    """FLOPs per token of the pass that SAELens's store takes for these hooks."""
    stops = [extract_stop_at_layer_from_tlens_hook_name(name) for name in hook_names]
    stop = None if None in stops else max(stop for stop in stops if stop is not None)
    names = list(hook_names)

    def run() -> None:
        model.run_with_cache(prompt, names_filter=names, stop_at_layer=stop, **model_kwargs)

    return flops_of(run) / prompt.numel()
