"""The learning rate of a run that goes on from a checkpoint."""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import torch
from sae_lens.training.optim import get_lr_scheduler
from sae_lens.training.sae_trainer import SAETrainer


def lay_schedules(trainers: Iterable[SAETrainer[Any, Any]], n_samples: int) -> None:
    """Gives each trainer the learning rate that a run of its config has behind so many samples.

    SAELens's checkpoints hold the whole schedule of the run that made them: a longer one would
    decay where that one did, and stay at 0.
    """
    for _, of_one in groupby(trainers, key=lambda trainer: trainer.cfg):
        _lay_schedule(list(of_one), n_samples)


def _lay_schedule(trainers: list[SAETrainer[Any, Any]], n_samples: int) -> None:
    """Of trainers that share a config."""
    cfg = trainers[0].cfg
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=cfg.lr)
    assert cfg.lr_end is not None  # SAELens's config fills it in
    scheduler = get_lr_scheduler(
        cfg.lr_scheduler_name,
        optimizer,
        training_steps=cfg.total_training_steps,
        lr=cfg.lr,
        warm_up_steps=cfg.lr_warm_up_steps,
        decay_steps=cfg.lr_decay_steps,
        lr_end=cfg.lr_end,
        num_cycles=cfg.n_restart_cycles,
    )
    for _ in range(n_samples // cfg.train_batch_size_samples):
        optimizer.step()
        scheduler.step()
    (laid,) = optimizer.param_groups
    for trainer in trainers:
        trainer.lr_scheduler.load_state_dict(scheduler.state_dict())
        for group in trainer.optimizer.param_groups:
            group.update(lr=laid["lr"], initial_lr=laid["initial_lr"])
