"""Whether an SAE is trained with the sparse step or with SAELens's own."""

from typing import Any

from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from sae_lens.saes.sae import TrainingSAE, TrainingSAEConfig

from sae_lens_groups.config import FAST_STEPS
from sae_lens_groups.train.fast_step.abstopk import AbsTopKStep
from sae_lens_groups.train.fast_step.batchtopk import BatchTopKStep
from sae_lens_groups.train.fast_step.scratch import Scratch
from sae_lens_groups.train.fast_step.sparse_step import SparseStep
from sae_lens_groups.train.fast_step.topk import TopKStep

AUTO, ALWAYS, NEVER = FAST_STEPS

_DEVICES = ("cpu", "cuda")
_FEWEST_FEATURES = 256
_FEATURES_PER_ACTIVE = 16

_STEPS: dict[str, type[SparseStep[Any]]] = {
    "topk": TopKStep,
    "batchtopk": BatchTopKStep,
    "abstopk": AbsTopKStep,
}


def why_not(cfg: TrainingSAEConfig, autocast: bool, compile_sae: bool) -> str | None:
    """Why an SAE cannot be trained with the sparse step; None where it can be."""
    architecture = cfg.architecture()
    if architecture not in _STEPS:
        return f"architecture {architecture} is none of {', '.join(_STEPS)}"
    if type(cfg) is not SAE_TRAINING_CLASS_REGISTRY[architecture][1]:
        return f"{type(cfg).__name__} is not SAELens's own config of {architecture}"
    if cfg.dtype != "float32":
        return f"the SAE's dtype is {cfg.dtype}, not float32"
    if cfg.normalize_activations in ("constant_norm_rescale", "layer_norm"):
        return f"normalize_activations is {cfg.normalize_activations}"
    if autocast:
        return "autocast is on"
    if compile_sae:
        return "compile_sae is on"
    return None


def choose_step(
    sae: TrainingSAE[Any],
    mode: str,
    *,
    dead_feature_window: int,
    scratch: Scratch,
    autocast: bool = False,
    compile_sae: bool = False,
) -> SparseStep[Any] | None:
    """The sparse step of an SAE; None where SAELens's own is to be used."""
    cfg: Any = sae.cfg
    if mode == NEVER or why_not(cfg, autocast, compile_sae) is not None:
        return None
    architecture = cfg.architecture()
    if type(sae) is not SAE_TRAINING_CLASS_REGISTRY[architecture][0]:
        return None  # a subclass may compute anything
    if sae.device.type not in _DEVICES or any(hook.fwd_hooks for hook in sae.hook_dict.values()):
        return None
    if mode == AUTO and not is_faster(cfg.k, cfg.d_sae):
        return None
    return _STEPS[architecture](sae, dead_feature_window, scratch)


def is_faster(k: float, d_sae: int) -> bool:
    """Whether the sparse step takes less time than SAELens's.

    A rule and not a stopwatch, so that the same config gives the same weights. Measured on a
    processor by `python -m tests.benchmarks.sparse_step`.
    """
    return d_sae >= _FEWEST_FEATURES and d_sae >= _FEATURES_PER_ACTIVE * k
