"""The step of `jumprelu`: what lies above its threshold, or so near that it moves the threshold."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from sae_lens import JumpReLUTrainingSAE
from sae_lens.saes.sae import TrainingSAEConfig, TrainStepOutput
from typing_extensions import override

from sae_lens_groups.train.fast_step.above_threshold import AboveThresholdStep
from sae_lens_groups.train.fast_step.active_latents import ActiveLatents
from sae_lens_groups.train.fast_step.dead_features import DeadGradients
from sae_lens_groups.train.fast_step.pre_activations import PreActivations


class JumpReLUStep(AboveThresholdStep[JumpReLUTrainingSAE]):
    """The sparse step of SAELens's `JumpReLUTrainingSAE`.

    A latent takes part if it is active, or not but within the bandwidth of its threshold, which has
    a gradient from there.
    """

    @classmethod
    @override
    def why_not(cls, cfg: TrainingSAEConfig) -> str | None:
        if "log_threshold" in JumpReLUTrainingSAE.__annotations__:
            return "this SAELens trains the logarithm of JumpReLU's threshold; install a newer one"
        return super().why_not(cfg)

    @override
    def _lowest(self) -> torch.Tensor:
        # A little lower than where the bandwidth ends, which `__call__` says to the last bit.
        return self.sae.threshold - 0.50001 * self.sae.bandwidth - 1e-6 * self.sae.threshold

    @override
    @torch.no_grad()
    def __call__(
        self,
        sae_in_BD: torch.Tensor,
        n_steps_since_fired_F: torch.Tensor,
        coefficients: Mapping[str, float],
    ) -> tuple[TrainStepOutput, ActiveLatents]:
        sae = self.sae
        sae.threshold.clamp_(min=0.0)  # as SAELens does, outside of the gradient
        norm_F = sae.W_dec.norm(dim=1)
        rows_BD = self._encoder_input(sae_in_BD)
        hidden = self._hidden(rows_BD, None)
        latents = self._latents(hidden)
        pre_N, threshold_N = latents.value_N, sae.threshold.index_select(0, latents.feature_N)
        is_active_N = pre_N > threshold_N
        active = replace(latents, value_N=pre_N * is_active_N)
        decoded = active.decode(active.value_N, sae.W_dec)
        sae_out_BD = decoded.sum_BD + sae.b_dec
        error_BD = sae_out_BD - sae_in_BD
        grad_out_BD = error_BD * (2 / len(rows_BD))
        sparsity = self._sparsity(active, is_active_N, norm_F, coefficients["l0"])
        dead = self._pre_act_loss(hidden, norm_F, n_steps_since_fired_F)
        losses = {"mse_loss": error_BD.pow(2).sum(dim=-1).mean(), "l0_loss": sparsity.loss}
        if sae.cfg.pre_act_loss_coefficient is not None:
            losses["pre_act_loss"] = sum((one.loss for one in dead), error_BD.new_zeros(()))
        # The straight-through estimator: what a latent near its threshold would do on crossing it.
        is_near_N = ((pre_N - threshold_N) / sae.bandwidth).abs() < 0.5
        grad_value_N = decoded.weight_gradient(grad_out_BD) + sparsity.grad_value_N
        crossing_N = threshold_N * grad_value_N + sparsity.grad_step_N
        crossing_N = crossing_N * is_near_N / sae.bandwidth
        grad_pre_N = grad_value_N * is_active_N
        if getattr(sae.cfg, "jumprelu_ste_to_input", False):  # not yet in every SAELens
            grad_pre_N = grad_pre_N + crossing_N
        self._set_gradients(active, active.value_N, grad_pre_N, rows_BD, active, grad_out_BD, dead)
        self._set_b_dec_gradient(grad_out_BD)
        self._set_threshold_gradient(active, crossing_N, dead)
        if sae.cfg.jumprelu_sparsity_loss_mode == "tanh":
            self._add_gradient_of_norms(sparsity.grad_norm_F, norm_F)
        return self._output(sae_in_BD, sae_out_BD, active, losses), active

    def _sparsity(
        self,
        active: ActiveLatents,
        is_active_N: torch.Tensor,
        norm_F: torch.Tensor,
        coefficient: float,
    ) -> "_Sparsity":
        cfg, n_rows = self.sae.cfg, active.n_rows
        zero_N, zero_F = torch.zeros_like(active.value_N), torch.zeros_like(norm_F)
        if cfg.jumprelu_sparsity_loss_mode == "tanh":
            scale_N = cfg.jumprelu_tanh_scale * norm_F.index_select(0, active.feature_N)
            tanh_N = torch.tanh(scale_N * active.value_N)
            slope_N = (1 - tanh_N.pow(2)) * (coefficient / n_rows)
            in_norm_N = slope_N * cfg.jumprelu_tanh_scale * active.value_N
            return _Sparsity(
                loss=tanh_N.sum() * (coefficient / n_rows),
                grad_value_N=slope_N * scale_N,
                grad_step_N=zero_N,
                grad_norm_F=zero_F.index_add_(0, active.feature_N, in_norm_N),
            )
        l0_B = norm_F.new_zeros(n_rows).index_add_(0, active.row_N, is_active_N.to(norm_F.dtype))
        loss_B, slope_B = l0_B, torch.ones_like(l0_B)
        if cfg.jumprelu_sparsity_loss_mode == "quadratic":
            assert cfg.target_l0 is not None
            loss_B = 2 / cfg.target_l0 * (l0_B - cfg.target_l0) ** 2
            slope_B = 4 / cfg.target_l0 * (l0_B - cfg.target_l0)
        return _Sparsity(
            loss=coefficient * loss_B.mean(),
            grad_value_N=zero_N,
            grad_step_N=(slope_B * (coefficient / n_rows)).index_select(0, active.row_N),
            grad_norm_F=zero_F,
        )

    def _pre_act_loss(
        self, hidden: PreActivations, norm_F: torch.Tensor, n_steps_since_fired_F: torch.Tensor
    ) -> list[DeadGradients]:
        """What pulls dead features up to their thresholds, where there are any."""
        coefficient = self.sae.cfg.pre_act_loss_coefficient
        if coefficient is None:
            return []
        (index_C,) = self.dead_candidates.next(n_steps_since_fired_F)
        is_dead_C = n_steps_since_fired_F[index_C] > self.dead_candidates.window
        weight_C = is_dead_C * norm_F[index_C] * (coefficient / hidden.shape[0])
        below_BC = (self.sae.threshold[index_C] - hidden.columns(index_C)).relu()
        grad_norm_C = below_BC.sum(0) * is_dead_C * (coefficient / hidden.shape[0])
        W_dec_CD = self.sae.W_dec[index_C]
        return [
            DeadGradients(
                loss=(below_BC.sum(0) * weight_C).sum(),
                index_C=index_C,
                grad_pre_BC=(below_BC > 0) * -weight_C,
                grad_W_dec_CD=W_dec_CD * (grad_norm_C / norm_F[index_C])[:, None],
            )
        ]

    def _set_threshold_gradient(
        self, active: ActiveLatents, crossing_N: torch.Tensor, dead: list[DeadGradients]
    ) -> None:
        threshold_F = self.sae.threshold
        threshold_F.grad = torch.zeros_like(threshold_F)
        threshold_F.grad.index_add_(0, active.feature_N, -crossing_N)
        for one in dead:
            threshold_F.grad.index_add_(0, one.index_C, -one.grad_pre_BC.sum(0))


@dataclass(frozen=True)
class _Sparsity:
    """The sparsity loss, and its gradients."""

    loss: torch.Tensor
    grad_value_N: torch.Tensor
    """With respect to the activations."""
    grad_step_N: torch.Tensor
    """With respect to whether a latent is active, as a number from 0 to 1."""
    grad_norm_F: torch.Tensor
    """With respect to the norms of the decoder's rows."""
