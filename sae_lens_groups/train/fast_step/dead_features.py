"""SAELens's auxiliary loss, computed on the features that may be dead instead of on all."""

from dataclasses import dataclass

import torch

from sae_lens_groups.train.fast_step.largest import largest_per_row

# How far ahead features are called candidates, in steps: so rarely is the device asked.
_MOST_STEPS_AHEAD = 64


class DeadCandidates:
    """Features that can be dead within the next steps, so that no step has to ask the device."""

    def __init__(self, dead_feature_window: int) -> None:
        self.window = dead_feature_window
        self._n_steps_ahead = max(1, min(_MOST_STEPS_AHEAD, dead_feature_window // 8))
        self.reset()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Which they are and for how long: how many there are decides how sums are rounded."""
        n_steps_left = torch.tensor(self._n_steps_left)
        index_C = {} if self._index_C is None else {"index": self._index_C}
        return {"n_steps_left": n_steps_left, **index_C}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over what `state_dict` gave."""
        self._n_steps_left = int(state["n_steps_left"])
        self._index_C = state.get("index")

    def reset(self) -> None:
        """Forgets them, for example because other SAEs are trained now."""
        self._n_steps_left = 0
        self._index_C: torch.Tensor | None = None

    def next(self, n_steps_since_fired_F: torch.Tensor) -> torch.Tensor | None:
        """The candidates (C,) of the next step; None where no feature can be dead in it."""
        if self._n_steps_left == 0:
            self._n_steps_left = self._n_steps_ahead
            soonest = self.window - self._n_steps_ahead
            index_C = (n_steps_since_fired_F > soonest).nonzero().squeeze(1)
            self._index_C = index_C if len(index_C) else None
        self._n_steps_left -= 1
        return self._index_C


@dataclass(frozen=True)
class AuxiliaryLoss:
    """The loss, and its gradients with respect to what the dead features take part in."""

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
    by_magnitude: bool,
) -> AuxiliaryLoss:
    """How well the dead features reconstruct what the living ones left (arXiv 2406.04093, A.2).

    Args:
        hidden_BF: pre-activations, times `norm_F` where there is one.
        norm_F: norms of the decoder's rows, where SAELens rescales by them.
        residual_BD: what the reconstruction lacks.
        index_C: features that may be dead.
        is_dead_C: which of them are.
        coefficient: SAELens's `aux_loss_coefficient`.
        by_magnitude: whether the largest magnitudes are taken, and not the largest values.
    """
    n_rows, d_in = residual_BD.shape
    k_aux = d_in // 2
    acts_BC = _largest(hidden_BF[:, index_C], is_dead_C, k_aux, by_magnitude)
    is_taken_BC = acts_BC != 0
    if norm_F is not None:
        acts_BC = acts_BC / norm_F[index_C]
    W_dec_CD = W_dec_FD[index_C]
    error_BD = acts_BC @ W_dec_CD - residual_BD
    factor = coefficient * (is_dead_C.sum() / k_aux).clamp(max=1)
    grad_BD = error_BD * (2 * factor / n_rows)
    return AuxiliaryLoss(
        loss=factor * error_BD.pow(2).sum(dim=-1).mean(),
        index_C=index_C,
        grad_pre_BC=(grad_BD @ W_dec_CD.T) * is_taken_BC,
        grad_W_dec_CD=acts_BC.T @ grad_BD,
    )


def _largest(
    hidden_BC: torch.Tensor, is_dead_C: torch.Tensor, k: int, by_magnitude: bool
) -> torch.Tensor:
    """The k largest of the dead features in each row, (B, C), zero elsewhere."""
    if hidden_BC.shape[1] <= k:
        return torch.where(is_dead_C, hidden_BC, 0.0)
    lowest = 0.0 if by_magnitude else -torch.inf
    value_BK, index_BK = largest_per_row(
        torch.where(is_dead_C, hidden_BC, lowest), k, by_magnitude=by_magnitude
    )
    value_BK = torch.where(is_dead_C[index_BK], value_BK, 0.0)
    return torch.zeros_like(hidden_BC).scatter_(1, index_BK, value_BK)
