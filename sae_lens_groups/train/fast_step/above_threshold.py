"""What the steps share of SAEs whose latents are active above a threshold, however many these are."""

import abc
from collections.abc import Mapping

import torch
from sae_lens.saes.sae import TrainStepOutput
from typing_extensions import override

from sae_lens_groups.train.fast_step.active_latents import ActiveLatents
from sae_lens_groups.train.fast_step.pre_activations import PreActivations
from sae_lens_groups.train.fast_step.sparse_step import FEATURES_PER_ACTIVE, T_SAE, SparseStep

_STATE = "above_threshold.is_due"
_FIRST_ROWS = 256


class AboveThresholdStep(SparseStep[T_SAE]):
    """The step of SAEs of which early in training most latents take part.

    SAELens's step is taken after a batch in which more than one in 16 took part. The first batch
    decides for itself, by its first rows, as SAELens's step takes several times the memory, and an
    SAE that starts from a trained one may never need it.
    """

    name = f"fast, but SAELens's own while over 1 latent in {FEATURES_PER_ACTIVE} takes part"
    _is_due: bool | None = None

    @override
    @torch.no_grad()
    def is_due(self, sae_in_BD: torch.Tensor) -> bool:
        if self._is_due is None:
            rows_BD = self._encoder_input(sae_in_BD[:_FIRST_ROWS])
            self._decide_by(self._hidden(rows_BD, None).whole())
        return bool(self._is_due)

    @override
    @torch.no_grad()
    def saw(self, output: TrainStepOutput) -> None:
        self._decide_by(output.hidden_pre)

    def _decide_by(self, hidden_BF: torch.Tensor) -> None:
        self._decide(int((hidden_BF > self._lowest()).count_nonzero()), len(hidden_BF))

    def _decide(self, n_latents: int, n_rows: int) -> None:
        self._is_due = n_latents * FEATURES_PER_ACTIVE <= n_rows * self.sae.cfg.d_sae

    @override
    def state_dict(self) -> dict[str, torch.Tensor]:
        known = {} if self._is_due is None else {_STATE: torch.tensor(self._is_due)}
        return {**super().state_dict(), **known}

    @override
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        super().load_state_dict(state)
        self._is_due = bool(state[_STATE]) if _STATE in state else None

    @abc.abstractmethod
    def _lowest(self) -> torch.Tensor:
        """Up to which a pre-activation has no part in the step, (F,) or for all."""

    def _latents(self, hidden: PreActivations) -> ActiveLatents:
        """Those that take part, with their pre-activations as values; decides on the next step."""
        # Waits for the device once a step: how many there are follows from the data.
        latents = hidden.above(self._lowest())
        self._decide(len(latents.value_N), latents.n_rows)
        return latents

    def _add_gradient_of_norms(self, grad_norm_F: torch.Tensor, norm_F: torch.Tensor) -> None:
        """Adds to the decoder's gradient what it gets by way of the norms of its rows."""
        W_dec_FD: torch.Tensor = self.sae.W_dec
        assert W_dec_FD.grad is not None
        W_dec_FD.grad.addcmul_(W_dec_FD, (grad_norm_F / norm_F)[:, None])
