"""SAELens's trainers, fed with rows of a group and the layer of each row.

The loop, the optimiser and, but for the fast step, the training step are SAELens's own. What is overridden are its public
methods, and two private ones of MultiSAETrainer that a new SAELens may rename: `_update_pbar` and
`_estimate_scaling_factors`.
"""

import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainingSAE, TrainStepOutput
from sae_lens.training.multi_sae_trainer import MultiSAEEvaluatorProtocol, MultiSAETrainer
from sae_lens.training.sae_trainer import SAETrainer, SaveCheckpointFn
from sae_lens.training.types import MultiHookDataProvider
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from typing_extensions import override

from sae_lens_groups import files
from sae_lens_groups.alignment import Alignment, LayerPair, PairMoments
from sae_lens_groups.checksums import write_checksums
from sae_lens_groups.errors import DivergedError, NonFiniteActivationsError
from sae_lens_groups.fast_step import AUTO, NEVER, Scratch, SparseStep, choose_step
from sae_lens_groups.layer_scalers import load_layer_scalers, save_layer_scalers
from sae_lens_groups.layer_statistics import LayerStatistics, layer_metrics
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.loss_health import LossHealth
from sae_lens_groups.normalization import (
    ESTIMATED_MODES,
    GroupScaling,
    GroupScalingEstimate,
)
from sae_lens_groups.run_folder import CheckpointFacts, remove
from sae_lens_groups.shuffle_buffer import GroupBatch
from sae_lens_groups.step_state import load_step_state, save_step_state
from sae_lens_groups.training_curves import TrainingCurves, points_from_csv, points_to_csv

_STEPS_BETWEEN_CHECKS = 32
# A checkpoint is compared with others by so many points of the training curves.
_N_LAST_POINTS = 5


class GroupSAETrainer(SAETrainer[TrainingSAE[Any], Any]):
    """Trains one group's SAE: scales each row by its layer, and keeps statistics per layer.

    Args:
        cfg: SAELens's config of one SAE's trainer.
        sae: the group's SAE.
        group: whose rows the batches hold.
        fast_step: `auto`, `always` or `never`. Never trains with SAELens's own step and optimiser,
            bit for bit.
        compile_sae: whether SAELens's forward pass of the SAE is compiled.
        scratch: memory that the trainers of all groups share.
    """

    def __init__(
        self,
        cfg: SAETrainerConfig,
        sae: TrainingSAE[Any],
        group: LayerGroup,
        fast_step: str = AUTO,
        compile_sae: bool = False,
        scratch: Scratch | None = None,
    ) -> None:
        super().__init__(cfg, sae, data_provider=iter(()))
        self.group = group
        self.scaling = GroupScaling.identity(group)
        self.statistics = LayerStatistics(len(group), sae.cfg.d_sae, cfg.device)
        self.sparse_step = choose_step(
            sae,
            fast_step,
            dead_feature_window=cfg.dead_feature_window,
            scratch=scratch or Scratch(),
            autocast=cfg.autocast,
            compile_sae=compile_sae,
        )
        self._is_optimizer_fused = fast_step != NEVER
        self._fuse_optimizer()
        if self._is_optimizer_fused:
            # A fused optimiser walks through weights and gradients as they lie in memory.
            for parameter in sae.parameters():
                parameter.data = parameter.data.contiguous()
        self.loss_health = LossHealth(cfg.device)
        self._position_B = torch.empty(0)  # layer positions of the batch last trained on

    def _fuse_optimizer(self) -> None:
        """SAELens's Adam in one pass over the memory; its results differ by rounding."""
        for group in self.optimizer.param_groups:
            group["fused"] = self._is_optimizer_fused
        # Where each kind keeps its count of steps, which matters after loading a checkpoint.
        device = self.sae.device if self._is_optimizer_fused else "cpu"
        for state in self.optimizer.state.values():
            state["step"] = state["step"].to(device)

    @override
    def step(self, batch: GroupBatch) -> TrainStepOutput:  # type: ignore[override]
        """One training step on raw rows."""
        rows_BD, self._position_B = self.unpack(batch)
        rows_BD = self.scaling.scale(rows_BD, self._position_B)
        if self.sparse_step is not None:
            output = self._sparse_step(self.sparse_step, rows_BD)
        else:
            output = super().step(rows_BD)
            self.statistics.add(output.feature_acts, self._position_B)
        self.loss_health.add(output.loss, self.n_training_steps)
        return output

    def _sparse_step(self, sparse_step: SparseStep, rows_BD: torch.Tensor) -> TrainStepOutput:
        """A training step that touches nothing that is not active, and waits for no device."""
        self.sae.train()
        self.n_training_samples += len(rows_BD)
        output, active = sparse_step(rows_BD, self.n_forward_passes_since_fired)
        n_fired_F = self.statistics.add_active(active, self._position_B)
        self.act_freq_scores += n_fired_F
        self.n_forward_passes_since_fired += 1
        self.n_forward_passes_since_fired.masked_fill_(n_fired_F > 0, 0)
        self.n_frac_active_samples += len(rows_BD)
        torch.nn.utils.clip_grad_norm_(self.sae.parameters(), 1.0)  # as SAELens clips
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_scheduler.step()
        return output

    def unpack(self, batch: GroupBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch on the SAE's device: rows (B, d_in), at least float32, and positions (B,)."""
        rows_BD, position_B = batch.to(self.sae.device)
        return rows_BD.to(torch.promote_types(rows_BD.dtype, torch.float32)), position_B

    @override
    def maybe_reset_sparsity(self) -> dict[str, Any]:
        log_dict = super().maybe_reset_sparsity()
        if log_dict:
            self.statistics.reset_window()
        return log_dict

    @override
    @torch.no_grad()
    def build_train_step_log_dict(
        self, output: TrainStepOutput, n_training_samples: int
    ) -> dict[str, Any]:
        """SAELens's log entries of the group, and for each layer `<entry>/layer_<n>`."""
        log_dict = super().build_train_step_log_dict(output, n_training_samples)
        n_dead_L = self.statistics.n_dead_L(self.cfg.dead_feature_window)
        for position, layer in enumerate(self.group.layers):
            entries = layer_metrics(output, self._position_B, position)
            entries["sparsity/dead_features"] = n_dead_L[position]
            log_dict.update({f"{name}/layer_{layer}": value for name, value in entries.items()})
        return log_dict

    @override
    def save_trainer_state(self, checkpoint_path: Path) -> None:
        super().save_trainer_state(checkpoint_path)
        save_file(self.statistics.state_dict(), checkpoint_path / files.LAYER_STATISTICS)
        save_layer_scalers(checkpoint_path, self.scaling.of_layer)
        save_step_state(checkpoint_path, self.sae, self.sparse_step)

    @override
    def load_trainer_state(self, checkpoint_path: Path | str) -> None:
        super().load_trainer_state(checkpoint_path)
        self.statistics.load_state_dict(load_file(Path(checkpoint_path) / files.LAYER_STATISTICS))
        scalers = load_layer_scalers(Path(checkpoint_path), self.group.layers)
        self.scaling = GroupScaling(self.group, list(scalers.values()))
        self._fuse_optimizer()  # the checkpoint may come from a run with another fast_step

    def require_finite(self, *, with_weights: bool) -> None:
        """Refuses to go on from a loss, or with weights, that are NaN or infinite.

        Raises:
            DivergedError: names the group, its layers and the step.
        """
        step = self.loss_health.first_bad_step()
        if step is not None:
            what = f"its loss is since training step {step}"
        elif with_weights and not all(w.isfinite().all() for w in self.sae.parameters()):
            what = "its weights are"
        else:
            return
        layers = ", ".join(map(str, self.group.layers))
        raise DivergedError(
            f"group {self.group.name} (layers {layers}) diverged: {what} NaN or infinite; lower "
            "lr, or check the activations of these layers"
        )


class GroupTrainer(MultiSAETrainer):
    """SAELens's multi-SAE trainer with one `GroupSAETrainer` per group."""

    group_trainers: dict[str, GroupSAETrainer]
    """By group name; `trainers` is the same, as SAELens's trainers."""

    def __init__(
        self,
        cfg: SAETrainerConfig,
        saes: Mapping[str, TrainingSAE[Any]],
        groups: tuple[LayerGroup, ...],
        data_provider: Iterator[dict[str, GroupBatch]],
        evaluator: MultiSAEEvaluatorProtocol | None = None,
        save_checkpoint_fn: SaveCheckpointFn | None = None,
        fast_step: str = AUTO,
        compile_sae: bool = False,
    ) -> None:
        names = {group.name: group.name for group in groups}
        # SAELens's trainer passes on what the provider gives, to `GroupSAETrainer.step`.
        provider = cast("MultiHookDataProvider", data_provider)
        super().__init__(cfg, dict(saes), names, provider, evaluator, save_checkpoint_fn)
        per_sae_cfg = next(iter(self.trainers.values())).cfg
        scratch = Scratch()
        self.group_trainers = {
            group.name: GroupSAETrainer(
                per_sae_cfg, self.saes[group.name], group, fast_step, compile_sae, scratch
            )
            for group in groups
        }
        self.trainers = dict(self.group_trainers)
        self.after_step: Callable[[], None] = lambda: None
        """Called after every whole step; what it raises ends training."""
        self._progress = ProgressBar(cfg.total_training_samples, len(groups))
        self.curves = TrainingCurves(cfg.total_training_samples)

    def estimate_scaling(self, mode: str, batches: Iterator[dict[str, GroupBatch]]) -> None:
        """Fits each layer's scaler on the next `n_batches_for_norm_estimate` of these batches.

        Does nothing for a mode that needs no estimate.
        """
        if mode not in ESTIMATED_MODES:
            return
        estimates = {
            name: GroupScalingEstimate(trainer.group, mode, trainer.sae.cfg.d_in)
            for name, trainer in self.group_trainers.items()
        }
        n_batches = range(self.cfg.n_batches_for_norm_estimate)
        for _ in tqdm(n_batches, desc="Estimating each layer's norm", leave=False):
            batch = next(batches)
            for name, trainer in self.group_trainers.items():
                estimates[name].add(*trainer.unpack(batch[name]))
        for name, trainer in self.group_trainers.items():
            trainer.scaling = estimates[name].scaling()

    @override
    def fit(self) -> dict[str, TrainingSAE[Any]]:
        """Trains every group to the end.

        Raises:
            NonFiniteActivationsError: names the layer and the step, which was not done.
            DivergedError: names the group and the step.
        """
        try:
            return super().fit()
        except NonFiniteActivationsError as error:
            raise NonFiniteActivationsError(
                f"before training step {self.n_training_steps}: {error}"
            ) from None

    def require_finite(self, *, with_weights: bool = True) -> None:
        """Refuses to go on where a group's loss or weights are NaN or infinite.

        Raises:
            DivergedError: names the group, its layers and the step.
        """
        for trainer in self.group_trainers.values():
            trainer.require_finite(with_weights=with_weights)

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
        base = Path(self.cfg.checkpoint_path)
        partial = base / files.partial_name(checkpoint_name)
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        try:
            super().save_checkpoint(partial.name, wandb_aliases)
            files.write_text(partial / files.CURVES, points_to_csv(self.curves.points))
            files.write_text(partial / files.CHECKPOINT, self._facts().to_json())
            write_checksums(partial)
            if (base / checkpoint_name).exists():  # of an interrupted run that was resumed
                remove(base / checkpoint_name)
            files.publish_folder(partial, base / checkpoint_name)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)  # a full disk has its space again
            raise

    def _facts(self) -> CheckpointFacts:
        last = self.curves.points[-_N_LAST_POINTS * len(self.trainers) :]
        return CheckpointFacts(
            training_tokens=self.n_training_samples,
            explained_variance=statistics.fmean(point.explained_variance for point in last),
        )

    @override
    def load_checkpoint(self, path: str | Path) -> None:
        super().load_checkpoint(path)
        for name, trainer in self.group_trainers.items():
            load_step_state(Path(path) / name, trainer.sae, trainer.sparse_step)
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
        self._progress.show(pbar, self.n_training_samples, step_outputs)
        self.curves.add(self.n_training_samples, step_outputs)
        # Asking a GPU waits for it, so it is done only now and then.
        if self.cfg.device == "cpu" or self.n_training_steps % _STEPS_BETWEEN_CHECKS == 0:
            self.require_finite(with_weights=False)
        self.after_step()


class ProgressBar:
    """Tokens, rate, time left and the mean loss, on the bar that SAELens's trainer opens."""

    def __init__(self, total_tokens: int, n_saes: int) -> None:
        self.total_tokens = total_tokens
        self.n_saes = n_saes
        self._next_refresh = 0.0
        self._is_set_up = False

    def show(self, pbar: Any, n_tokens: int, step_outputs: Mapping[str, TrainStepOutput]) -> None:
        """Moves the bar to `n_tokens`; reads the losses only when the bar is redrawn."""
        if not self._is_set_up:
            self._set_up(pbar, n_tokens, next(iter(step_outputs.values())))
        pbar.n = min(n_tokens, self.total_tokens)
        now = time.monotonic()
        if now < self._next_refresh and n_tokens < self.total_tokens:
            return
        # Reading a loss waits for the device, so it is done a few times a second at most.
        self._next_refresh = now + 0.5
        losses = [output.loss.item() for output in step_outputs.values()]
        pbar.set_postfix_str(f"loss {sum(losses) / len(losses):.4g}", refresh=False)
        pbar.refresh()

    def _set_up(self, pbar: Any, n_tokens: int, output: TrainStepOutput) -> None:
        pbar.unit, pbar.unit_scale = "tok", True
        pbar.initial = n_tokens - len(output.sae_in)  # a resumed run's rate counts its own tokens
        pbar.set_description_str(
            f"Training {self.n_saes} SAE{'s' if self.n_saes > 1 else ''}", refresh=False
        )
        self._is_set_up = True
