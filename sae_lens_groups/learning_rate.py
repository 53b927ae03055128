"""Another learning rate for a run that goes on from a checkpoint."""

from typing import Any

from torch.optim import Optimizer


def rescale_learning_rate(optimizer: Optimizer, scheduler: Any, factor: float) -> None:
    """Multiplies the learning rate of the next step, and of all that follow by the schedule."""
    for group in optimizer.param_groups:
        for name in ("lr", "initial_lr"):
            if name in group:
                group[name] *= factor
    _rescale_schedule(scheduler, factor)


def _rescale_schedule(scheduler: Any, factor: float) -> None:
    for name in ("base_lrs", "_last_lr"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, [lr * factor for lr in getattr(scheduler, name)])
    if hasattr(scheduler, "eta_min"):
        scheduler.eta_min *= factor
    for part in getattr(scheduler, "_schedulers", []):  # SAELens chains warm-up, main and decay
        _rescale_schedule(part, factor)
