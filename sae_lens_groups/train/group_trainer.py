"""Trains the SAEs of all groups in step."""

import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import wandb
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainingSAE, TrainStepOutput
from sae_lens.training.multi_sae_trainer import MultiSAETrainer
from sae_lens.training.sae_trainer import SaveCheckpointFn
from sae_lens.training.types import MultiHookDataProvider
from tqdm.auto import tqdm
from typing_extensions import override

from sae_lens_groups import files
from sae_lens_groups.activations import GroupBatch, rows_name
from sae_lens_groups.errors import NonFiniteActivationsError, TrainingError
from sae_lens_groups.files import ChecksumEntry, checksums_in, write_checksums
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.saved import TrainingCurves, TrainingPoint, points_from_csv, points_to_csv
from sae_lens_groups.scaling import (
    ESTIMATED_MODES,
    Alignment,
    GroupScalingEstimate,
    LayerPair,
    PairMoments,
)
from sae_lens_groups.train.checkpoints.folder import CheckpointFacts, remove
from sae_lens_groups.train.checkpoints.learning_rate import lay_schedules
from sae_lens_groups.train.checkpoints.step_state import load_step_state
from sae_lens_groups.train.fast_step import AUTO, Scratch
from sae_lens_groups.train.progress import ProgressBar
from sae_lens_groups.train.ranks.status import TornError
from sae_lens_groups.train.ranks.world import World
from sae_lens_groups.train.sweep import sae_name
from sae_lens_groups.train.trainer import GroupSAETrainer
from sae_lens_groups.train.wandb_run import tolerated

_STEPS_BETWEEN_CHECKS = 32
# A checkpoint is compared with others by so many points of the training curves.
_N_LAST_POINTS = 5


@dataclass(frozen=True)
class GroupSAE:
    """An SAE to train."""

    sae: TrainingSAE[Any]
    group: LayerGroup
    cfg: SAETrainerConfig
    """How it is trained."""
    setting: str = ""
    """Which of a sweep; empty without one."""
    order: str = ""
    """In which of the orders it sees the rows."""

    @property
    def name(self) -> str:
        """What it is called in logs and checkpoints."""
        return sae_name(self.setting, self.group)


class GroupTrainer(MultiSAETrainer):
    """SAELens's multi-SAE trainer with one `GroupSAETrainer` per group, or of a sweep per setting
    and group.

    Of several processes each has one, of its own groups, or of none.

    Args:
        cfg: what is the same for all SAEs.
        saes: those to train here.
        data_provider: gives batches by the names of groups.
        all_names: of the SAEs of all processes.
    """

    group_trainers: dict[str, GroupSAETrainer]
    """By the SAE's name; `trainers` is the same, as SAELens's trainers."""

    def __init__(
        self,
        cfg: SAETrainerConfig,
        saes: Sequence[GroupSAE],
        data_provider: Iterator[dict[str, GroupBatch]],
        save_checkpoint_fn: SaveCheckpointFn | None = None,
        fast_step: str = AUTO,
        verbose: bool = True,
        world: World | None = None,
        all_names: Sequence[str] = (),
    ) -> None:
        rows = {one.name: rows_name(one.order, one.group.name) for one in saes}
        # SAELens's trainer passes on what the provider gives, to `GroupSAETrainer.step`.
        provider = cast("MultiHookDataProvider", data_provider)
        super().__init__(
            cfg, {one.name: one.sae for one in saes}, rows, provider, None, save_checkpoint_fn
        )
        scratch = Scratch()
        # As SAELens makes them of its own: this trainer saves, and not each SAE's.
        quiet = {"n_checkpoints": 0, "checkpoint_path": None, "save_final_checkpoint": False}
        self.group_trainers = {
            one.name: GroupSAETrainer(
                replace(one.cfg, **quiet), one.sae, one.group, fast_step, scratch
            )
            for one in saes
        }
        for one in saes:
            self.group_trainers[one.name].setting = one.setting
        self.trainers = dict(self.group_trainers)
        self.after_step: Callable[[], None] = lambda: None
        """Called after every whole step; what it raises ends training."""
        self.log: Callable[[dict[str, Any], int], None] = lambda of, step: wandb.log(of, step=step)
        """Gets the entries of a step, and its number."""
        self._world = world or World()
        self._order = list(all_names or rows)
        self._progress = ProgressBar(cfg.total_training_samples, len(rows), verbose)
        self.curves = TrainingCurves(cfg.total_training_samples)

    def estimate_scaling(self, mode: str, batches: Iterator[dict[str, GroupBatch]]) -> None:
        """Fits each layer's scaler on the next `n_batches_for_norm_estimate` of these batches, where
        the mode needs an estimate.
        """
        if mode not in ESTIMATED_MODES:
            return
        # One estimate for all that train on the same rows.
        of_rows = {self.hook_names[name]: one for name, one in self.group_trainers.items()}
        estimates = {
            rows: GroupScalingEstimate(trainer.group, mode, trainer.sae.cfg.d_in)
            for rows, trainer in of_rows.items()
        }
        n_batches = range(self.cfg.n_batches_for_norm_estimate)
        for _ in tqdm(n_batches, desc="Estimating each layer's norm", leave=False):
            batch = next(batches)
            for rows, trainer in of_rows.items():
                estimates[rows].add(*trainer.unpack(batch[rows]))
        scalings = {rows: estimate.scaling() for rows, estimate in estimates.items()}
        for name, trainer in self.group_trainers.items():
            trainer.scaling = scalings[self.hook_names[name]]

    @override
    def fit(self) -> dict[str, TrainingSAE[Any]]:
        """Trains every group to the end."""
        try:
            return super().fit() if self.group_trainers else self._lend_passes()
        except TornError:
            raise
        except (NonFiniteActivationsError, TrainingError) as error:
            where = f"before training step {self.n_training_steps}"
            raise type(error)(f"{where}: {error}") from error.__cause__

    def _lend_passes(self) -> dict[str, TrainingSAE[Any]]:
        """Runs the language model for the groups of other processes, in step with them."""
        while self.n_training_samples < self.cfg.total_training_samples:
            self._maybe_log_sparsity()
            next(self.data_provider)
            self.n_training_samples += self.cfg.train_batch_size_samples
            if self.cfg.logger.log_to_wandb:
                self._log_train_step({})
                self._run_and_log_evals()
            self.n_training_steps += 1
            self.after_step()
        self._maybe_log_sparsity(final=True)
        return {}

    # SAELens's own three log what they find at once; here all processes' goes to one run.

    @override
    def _maybe_log_sparsity(self, final: bool = False) -> None:
        found: dict[str, Any] = {}
        with tolerated():
            for name, trainer in self.group_trainers.items():
                of_group = (
                    trainer.full_sparsity_window_log() if final else trainer.maybe_reset_sparsity()
                )
                found |= {f"{name}/{key}": value for key, value in of_group.items()}
        # Whether before or behind a window's last step depends on the version of SAELens.
        in_window = self.n_training_steps % self.cfg.feature_sampling_window
        if in_window in (0, self.cfg.feature_sampling_window - 1):
            self._log(lambda: found)

    @override
    @torch.no_grad()
    def _log_train_step(self, step_outputs: dict[str, TrainStepOutput]) -> None:
        if self._is_logging_step():
            n_samples = self.n_training_samples
            self._log(
                lambda: (
                    {"details/n_training_samples": n_samples}
                    | {
                        f"{name}/{key}": value
                        for name, trainer in self.group_trainers.items()
                        for key, value in trainer.build_train_step_log_dict(
                            output=step_outputs[name], n_training_samples=n_samples
                        ).items()
                    }
                )
            )

    @override
    @torch.no_grad()
    def _run_and_log_evals(self) -> None:
        logger = self.cfg.logger
        every = logger.wandb_log_frequency * logger.eval_every_n_wandb_logs
        if (self.n_training_steps + 1) % every == 0:
            self._log(self._evaluated)

    def _evaluated(self) -> dict[str, Any]:
        for sae in self.saes.values():
            sae.eval()
        try:
            scalers = {name: one.activation_scaler for name, one in self.trainers.items()}
            found = {}
            if self.evaluator is not None:
                found = self.evaluator(self.saes, self.data_provider, scalers, self.hook_names)
            for name, sae in self.saes.items():
                histograms = sae.log_histograms().items()
                found |= {f"{name}/{key}": wandb.Histogram(value) for key, value in histograms}  # type: ignore[arg-type]
            return found
        finally:
            for sae in self.saes.values():
                sae.train()

    def _log(self, find: Callable[[], dict[str, Any]]) -> None:
        """Logs what each process finds of its groups, if anything is logged."""
        if not self.cfg.logger.log_to_wandb:
            return

        def found_here() -> dict[str, Any]:
            with tolerated():
                return find()
            return {}

        entries = {k: v for of_one in self._world.gathered(found_here) for k, v in of_one.items()}
        if entries and self._world.is_first:
            with tolerated():
                self.log(entries, self.n_training_steps)

    def require_finite(self, *, with_weights: bool = True) -> None:
        """Refuses to go on where a group's loss or weights are NaN or infinite."""
        for trainer in self.group_trainers.values():
            trainer.require_finite(with_weights=with_weights)

    def whole_trainers(self) -> dict[str, GroupSAETrainer]:
        """Of the SAEs that this process writes, from which they are written, by their names."""
        return self.group_trainers

    def take_thresholds(self) -> list[int]:
        """The tokens behind which SAELens would save a checkpoint; from now on it saves none.

        It would in the middle of a step, when not everything has counted it yet.
        """
        thresholds, self.checkpoint_thresholds = self.checkpoint_thresholds, []
        return thresholds

    def align(self, alignment: Alignment, moments: Mapping[LayerPair, PairMoments]) -> None:
        """Maps every layer to its group's middle layer from here on, after its scaling."""
        for trainer in self.group_trainers.values():
            trainer.scaling = trainer.scaling.aligned(alignment, moments)

    @override
    def save_checkpoint(self, checkpoint_name: str, wandb_aliases: list[str] | None = None) -> None:
        """Writes a checkpoint that is either complete or absent."""
        if self.cfg.checkpoint_path is None:
            super().save_checkpoint(checkpoint_name, wandb_aliases)
            return
        folder = Path(self.cfg.checkpoint_path) / checkpoint_name
        partial = folder.with_name(files.partial_name(checkpoint_name))
        save_parts = super().save_checkpoint
        try:
            self._world.of_first(lambda: _make_empty(partial))
            self._world.agreed(lambda: save_parts(partial.name, wandb_aliases))
            points = self.points()
            known = self._world.merged(lambda: checksums_in(partial, self.group_trainers))
            self._world.of_first(lambda: self._finish(partial, folder, points, known))
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)  # a full disk has its space again
            raise

    def _finish(
        self,
        partial: Path,
        folder: Path,
        points: tuple[TrainingPoint, ...],
        known: Mapping[str, ChecksumEntry],
    ) -> None:
        files.write_text(partial / files.CURVES, points_to_csv(points))
        facts = self._facts(points).model_dump()
        files.write_text(partial / files.CHECKPOINT, files.json_text(facts))
        write_checksums(partial, known=known)
        if folder.exists():  # of an interrupted run that was resumed
            remove(folder)
        files.finish_folder(partial, folder)

    def _facts(self, points: tuple[TrainingPoint, ...]) -> CheckpointFacts:
        last = points[-_N_LAST_POINTS * len({point.group for point in points}) :]
        return CheckpointFacts(
            training_tokens=self.n_training_samples,
            explained_variance=statistics.fmean(point.explained_variance for point in last),
        )

    def points(self) -> tuple[TrainingPoint, ...]:
        """Those of the training curves, of the groups of all processes."""
        of_all = [p for points in self._world.gathered(lambda: self.curves.points) for p in points]
        of_all.sort(key=lambda point: (point.training_tokens, self._order.index(point.group)))
        return tuple(of_all)

    @override
    def load_checkpoint(self, path: str | Path) -> None:
        if self.group_trainers:
            super().load_checkpoint(path)
        # A process without groups finds nothing of its own there.
        counts = self._world.gathered(lambda: (self.n_training_steps, self.n_training_samples))
        self.n_training_steps, self.n_training_samples = max(counts)
        for name, trainer in self.group_trainers.items():
            load_step_state(Path(path) / name, trainer.sae, trainer.sparse_step)
        lay_schedules(self.group_trainers.values(), self.n_training_samples)
        points = points_from_csv((Path(path) / files.CURVES).read_text(encoding="utf-8"))
        own = [point for point in points if point.group in self.group_trainers]
        self.curves = TrainingCurves(self.cfg.total_training_samples, own)

    @override
    def _estimate_scaling_factors(self) -> None:
        """Nothing: SAELens's own estimate would give all layers of a group one factor."""

    @override
    def _update_pbar(
        self,
        step_outputs: dict[str, TrainStepOutput],
        pbar: tqdm,  # type: ignore[type-arg]
        update_interval: int = 100,  # ours goes by time, not by steps
    ) -> None:
        if self._world.is_first:
            self._progress.show(pbar, self.n_training_samples, step_outputs)
        else:
            pbar.leave = False
            pbar.close()
        self.curves.add(self.n_training_samples, step_outputs)
        # Asking a GPU waits for it, so it is done only now and then.
        if self.cfg.device == "cpu" or self.n_training_steps % _STEPS_BETWEEN_CHECKS == 0:
            self.require_finite(with_weights=False)
        self.after_step()


def _make_empty(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
