"""SAELens's auxiliary loss, computed on the features that may be dead instead of on all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

# How far ahead features are called candidates, in steps: so rarely is the device asked.
_MOST_STEPS_AHEAD = 64


class DeadCandidates:
    """Features that can be dead within the next steps, so that no step has to ask the device.

    Args:
        dead_feature_window: steps without firing, after which a feature is dead.
        widths: where each part of the features ends, of parts that are asked for one by one.
    """

    def __init__(self, dead_feature_window: int, widths: Sequence[int] = (0,)) -> None:
        self.window = dead_feature_window
        self._widths = widths
        self._n_steps_ahead = max(1, min(_MOST_STEPS_AHEAD, dead_feature_window // 8))
        self._n_steps_left = 0
        self._parts = self._split(torch.empty(0).long())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Which they are and for how long: how many there are decides how sums are rounded."""
        index_C = torch.cat(self._parts)
        return {
            "dead_candidates.n_steps_left": torch.tensor(self._n_steps_left),
            **({"dead_candidates.index": index_C} if len(index_C) > 0 else {}),
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes over what `state_dict` gave; forgets them where it is empty."""
        self._n_steps_left = int(state.get("dead_candidates.n_steps_left", 0))
        self._parts = self._split(state.get("dead_candidates.index", torch.empty(0).long()))

    def next(self, n_steps_since_fired_F: torch.Tensor) -> list[torch.Tensor]:
        """The candidates (C,) of the next step in each part; mostly there are none."""
        if self._n_steps_left == 0:
            self._n_steps_left = self._n_steps_ahead
            soonest = self.window - self._n_steps_ahead
            self._parts = self._split((n_steps_since_fired_F > soonest).nonzero().squeeze(1))
        self._n_steps_left -= 1
        return self._parts

    def _split(self, index_C: torch.Tensor) -> list[torch.Tensor]:
        ends = torch.tensor(self._widths[:-1], device=index_C.device, dtype=index_C.dtype)
        return list(index_C.tensor_split(torch.searchsorted(index_C, ends).tolist()))


@dataclass(frozen=True)
class DeadGradients:
    """A loss of the dead features, and its gradients with respect to what they take part in."""

    loss: torch.Tensor
    index_C: torch.Tensor
    grad_pre_BC: torch.Tensor
    grad_W_dec_CD: torch.Tensor


def auxiliary_loss(
    hidden_BF: torch.Tensor,
    norm_F: torch.Tensor | None,
    W_dec_FD: torch.Tensor,
    residual_BD: torch.Tensor,
    index_C: torch.Tensor,
    is_dead_C: torch.Tensor,
    coefficient: float,
    largest: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor],
    summed: Callable[[torch.Tensor], torch.Tensor],
) -> DeadGradients:
    """How well the dead features reconstruct what the living ones left (arXiv 2406.04093, A.2).

    Args:
        hidden_BF: pre-activations, times `norm_F` where there is one.
        norm_F: norms of the decoder's rows, where SAELens rescales by them.
        residual_BD: what the reconstruction lacks.
        index_C: features that may be dead.
        is_dead_C: which of them are.
        coefficient: SAELens's `aux_loss_coefficient`.
        largest: from pre-activations (B, C), which are dead (C,) and k: the k largest, else zeros.
        summed: gives a sum over features as one over those of other shards too.
    """
    n_rows, d_in = residual_BD.shape
    k_aux = d_in // 2
    acts_BC = largest(hidden_BF[:, index_C], is_dead_C, k_aux)
    is_taken_BC = acts_BC != 0
    if norm_F is not None:
        acts_BC = acts_BC / norm_F[index_C]
    W_dec_CD = W_dec_FD[index_C]
    error_BD = summed(acts_BC @ W_dec_CD) - residual_BD
    factor = coefficient * (summed(is_dead_C.sum()) / k_aux).clamp(max=1)
    grad_BD = error_BD * (2 * factor / n_rows)
    return DeadGradients(
        loss=factor * error_BD.pow(2).sum(dim=-1).mean(),
        index_C=index_C,
        grad_pre_BC=(grad_BD @ W_dec_CD.T) * is_taken_BC,
        grad_W_dec_CD=acts_BC.T @ grad_BD,
    )
