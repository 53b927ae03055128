"""Trains one group's SAE."""

from pathlib import Path
from typing import Any

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainingSAE, TrainStepOutput
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file, save_file
from typing_extensions import override

from sae_lens_groups import files
from sae_lens_groups.activations import GroupBatch
from sae_lens_groups.errors import DivergedError
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.scaling import GroupScaling, load_layer_scaler, save_layer_scalers
from sae_lens_groups.train.checkpoints.step_state import save_step_state
from sae_lens_groups.train.fast_step import AUTO, NEVER, Scratch, SparseStep, make_step
from sae_lens_groups.train.statistics import LayerStatistics, layer_metrics

# BatchTopK's threshold averages about the last sixteenth of the steps so far, and no fewer than
# SAELens's rate does. For the demo's k of 16 that gave an L0 of 15.3 to 16.3 after 32, 100 and 400
# steps; a quarter gave 15.1 to 18.4, SAELens's average from 0 up to 214.
_SHARE_AVERAGED = 16


class GroupSAETrainer(SAETrainer[TrainingSAE[Any], Any]):
    """Trains one group's SAE: scales each row by its layer, and keeps statistics per layer.

    Args:
        cfg: SAELens's config of one SAE's trainer.
        sae: the group's SAE.
        group: whose rows the batches hold.
        fast_step: `auto`, `always` or `never`. Never trains with SAELens's own step and optimiser,
            bit for bit.
        scratch: memory that the trainers of all groups share.
    """

    setting: str = ""
    """Which of a sweep it is of."""

    def __init__(
        self,
        cfg: SAETrainerConfig,
        sae: TrainingSAE[Any],
        group: LayerGroup,
        fast_step: str = AUTO,
        scratch: Scratch | None = None,
    ) -> None:
        super().__init__(cfg, sae, data_provider=iter(()))
        self.group = group
        self.scaling = GroupScaling.identity(group)
        self.statistics = LayerStatistics(len(group), sae.cfg.d_sae, cfg.device)
        self.sparse_step = make_step(sae, fast_step, cfg, scratch or Scratch())
        self._is_optimizer_fused = fast_step != NEVER
        self._is_threshold_warmed = (
            fast_step != NEVER and getattr(sae.cfg, "topk_threshold_lr", 0) > 0
        )
        self._fuse_optimizer()
        if self._is_optimizer_fused:
            # A fused optimiser walks through weights and gradients as they lie in memory.
            for parameter in sae.parameters():
                parameter.data = parameter.data.contiguous()
        self._first_bad_step = torch.tensor(-1, device=cfg.device)  # whose loss was not finite
        self._position_B = torch.empty(0)  # layer positions of the batch last trained on

    def _fuse_optimizer(self) -> None:
        """SAELens's Adam in one pass over the memory; its results differ by rounding."""
        for group in self.optimizer.param_groups:
            group["fused"] = self._is_optimizer_fused
        self.place_counts_of_optimizer()

    def place_counts_of_optimizer(self) -> None:
        """Puts counts of steps where the optimiser's kind keeps them, which loading does not."""
        device = self.sae.device if self._is_optimizer_fused else "cpu"
        for state in self.optimizer.state.values():
            state["step"] = state["step"].to(device)

    @override
    def step(self, batch: GroupBatch) -> TrainStepOutput:  # type: ignore[override]
        """One training step on raw rows."""
        rows_BD, self._position_B = self.unpack(batch)
        rows_BD = self.scaling.scale(rows_BD, self._position_B)
        threshold: Any = self.sae.topk_threshold if self._is_threshold_warmed else None
        if self.sparse_step is not None and self.sparse_step.is_due(rows_BD):
            output = self._sparse_step(self.sparse_step, rows_BD)
        else:
            output = super().step(rows_BD)
            self.statistics.add(output.feature_acts, self._position_B)
            if self.sparse_step is not None:
                self.sparse_step.saw(output)
        if threshold is not None:
            output.metrics["topk_threshold"] = self._warm_threshold(threshold)
        # On the device, which nothing waits for here.
        is_first_bad = ~output.loss.detach().isfinite() & (self._first_bad_step < 0)
        self._first_bad_step.masked_fill_(is_first_bad, self.n_training_steps)
        return output

    def _warm_threshold(self, before: torch.Tensor) -> torch.Tensor:
        """Moves BatchTopK's threshold as far as an average does that began with its first value.

        SAELens's moving average begins with 0, so after few steps the SAE that it exports, a
        JumpReLU with that threshold, has many times the L0 that was trained.
        """
        sae: Any = self.sae
        rate, n_steps = sae.cfg.topk_threshold_lr, self.n_training_steps
        faster = max(1.0, _SHARE_AVERAGED / (n_steps + _SHARE_AVERAGED) / rate)
        sae.topk_threshold = before + faster * (sae.topk_threshold - before)
        return sae.topk_threshold

    def _sparse_step(self, sparse_step: SparseStep[Any], rows_BD: torch.Tensor) -> TrainStepOutput:
        """A training step that touches nothing that is not active, and waits for no device."""
        self.sae.train()
        self.n_training_samples += len(rows_BD)
        coefficients = self.get_coefficients()
        output, active = sparse_step(rows_BD, self.n_forward_passes_since_fired, coefficients)
        n_fired_F = self.statistics.add_active(active, self._position_B)
        self.act_freq_scores += n_fired_F
        self.n_forward_passes_since_fired += 1
        self.n_forward_passes_since_fired.masked_fill_(n_fired_F > 0, 0)
        self.n_frac_active_samples += len(rows_BD)
        sparse_step.clip_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_scheduler.step()
        for scheduler in self.coefficient_schedulers.values():
            scheduler.step()
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
        folders = map(files.layer_scaler_folder, self.group.layers)
        checked, d_in = files.CheckedFolder(Path(checkpoint_path)), self.sae.cfg.d_in
        scalers = [load_layer_scaler(checked, folder, d_in) for folder in folders]
        self.scaling = GroupScaling(self.group, scalers)
        for group in self.optimizer.param_groups:
            group["betas"] = (self.cfg.adam_beta1, self.cfg.adam_beta2)
        self._fuse_optimizer()  # the checkpoint may come from a run with another fast_step

    def require_finite(self, *, with_weights: bool) -> None:
        """Refuses to go on from a loss, or with weights, that are NaN or infinite."""
        step = int(self._first_bad_step)
        if step >= 0:
            what = f"its loss is since training step {step}"
        elif with_weights and not all(w.isfinite().all() for w in self.sae.parameters()):
            what = "its weights are"
        else:
            return
        layers = ", ".join(map(str, self.group.layers))
        to_do = "lower lr, or check the activations of these layers"
        if self.sae.dtype == torch.float16:  # in which Adam's squares of gradients become 0
            to_do = "set sae.dtype to float32 or bfloat16, as the range of float16 is too small"
        raise DivergedError(
            f"group {self.group.name} (layers {layers}) diverged: {what} NaN or infinite; {to_do}"
        )
