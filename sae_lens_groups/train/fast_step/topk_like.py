"""Loss and gradients of a TopK-like SAE from its active latents alone."""

import abc
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import torch
from sae_lens import TopKTrainingSAE
from sae_lens.saes.sae import TrainingSAEConfig, TrainStepOutput
from typing_extensions import override

from sae_lens_groups.train.fast_step.active_latents import ActiveLatents
from sae_lens_groups.train.fast_step.dead_features import DeadGradients
from sae_lens_groups.train.fast_step.largest import largest_per_row
from sae_lens_groups.train.fast_step.pre_activations import PreActivations
from sae_lens_groups.train.fast_step.sparse_step import FEATURES_PER_ACTIVE, SparseStep

T_TOPK = TypeVar("T_TOPK", bound=TopKTrainingSAE)


class TopKLikeStep(SparseStep[T_TOPK]):
    """The step of SAEs that keep the largest pre-activations, and revive dead features by a loss.

    An architecture says which latents are active: exactly those that SAELens chooses.

    The decoder's norms decide which latents are active where `rescale_acts_by_decoder_norm` is set.
    They drop out of everything else: what an activation is divided by, its pre-activation was
    multiplied with, so the gradient with respect to them is zero.
    """

    by_magnitude: bool = False
    """Whether the largest magnitudes are active, with their signs, and not what ReLU lets through."""

    @classmethod
    @override
    def why_slower(cls, cfg: TrainingSAEConfig) -> str | None:
        k: float = getattr(cfg, "k")  # noqa: B009  # of these configs alone
        if (reason := super().why_slower(cfg)) is not None:
            return reason
        if cfg.d_sae < FEATURES_PER_ACTIVE * k:
            return f"d_sae is {cfg.d_sae:,}, less than {FEATURES_PER_ACTIVE} times k, {k:g}"
        return None

    @abc.abstractmethod
    def active(self, hidden: PreActivations) -> ActiveLatents:
        """The active latents of a batch, from its pre-activations."""

    @property
    def widths(self) -> Sequence[int]:
        """How many of the first features make each reconstruction that has a loss; last, all."""
        return (self.sae.cfg.d_sae,)

    def finish(self, active: ActiveLatents) -> dict[str, Any]:  # noqa: ARG002  # of most, nothing
        """What else a step changes in the SAE; returns what SAELens logs beside the losses."""
        return {}

    @override
    @torch.no_grad()
    def __call__(
        self,
        sae_in_BD: torch.Tensor,
        n_steps_since_fired_F: torch.Tensor,
        coefficients: Mapping[str, float],
    ) -> tuple[TrainStepOutput, ActiveLatents]:
        sae = self.sae
        norm_F = sae.W_dec.norm(dim=-1) if sae.cfg.rescale_acts_by_decoder_norm else None
        rows_BD = self._encoder_input(sae_in_BD)
        hidden = self._hidden(rows_BD, norm_F)
        active = self.active(hidden)
        value_N = active.value_N
        if norm_F is not None:
            value_N = value_N / norm_F.index_select(0, active.feature_N)
        written = active.in_parts(self.widths)
        decoded = written.decode(value_N, sae.W_dec)
        outputs = _reconstructions(self._summed(decoded.sum_BD), sae.b_dec, len(self.widths))
        errors = [output_BD - sae_in_BD for output_BD in outputs]
        losses = {"mse_loss": _squared(errors[-1])}
        dead = self._auxiliary(hidden, norm_F, errors, n_steps_since_fired_F)
        losses["auxiliary_reconstruction_loss"] = sum(
            (one.loss for one in dead), start=errors[-1].new_zeros(())
        )
        for width, error_BD in zip(self.widths, errors[:-1]):
            losses[f"inner_mse_loss_{width}"] = _squared(error_BD)
        grad_BPD = self._gradients_of_sums(errors)
        grad_sum_BD = grad_BPD.flatten(0, 1)
        grad_pre_N = decoded.weight_gradient(grad_sum_BD)
        if not self.by_magnitude:  # behind a ReLU
            grad_pre_N = grad_pre_N * (active.value_N > 0)
        self._set_gradients(active, value_N, grad_pre_N, rows_BD, written, grad_sum_BD, dead)
        self._set_b_dec_gradient(grad_BPD[:, 0])
        output = self._output(sae_in_BD, outputs[-1], active, losses)
        output.metrics.update(self.finish(active))
        return output, active

    def _gradients_of_sums(self, errors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Of each part's sums, (B, parts, D): it is in its own reconstruction and all larger ones."""
        n_rows, d_in = errors[0].shape
        grad_BPD = self._scratch.empty("sums", (n_rows, len(errors), d_in), errors[0])
        torch.mul(errors[-1], 2 / n_rows, out=grad_BPD[:, -1])
        for part in reversed(range(len(errors) - 1)):
            later_BD = grad_BPD[:, part + 1]
            torch.add(later_BD, errors[part], alpha=2 / n_rows, out=grad_BPD[:, part])
        return grad_BPD

    def _auxiliary(
        self,
        hidden: PreActivations,
        norm_F: torch.Tensor | None,
        errors: Sequence[torch.Tensor],
        n_steps_since_fired_F: torch.Tensor,
    ) -> list[DeadGradients]:
        """What the dead features would add to the last reconstructions, one for each part of them."""
        parts = self.dead_candidates.next(n_steps_since_fired_F)
        return [
            self._auxiliary_of(
                hidden.columns(index_C),
                norm_F,
                -error_BD,
                index_C,
                n_steps_since_fired_F[index_C] > self.dead_candidates.window,
            )
            for index_C, error_BD in zip(parts, errors[-len(parts) :])
            if self._has_candidates(index_C)
        ]

    def _auxiliary_of(
        self,
        hidden_BC: torch.Tensor,
        norm_F: torch.Tensor | None,
        residual_BD: torch.Tensor,
        index_C: torch.Tensor,
        is_dead_C: torch.Tensor,
    ) -> DeadGradients:
        """How well dead features reconstruct what the living ones left (arXiv 2406.04093, A.2).

        Args:
            hidden_BC: their pre-activations, times `norm_F` where there is one.
            norm_F: norms of the decoder's rows, where SAELens rescales by them.
            residual_BD: what the reconstruction lacks.
            index_C: features that may be dead.
            is_dead_C: which of them are.
        """
        n_rows, d_in = residual_BD.shape
        k_aux = d_in // 2
        acts_BC = self._largest_dead(hidden_BC, is_dead_C, k_aux)
        is_taken_BC = acts_BC != 0
        if norm_F is not None:
            acts_BC = acts_BC / norm_F[index_C]
        W_dec_CD = self.sae.W_dec[index_C]
        error_BD = self._summed(acts_BC @ W_dec_CD) - residual_BD
        n_dead = self._summed(is_dead_C.sum())
        factor = self.sae.cfg.aux_loss_coefficient * (n_dead / k_aux).clamp(max=1)
        grad_BD = error_BD * (2 * factor / n_rows)
        return DeadGradients(
            loss=factor * _squared(error_BD),
            index_C=index_C,
            grad_pre_BC=(grad_BD @ W_dec_CD.T) * is_taken_BC,
            grad_W_dec_CD=acts_BC.T @ grad_BD,
        )

    def _has_candidates(self, index_C: torch.Tensor) -> bool:
        """Whether any feature of a part may be dead, wherever it is."""
        return len(index_C) > 0

    def _largest_dead(
        self, hidden_BC: torch.Tensor, is_dead_C: torch.Tensor, k: int
    ) -> torch.Tensor:
        """The k largest of the dead features in each row, (B, C), zero elsewhere."""
        if hidden_BC.shape[1] <= k:
            return torch.where(is_dead_C, hidden_BC, 0.0)
        lowest = 0.0 if self.by_magnitude else -torch.inf
        value_BK, index_BK = largest_per_row(
            torch.where(is_dead_C, hidden_BC, lowest), k, by_magnitude=self.by_magnitude
        )
        value_BK = torch.where(is_dead_C[index_BK], value_BK, 0.0)
        return torch.zeros_like(hidden_BC).scatter_(1, index_BK, value_BK)


def _reconstructions(
    sum_BD: torch.Tensor, b_dec_D: torch.Tensor, n_parts: int
) -> list[torch.Tensor]:
    """The output from the first part of the features, from the first two, and so on, each (B, D)."""
    first_BD, *others = sum_BD.unflatten(0, (-1, n_parts)).unbind(1)
    return list(accumulate(others, torch.add, initial=first_BD + b_dec_D))


def _squared(error_BD: torch.Tensor) -> torch.Tensor:
    return error_BD.pow(2).sum(dim=-1).mean()
