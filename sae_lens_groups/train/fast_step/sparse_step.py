"""What a fast training step is: the same loss and gradients as SAELens's, with less work."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from sae_lens.saes.sae import TrainingSAE, TrainingSAEConfig, TrainStepOutput

from sae_lens_groups.train.fast_step.active_latents import ActiveLatents, ByFeature
from sae_lens_groups.train.fast_step.dead_features import DeadCandidates, DeadGradients
from sae_lens_groups.train.fast_step.pre_activations import PreActivations
from sae_lens_groups.train.fast_step.scratch import Scratch

# Where these steps are faster. Measured on a processor by `python -m tests.benchmarks.sparse_step`.
FEWEST_FEATURES = 256
FEATURES_PER_ACTIVE = 16

T_SAE = TypeVar("T_SAE", bound=TrainingSAE[Any])


class SparseStep(abc.ABC, Generic[T_SAE]):
    """What SAELens's `training_forward_pass` and `backward` compute, on the active latents.

    One per SAE, made from the class that `register_fast_steps` gives for its architecture.

    Args:
        sae: what is trained.
        dead_feature_window: SAELens's setting: steps without firing, after which a feature is dead.
        scratch: memory that the steps of all groups share.
        autocast: whether the encoder's product is taken in bfloat16, as SAELens's `autocast` does.
            All sums and gradients stay in float32.
    """

    name: ClassVar[str] = "fast"
    """What a run says of it."""

    def __init__(
        self, sae: T_SAE, dead_feature_window: int, scratch: Scratch, autocast: bool = False
    ) -> None:
        self.sae = sae
        self.dead_candidates = DeadCandidates(dead_feature_window)
        self._scratch = scratch
        self._autocast = autocast

    @classmethod
    def why_not(cls, cfg: TrainingSAEConfig) -> str | None:
        """Which of the SAE's settings rules this step out; None where none does."""
        if cfg.normalize_activations in ("constant_norm_rescale", "layer_norm"):
            return f"normalize_activations is {cfg.normalize_activations}"
        return None

    @classmethod
    def why_slower(cls, cfg: TrainingSAEConfig) -> str | None:
        """Why SAELens's step is the faster one; None where this one is.

        A rule and not a stopwatch, so that the same config gives the same weights.
        """
        if cfg.d_sae < FEWEST_FEATURES:
            return f"d_sae is {cfg.d_sae}, less than {FEWEST_FEATURES}"
        return None

    @abc.abstractmethod
    def __call__(
        self,
        sae_in_BD: torch.Tensor,
        n_steps_since_fired_F: torch.Tensor,
        coefficients: Mapping[str, float],
    ) -> tuple[TrainStepOutput, ActiveLatents]:
        """Sets the gradient of every parameter, and returns the losses and what is active.

        The gradients lie in memory that the next step overwrites.
        """

    def is_due(self, sae_in_BD: torch.Tensor) -> bool:  # noqa: ARG002  # of most, always
        """Whether the training step on these rows, the next, is this one and not SAELens's."""
        return True

    def saw(self, output: TrainStepOutput) -> None:
        """Takes note of a step that was SAELens's."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What the next step depends on, to the last bit."""
        return self.dead_candidates.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes over what `state_dict` gave; of a run with another step, it is empty."""
        self.dead_candidates.load_state_dict(state)

    def clip_gradients(self) -> None:
        """Clips them by the norm of all, as SAELens does."""
        self._clip_gradients_of(self.sae)

    def _clip_gradients_of(self, sae: TrainingSAE[Any]) -> None:
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)

    def _summed(self, of_features: torch.Tensor) -> torch.Tensor:
        """A sum over features as one over all of the SAE's, of which the step may have a part."""
        return of_features

    def _encoder_input(self, sae_in_BD: torch.Tensor) -> torch.Tensor:
        return sae_in_BD - self.sae.b_dec if self.sae.cfg.apply_b_dec_to_input else sae_in_BD

    def _hidden(self, rows_BD: torch.Tensor, norm_F: torch.Tensor | None) -> PreActivations:
        b_enc_F: Any = self.sae.b_enc
        W_enc_DF = self.sae.W_enc
        if self._autocast:
            rows_BD, W_enc_DF = rows_BD.bfloat16(), W_enc_DF.bfloat16()
        product_BF = self._scratch.empty("product", (len(rows_BD), W_enc_DF.shape[1]), W_enc_DF)
        torch.mm(rows_BD, W_enc_DF, out=product_BF)
        bias_F = b_enc_F.detach() if norm_F is None else b_enc_F * norm_F
        return PreActivations(product_BF, bias_F, norm_F, self._scratch)

    def _set_gradients(
        self,
        active: ActiveLatents,
        weight_N: torch.Tensor,
        grad_pre_N: torch.Tensor,
        rows_BD: torch.Tensor,
        written: ActiveLatents,
        grad_sum_BD: torch.Tensor,
        dead: Sequence[DeadGradients],
    ) -> None:
        """Sets the gradients of encoder and decoder, but for what `b_dec` gets as the output's bias.

        Args:
            active: the active latents by row.
            weight_N: what each latent's row of the decoder is multiplied with.
            grad_pre_N: gradients of the latents' pre-activations.
            rows_BD: what the encoder reads.
            written: the same latents by the sum that each is part of.
            grad_sum_BD: gradients of these sums.
            dead: what the dead features add.
        """
        sae: Any = self.sae
        grad_b_enc_F = torch.zeros_like(sae.b_enc)
        grad_b_enc_F.index_add_(0, active.feature_N, grad_pre_N)
        by_feature = ByFeature(active)
        grad_W_dec_FD = self._scratch.empty("W_dec", tuple(sae.W_dec.shape), sae.W_dec)
        by_feature.write_sums(weight_N, written.row_N, grad_sum_BD, grad_W_dec_FD)
        grad_W_enc_DF = self._scratch.empty("W_enc", tuple(sae.W_enc.shape), sae.W_enc)
        by_feature.write_sums(grad_pre_N, active.row_N, rows_BD, grad_W_enc_DF.T)
        for one in dead:
            grad_W_dec_FD.index_add_(0, one.index_C, one.grad_W_dec_CD)
            grad_W_enc_DF.index_add_(1, one.index_C, rows_BD.T @ one.grad_pre_BC)
            grad_b_enc_F.index_add_(0, one.index_C, one.grad_pre_BC.sum(0))
        sae.W_enc.grad, sae.W_dec.grad, sae.b_enc.grad = grad_W_enc_DF, grad_W_dec_FD, grad_b_enc_F

    def _output(
        self,
        sae_in_BD: torch.Tensor,
        sae_out_BD: torch.Tensor,
        active: ActiveLatents,
        losses: dict[str, torch.Tensor],
    ) -> TrainStepOutput:
        """What SAELens's trainer takes from a step; it does not ask for `hidden_pre` of the others."""
        feature_acts_BF = active.to_sparse()
        return TrainStepOutput(
            sae_in=sae_in_BD,
            sae_out=sae_out_BD,
            feature_acts=feature_acts_BF,
            hidden_pre=feature_acts_BF,
            loss=torch.stack(list(losses.values())).sum(),
            losses=losses,
        )

    def _set_b_dec_gradient(self, grad_out_BD: torch.Tensor) -> None:
        """Sets that of `b_dec`, once `b_enc` has its own, from those of what it is added to."""
        sae: Any = self.sae
        grad_b_dec_D = grad_out_BD.sum(0)
        if sae.cfg.apply_b_dec_to_input:
            # The gradient of every row of the input, summed over the rows before the product.
            grad_b_dec_D -= self._summed(sae.W_enc @ sae.b_enc.grad)
        sae.b_dec.grad = grad_b_dec_D
