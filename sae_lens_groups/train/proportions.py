"""Settings of a longer run: schedules and a norm estimate that are out of proportion to this one."""

import warnings
from typing import Any

from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError
from sae_lens_groups.scaling import ESTIMATED_MODES

SPARSITY_WARM_UPS = ("l1_warm_up_steps", "l0_warm_up_steps")


def require_schedules_that_fit(cfg: GroupSAERunnerConfig[Any]) -> None:
    """Refuses schedules that the run would end in the middle of, and such as jump.

    SAELens follows them without a word: a warm-up of 1,000 steps ends 40 steps at 4% of `lr`.
    """
    n_steps = cfg.total_training_steps
    length = "training_tokens" if cfg.token_fraction is None else "token_fraction"
    rate = {name: getattr(cfg, name) for name in ("lr_warm_up_steps", "lr_decay_steps")}
    scheduler = cfg.lr_scheduler_name.lower()
    if scheduler == "cosineannealingwarmrestarts":
        rate["n_restart_cycles"] = cfg.n_restart_cycles
    elif scheduler != "constant":
        rate[f"a step of {scheduler}"] = 1
    of_sae = [{name: getattr(cfg.sae, name, 0)} for name in SPARSITY_WARM_UPS]
    for needed in (rate, *of_sae):
        names = [name for name, n in needed.items() if n]
        if (n_needed := sum(needed.values())) > n_steps:
            raise ConfigError(
                f"{length} leaves {n_steps} training steps, and {' and '.join(names)} "
                f"take{'s' if len(names) == 1 else ''} {n_needed}; lower that, or raise {length}"
            )
    first = "lr" if scheduler == "constant" else "lr_end"
    if cfg.lr_decay_steps and getattr(cfg, first) == 0:
        raise ConfigError(
            f"lr_decay_steps is {cfg.lr_decay_steps}, which would begin at {first} = 0; raise "
            f"{first}, or set lr_decay_steps to 0"
        )


def warn_of_long_estimate(cfg: GroupSAERunnerConfig[Any]) -> None:
    """Says that norms are estimated on far more than the run itself."""
    n_batches, size = cfg.norm_estimate_batches, cfg.train_batch_size_tokens
    is_estimated = cfg.sae.normalize_activations in ESTIMATED_MODES
    if is_estimated and n_batches > 10 * cfg.total_training_steps:
        warnings.warn(
            f"n_batches_for_norm_estimate is {n_batches:,}: norms are estimated on "
            f"{n_batches * size:,} tokens before a run of {cfg.training_tokens:,}; leave it out for "
            "a tenth of the run",
            stacklevel=4,
        )
