"""The step of `standard`: what a ReLU lets through, with a penalty on its sum."""

from collections.abc import Mapping

import torch
from sae_lens import StandardTrainingSAE
from sae_lens.saes.sae import TrainingSAEConfig, TrainStepOutput
from typing_extensions import override

from sae_lens_groups.train.fast_step.above_threshold import AboveThresholdStep
from sae_lens_groups.train.fast_step.active_latents import ActiveLatents


class StandardStep(AboveThresholdStep[StandardTrainingSAE]):
    """The sparse step of SAELens's `StandardTrainingSAE`."""

    @classmethod
    @override
    def why_not(cls, cfg: TrainingSAEConfig) -> str | None:
        lp_norm: float = getattr(cfg, "lp_norm")  # noqa: B009  # of this config alone
        return f"lp_norm is {lp_norm:g}, not 1" if lp_norm != 1 else super().why_not(cfg)

    @override
    def _lowest(self) -> torch.Tensor:
        return self.sae.b_enc.new_zeros(())

    @override
    @torch.no_grad()
    def __call__(
        self,
        sae_in_BD: torch.Tensor,
        n_steps_since_fired_F: torch.Tensor,
        coefficients: Mapping[str, float],
    ) -> tuple[TrainStepOutput, ActiveLatents]:
        sae = self.sae
        norm_F = sae.W_dec.norm(dim=1)
        rows_BD = self._encoder_input(sae_in_BD)
        hidden = self._hidden(rows_BD, None)
        active = self._latents(hidden)
        decoded = active.decode(active.value_N, sae.W_dec)
        sae_out_BD = decoded.sum_BD + sae.b_dec
        error_BD = sae_out_BD - sae_in_BD
        grad_out_BD = error_BD * (2 / len(rows_BD))
        norm_N = norm_F.index_select(0, active.feature_N) * (coefficients["l1"] / len(rows_BD))
        grad_norm_F = torch.zeros_like(norm_F).index_add_(0, active.feature_N, active.value_N)
        grad_norm_F *= coefficients["l1"] / len(rows_BD)
        losses = {
            "mse_loss": error_BD.pow(2).sum(dim=-1).mean(),
            "l1_loss": (active.value_N * norm_N).sum(),
        }
        grad_pre_N = decoded.weight_gradient(grad_out_BD) + norm_N
        self._set_gradients(active, active.value_N, grad_pre_N, rows_BD, active, grad_out_BD, ())
        self._set_b_dec_gradient(grad_out_BD)
        self._add_gradient_of_norms(grad_norm_F, norm_F)
        return self._output(sae_in_BD, sae_out_BD, active, losses), active
