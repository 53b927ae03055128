"""Loss and gradients of a TopK-like SAE from its active latents alone."""

import abc
from typing import Any, ClassVar, Generic, TypeVar

import torch
from sae_lens import TopKTrainingSAE
from sae_lens.saes.sae import TrainStepOutput

from sae_lens_groups.train.fast_step.active_latents import ActiveLatents, ByFeature
from sae_lens_groups.train.fast_step.dead_features import (
    AuxiliaryLoss,
    DeadCandidates,
    auxiliary_loss,
)
from sae_lens_groups.train.fast_step.scratch import Scratch

T_SAE = TypeVar("T_SAE", bound=TopKTrainingSAE)


class SparseStep(abc.ABC, Generic[T_SAE]):
    """What SAELens's `training_forward_pass` and `backward` compute, on the active latents.

    An architecture says which latents are active: exactly those that SAELens chooses.

    The decoder's norms decide which latents are active where `rescale_acts_by_decoder_norm` is set.
    They drop out of everything else: what an activation is divided by, its pre-activation was
    multiplied with, so the gradient with respect to them is zero.
    """

    by_magnitude: ClassVar[bool] = False
    """Whether the largest magnitudes are active, with their signs, and not what ReLU lets through."""

    def __init__(self, sae: T_SAE, dead_feature_window: int, scratch: Scratch) -> None:
        self.sae = sae
        self.dead_candidates = DeadCandidates(dead_feature_window)
        self._scratch = scratch

    @abc.abstractmethod
    def active(self, hidden_BF: torch.Tensor) -> ActiveLatents:
        """The active latents of a batch, from its pre-activations."""

    def finish(self, active: ActiveLatents) -> dict[str, Any]:  # noqa: ARG002  # of most, nothing
        """What else a step changes in the SAE; returns what SAELens logs beside the losses."""
        return {}

    @torch.no_grad()
    def __call__(
        self, sae_in_BD: torch.Tensor, n_steps_since_fired_F: torch.Tensor
    ) -> tuple[TrainStepOutput, ActiveLatents]:
        """Sets the gradient of every parameter, and returns the losses and what is active.

        The gradients and the output's `hidden_pre` lie in memory that the next step overwrites.
        """
        sae = self.sae
        norm_F = sae.W_dec.norm(dim=-1) if sae.cfg.rescale_acts_by_decoder_norm else None
        rows_BD = sae_in_BD - sae.b_dec if sae.cfg.apply_b_dec_to_input else sae_in_BD
        hidden_BF = self._hidden(rows_BD, norm_F)
        active = self.active(hidden_BF)
        value_N = active.value_N if norm_F is None else active.value_N / norm_F[active.feature_N]
        decoded = active.decode(value_N, sae.W_dec)
        sae_out_BD = decoded.sum_BD + sae.b_dec
        error_BD = sae_out_BD - sae_in_BD
        losses = {"mse_loss": error_BD.pow(2).sum(dim=-1).mean()}
        auxiliary = self._auxiliary(hidden_BF, norm_F, -error_BD, n_steps_since_fired_F)
        losses["auxiliary_reconstruction_loss"] = (
            error_BD.new_zeros(()) if auxiliary is None else auxiliary.loss
        )
        grad_out_BD = error_BD * (2 / len(rows_BD))
        grad_pre_N = decoded.weight_gradient(grad_out_BD)
        if not self.by_magnitude:  # behind a ReLU
            grad_pre_N = grad_pre_N * (active.value_N > 0)
        self._set_gradients(active, value_N, grad_pre_N, rows_BD, grad_out_BD, auxiliary)
        return TrainStepOutput(
            sae_in=sae_in_BD,
            sae_out=sae_out_BD,
            feature_acts=active.to_sparse(),
            hidden_pre=hidden_BF,
            loss=torch.stack(list(losses.values())).sum(),
            losses=losses,
            metrics=self.finish(active),
        ), active

    def _hidden(self, rows_BD: torch.Tensor, norm_F: torch.Tensor | None) -> torch.Tensor:
        """SAELens's `hidden_pre`, (B, F)."""
        sae = self.sae
        hidden_BF = self._scratch.empty("hidden", (len(rows_BD), sae.cfg.d_sae), rows_BD)
        torch.mm(rows_BD, sae.W_enc, out=hidden_BF)
        if norm_F is None:
            return hidden_BF.add_(sae.b_enc)
        return torch.addcmul(sae.b_enc * norm_F, hidden_BF, norm_F, out=hidden_BF)

    def _auxiliary(
        self,
        hidden_BF: torch.Tensor,
        norm_F: torch.Tensor | None,
        residual_BD: torch.Tensor,
        n_steps_since_fired_F: torch.Tensor,
    ) -> AuxiliaryLoss | None:
        index_C = self.dead_candidates.next(n_steps_since_fired_F)
        if index_C is None:
            return None
        return auxiliary_loss(
            hidden_BF,
            norm_F,
            self.sae.W_dec,
            residual_BD,
            index_C,
            n_steps_since_fired_F[index_C] > self.dead_candidates.window,
            self.sae.cfg.aux_loss_coefficient,
            self.by_magnitude,
        )

    def _set_gradients(
        self,
        active: ActiveLatents,
        value_N: torch.Tensor,
        grad_pre_N: torch.Tensor,
        rows_BD: torch.Tensor,
        grad_out_BD: torch.Tensor,
        auxiliary: AuxiliaryLoss | None,
    ) -> None:
        sae = self.sae
        grad_b_enc_F = torch.zeros_like(sae.b_enc)
        grad_b_enc_F.index_add_(0, active.feature_N, grad_pre_N)
        by_feature = ByFeature(active)
        grad_W_dec_FD = self._scratch.empty("W_dec", tuple(sae.W_dec.shape), sae.W_dec)
        by_feature.write_sums(value_N, grad_out_BD, grad_W_dec_FD)
        grad_W_enc_DF = self._scratch.empty("W_enc", tuple(sae.W_enc.shape), sae.W_enc)
        by_feature.write_sums(grad_pre_N, rows_BD, grad_W_enc_DF.T)
        if auxiliary is not None:
            index_C = auxiliary.index_C
            grad_W_dec_FD.index_add_(0, index_C, auxiliary.grad_W_dec_CD)
            grad_W_enc_DF.index_add_(1, index_C, rows_BD.T @ auxiliary.grad_pre_BC)
            grad_b_enc_F.index_add_(0, index_C, auxiliary.grad_pre_BC.sum(0))
        grad_b_dec_D = grad_out_BD.sum(0)
        if sae.cfg.apply_b_dec_to_input:
            # The gradient of every row of the input, summed over the rows before the product.
            grad_b_dec_D -= sae.W_enc @ grad_b_enc_F
        sae.W_enc.grad, sae.W_dec.grad = grad_W_enc_DF, grad_W_dec_FD
        sae.b_enc.grad, sae.b_dec.grad = grad_b_enc_F, grad_b_dec_D
