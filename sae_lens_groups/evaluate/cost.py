"""What it took to train a suite, counted in FLOPs: the cost beside which its quality is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens.util import extract_stop_at_layer_from_tlens_hook_name
from transformer_lens import HookedRootModule

from sae_lens_groups.activations import flops_of
from sae_lens_groups.evaluate.baseline import Baseline
from sae_lens_groups.suite import SAESuite

# SAEs of one encoder and one decoder, whose dense training step is six products of d_in x d_sae:
# both, and the gradients of both matrices and of both inputs, 2 d_in d_sae each.
_ONE_ENCODER_ONE_DECODER = {"standard", "topk", "batchtopk", "jumprelu", "abstopk"}


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


def training_costs(
    suite: SAESuite,
    baseline: Baseline | None,
    model: HookedRootModule,
    tokens_ST: torch.Tensor,
    model_kwargs: Mapping[str, Any],
) -> tuple[TrainingCost, ...]:
    """Of the suite and of the baseline, as far as they say what it took; none without the suite's."""
    ours = _training_cost(Baseline.of(suite, "suite"), model, tokens_ST, model_kwargs)
    if ours is None:
        return ()
    theirs = baseline and _training_cost(baseline, model, tokens_ST, model_kwargs)
    return (ours,) if theirs is None else (ours, theirs)


def _training_cost(
    trained: Baseline,
    model: HookedRootModule,
    tokens_ST: torch.Tensor,
    model_kwargs: Mapping[str, Any],
) -> TrainingCost | None:
    """None where the SAEs do not say, or the model lacks a hook."""
    settings, hook_names = trained.runner_cfg or {}, trained.trained_hook_names
    if any(name not in model.hook_dict for name in hook_names):
        return None
    training_tokens, sae_step = settings.get("training_tokens"), _sae_step(trained)
    if not isinstance(training_tokens, int) or sae_step is None:
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


def _sae_step(trained: Baseline) -> float | None:
    """FLOPs per token of a training step of one SAE; None for a suite that did not count them."""
    if isinstance(trained.saes, SAESuite) and not trained.saes.manifest.is_imported:
        return trained.saes.manifest.sae_step_flops
    cfg = next(iter(trained.saes.values())).cfg
    trained_as = (trained.runner_cfg or {}).get("sae")
    architecture = trained_as.get("architecture") if isinstance(trained_as, dict) else None
    if (architecture or cfg.architecture()) not in _ONE_ENCODER_ONE_DECODER:
        return None
    return 12.0 * cfg.d_in * cfg.d_sae


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
