"""The features that may be dead: on them and not on all, losses of dead features are computed."""

from collections.abc import Mapping, Sequence
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
