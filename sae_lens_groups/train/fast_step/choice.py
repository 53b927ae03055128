"""Whether an SAE is trained with a fast step or with SAELens's own."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from sae_lens.saes.sae import TrainingSAE, TrainingSAEConfig

from sae_lens_groups.config import FAST_STEPS, GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError
from sae_lens_groups.plugins import fast_steps
from sae_lens_groups.train.fast_step.bfloat16 import BFloat16Step
from sae_lens_groups.train.fast_step.scratch import Scratch
from sae_lens_groups.train.fast_step.sparse_step import SparseStep

AUTO, ALWAYS, NEVER = FAST_STEPS

_DEVICES = ("cpu", "cuda")
_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class StepChoice:
    """Which step SAEs of one kind are trained with."""

    step: type[SparseStep[Any]] | None
    """The fast step; None for SAELens's own."""
    reason: str
    """Why it is SAELens's, and which setting changes that; empty for a fast step."""

    def __str__(self) -> str:
        return f"SAELens's own: {self.reason}" if self.step is None else self.step.name


def why_not(cfg: TrainingSAEConfig) -> str | None:
    """Why an SAE cannot be trained with a fast step; None where it can be."""
    architecture = cfg.architecture()
    known = fast_steps()
    if architecture not in known:
        return f"architecture {architecture} is none of {', '.join(known)}"
    if type(cfg) is not SAE_TRAINING_CLASS_REGISTRY[architecture][1]:
        return f"{type(cfg).__name__} is not SAELens's own config of {architecture}"
    if cfg.dtype not in _DTYPES:
        return f"the SAE's dtype is {cfg.dtype}, not {' or '.join(_DTYPES)}"
    return known[architecture].why_not(cfg)


def step_of_config(cfg: TrainingSAEConfig, mode: str) -> StepChoice:
    """What `fast_step` comes to for SAEs of this config."""
    if mode == NEVER:
        return StepChoice(None, "fast_step is never")
    if (reason := why_not(cfg)) is not None:
        return StepChoice(None, reason)
    step = fast_steps()[cfg.architecture()]
    if mode == AUTO and (reason := step.why_slower(cfg)) is not None:
        return StepChoice(None, f"{reason}; fast_step always takes the fast one")
    return StepChoice(step, "")


def step_of_sae(sae: TrainingSAE[Any], mode: str) -> StepChoice:
    """The same for an SAE, which may differ from what its config says."""
    choice = step_of_config(sae.cfg, mode)
    if choice.step is None:
        return choice
    if type(sae) is not SAE_TRAINING_CLASS_REGISTRY[sae.cfg.architecture()][0]:
        return StepChoice(None, f"{type(sae).__name__} may compute anything")
    if sae.device.type not in _DEVICES:
        return StepChoice(None, f"the SAE is on {sae.device.type}, not {' or '.join(_DEVICES)}")
    if any(hook.fwd_hooks for hook in sae.hook_dict.values()):
        return StepChoice(None, "the SAE has hooks")
    return choice


def make_step(
    sae: TrainingSAE[Any], mode: str, cfg: SAETrainerConfig, scratch: Scratch
) -> SparseStep[Any] | None:
    """The fast step of this SAE; None where it is SAELens's own."""
    step = step_of_sae(sae, mode).step
    return None if step is None else step_for_dtype(step, sae, cfg, scratch)


def step_for_dtype(
    step: Callable[..., SparseStep[Any]],
    sae: TrainingSAE[Any],
    cfg: SAETrainerConfig,
    scratch: Scratch,
) -> SparseStep[Any]:
    """The step that this makes, as a class does, for weights in float32 or bfloat16."""
    if sae.W_enc.dtype == torch.bfloat16:
        return BFloat16Step(step, sae, cfg.dead_feature_window, scratch)
    return step(sae, cfg.dead_feature_window, scratch, cfg.autocast)


def require_usable_step(cfg: GroupSAERunnerConfig[Any]) -> None:
    """Refuses a fast step that cannot be taken, and an SAE that SAELens's own step cannot train."""
    reason = why_not(cfg.sae)
    if cfg.fast_step == ALWAYS and reason is not None:
        raise ConfigError(
            f"fast_step is always, but {reason}; set fast_step to auto, which is SAELens's own "
            "step there"
        )
    is_half = cfg.sae.dtype in ("bfloat16", "float16")
    if cfg.sae.architecture() == "gated" and is_half and not cfg.autocast:
        raise ConfigError(
            f"a gated SAE in {cfg.sae.dtype} needs autocast, as SAELens's loss multiplies its "
            "weights with activations in float32; set autocast, or sae.dtype to float32"
        )


def steps_text(saes: Iterable[TrainingSAE[Any]], mode: str) -> str:
    """What these SAEs are trained with, each kind once."""
    return "; ".join(dict.fromkeys(str(step_of_sae(sae, mode)) for sae in saes))
