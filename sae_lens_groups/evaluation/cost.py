"""What it took to train a suite, counted in FLOPs: the cost beside which its quality is drawn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformer_lens import HookedRootModule

from sae_lens_groups.baseline import Baseline
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.count_cost import flops_of, flops_of_sae_step


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """Passes of the language model and steps of SAEs, for every token an SAE was trained on."""

    name: str
    n_saes: int
    n_layers: int
    training_tokens: int
    """That each SAE was trained on."""
    lm_forward: float
    """FLOPs of the language model's pass, per token."""
    sae_steps: float
    """FLOPs of a training step of all SAEs together, per token."""
    is_one_run: bool
    """One pass feeds all SAEs; otherwise each SAE had a run of its own."""

    @property
    def flops(self) -> float:
        """Of the whole training. What a suite it was started from took is not in it."""
        n_passes = 1 if self.is_one_run else self.n_saes
        return self.training_tokens * (n_passes * self.lm_forward + self.sae_steps)


@torch.no_grad()
def lm_flops(
    model: HookedRootModule, tokens_ST: torch.Tensor, model_kwargs: Mapping[str, Any]
) -> float:
    """FLOPs per token of the language model's pass, its last layer included."""
    prompt = tokens_ST[:1]
    work = flops_of(lambda: model(prompt, return_type="logits", **model_kwargs))
    return work / prompt.numel()


def training_cost(trained: Baseline, lm_forward: float) -> TrainingCost | None:
    """What it took to train these SAEs; None where they do not say."""
    if trained.runner_cfg is None or "training_tokens" not in trained.runner_cfg:
        return None
    cfg = GroupSAERunnerConfig.from_saved(trained.runner_cfg, device="cpu", layer_groups="each")
    return TrainingCost(
        name=trained.name,
        n_saes=trained.n_saes,
        n_layers=len(trained.saes),
        training_tokens=cfg.training_tokens,
        lm_forward=lm_forward,
        sae_steps=trained.n_saes * flops_of_sae_step(cfg),
        is_one_run=trained.is_one_run,
    )
