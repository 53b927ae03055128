"""Saves a run's checkpoints when they are due, and removes those that are not kept."""

import warnings
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME
from safetensors import SafetensorError

from sae_lens_groups import files
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import OutputFolderError, TrainingInterrupted
from sae_lens_groups.field_values import parse_every
from sae_lens_groups.files import only_writer
from sae_lens_groups.plan import GroupPlan
from sae_lens_groups.saved import TransferReport
from sae_lens_groups.train.checkpoints import folder as run_folder
from sae_lens_groups.train.checkpoints.schedule import CheckpointSchedule
from sae_lens_groups.train.group_trainer import GroupTrainer
from sae_lens_groups.train.ranks.world import World

# What torch and safetensors raise where a file cannot be written.
UNWRITABLE = (OSError, SafetensorError, RuntimeError, OutputFolderError)


class RunCheckpoints:
    """The checkpoints of one run, whose folder no other run writes to until it is closed.

    Args:
        cfg: says where they go, when they are due, and how many are kept.
        trainer: what they are of.
        world: the processes that write each of them together.
    """

    def __init__(self, cfg: GroupSAERunnerConfig[Any], trainer: GroupTrainer, world: World) -> None:
        self._trainer, self._world = trainer, world
        self._keep = cfg.keep_checkpoints
        self._folder = None if cfg.checkpoint_path is None else Path(cfg.checkpoint_path)
        every = None if cfg.checkpoint_every is None else parse_every(cfg.checkpoint_every)
        self._schedule = CheckpointSchedule(
            trainer.take_thresholds(), every, trainer.n_training_samples
        )
        self._lock = ExitStack()
        self._is_locked = self._is_due = False
        if self._folder is not None:
            world.of_first(partial(self._take_over, self._folder))

    def close(self) -> None:
        """Lets other runs write to the folder."""
        self._lock.close()

    def _take_over(self, folder: Path) -> None:
        if folder.exists():  # of the run that is resumed
            self._hold(folder)
            run_folder.remove_partial(folder)

    def _hold(self, folder: Path) -> None:
        if not self._is_locked:
            self._lock.enter_context(only_writer(folder, "checkpoint_path"))
            self._is_locked = True

    @property
    def is_due(self) -> bool:
        """Whether one is, since the last was saved or tried."""
        self._is_due |= self._schedule.is_due(self._trainer.n_training_samples)
        return self._is_due

    def try_to_save(self) -> None:
        """Saves one. A disk that is full costs the checkpoint, and not the run."""
        self._is_due = False
        try:
            self.save()
        except UNWRITABLE as error:
            warnings.warn(
                f"no checkpoint after {self._trainer.n_training_samples:,} tokens, training goes "
                f"on: {error}; {self.last_one()}",
                stacklevel=2,
            )

    def save(self) -> Path | None:
        """Saves one now and returns its folder; None where the config names no place for it."""
        folder, name = self._folder, str(self._trainer.n_training_samples)
        self._world.agreed(self._trainer.require_finite)  # what is on disk can be gone on from
        if folder is not None:
            self._world.of_first(lambda: self._hold(folder))
        self._trainer.save_checkpoint(name)
        if folder is None:
            return None
        self._upload_others(folder / name)
        if (keep := self._keep) is not None:
            self._world.of_first(lambda: run_folder.remove_old(folder, keep))
        return folder / name

    def _upload_others(self, checkpoint: Path) -> None:
        """Of groups that other processes train, to W&B, what SAELens uploads of those trained here."""
        logger, own = self._trainer.cfg.logger, self._trainer.group_trainers
        if not logger.log_to_wandb or self._world.size == 1:
            return
        names = self._world.merged(
            lambda: {name: (one.setting, one.sae.get_name()) for name, one in own.items()}
        )

        def upload() -> None:
            for folder, (setting, name) in names.items():
                if folder not in own:
                    sae = SimpleNamespace(get_name=partial(str, name))
                    logger.log(
                        SimpleNamespace(sae=sae, cfg=self._trainer.cfg, setting=setting),
                        checkpoint / folder / SAE_WEIGHTS_FILENAME,
                        checkpoint / folder / SAE_CFG_FILENAME,
                        checkpoint / folder / SPARSITY_FILENAME,
                    )

        self._world.of_first(upload)

    def last_one(self) -> str:
        """Where the newest checkpoint lies, for a message."""
        saved = [] if self._folder is None else run_folder.checkpoints_in(self._folder)
        if not saved:
            return "there is no checkpoint yet (checkpoint_every asks for them)"
        return f"the last checkpoint is {saved[-1]}"

    def saved(self, interruption: TrainingInterrupted) -> TrainingInterrupted:
        """Saves the progress of an interrupted run; returns the exception that says where."""
        if self._folder is None:
            return interruption
        number = interruption.signal_number
        try:
            return TrainingInterrupted(number, self.save())
        except UNWRITABLE as error:
            return TrainingInterrupted(number, unsaved=f"{error}; {self.last_one()}")

    def saved_state(self) -> str:
        """Saves the state that the run is in, which is whole; returns where, for a message."""
        if self._folder is None or self._trainer.n_training_steps == 0:
            return "nothing was saved, because checkpoint_path is None or no step was complete"
        try:
            return f"the state before is saved in {self.save()}"
        except UNWRITABLE as error:
            return f"the state before could not be saved: {error}; {self.last_one()}"


def save_runner_files(
    checkpoint: Path,
    cfg: GroupSAERunnerConfig[Any],
    plan: GroupPlan | None,
    transfer: TransferReport | None,
) -> None:
    """Adds the plan, what the SAEs started from, and the config."""
    if plan is not None:
        plan.save(checkpoint / files.PLAN)
    if transfer is not None:
        files.write_text(checkpoint / files.TRANSFER, files.json_text(transfer.model_dump()))
    files.write_text(checkpoint / files.RUNNER_CFG, files.json_text(cfg.to_dict()))
