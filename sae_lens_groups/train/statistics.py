"""What each layer of a group does with the shared features: how often they fire, how well they fit.

Shapes: B rows of a training batch, D = d_in, F = d_sae, L layers of the group,
N latents that are active in the batch.
"""

from typing import Any

import torch
from sae_lens.saes.sae import TrainStepOutput

from sae_lens_groups.train.fast_step import ActiveLatents

# SAELens adds this before the logarithm, so a feature that never fired reads -10.
_LOG_EPS = 1e-10


class LayerStatistics:
    """Firing counts per layer and feature, over SAELens's `feature_sampling_window`."""

    def __init__(self, n_layers: int, d_sae: int, device: torch.device | str) -> None:
        self.n_fired_LF = torch.zeros(n_layers, d_sae, device=device)
        self.n_rows_L = torch.zeros(n_layers, device=device)
        # Of the window before: this one may have just begun.
        self._last_n_fired_LF = torch.zeros_like(self.n_fired_LF)
        self._last_n_rows_L = torch.zeros_like(self.n_rows_L)
        self.n_steps_since_fired_LF = torch.zeros(n_layers, d_sae, device=device)

    @torch.no_grad()
    def add(self, feature_acts_BF: torch.Tensor, position_B: torch.Tensor) -> None:
        """Counts one training step's firings by the layer of each row."""
        if len(self.n_rows_L) == 1 and not feature_acts_BF.is_sparse:
            n_rows_L = torch.full_like(self.n_rows_L, len(feature_acts_BF))
            self._count(feature_acts_BF.count_nonzero(dim=0)[None], n_rows_L)
            return
        is_layer_LB = torch.nn.functional.one_hot(position_B, len(self.n_rows_L)).T.float()
        fired_BF = feature_acts_BF.bool().float()
        # A sparse feature_acts (use_sparse_activations) multiplies from the left only.
        n_fired_LF = (
            torch.sparse.mm(fired_BF.t(), is_layer_LB.T).T
            if fired_BF.is_sparse
            else is_layer_LB @ fired_BF
        )
        self._count(n_fired_LF, is_layer_LB.sum(dim=1))

    @torch.no_grad()
    def add_active(self, active: ActiveLatents, position_B: torch.Tensor) -> torch.Tensor:
        """The same from the active latents alone. Returns how often each feature fired, (F,)."""
        n_fired_LF = torch.zeros_like(self.n_fired_LF)
        index_N = active.feature_N
        if len(n_fired_LF) > 1:
            index_N = position_B.index_select(0, active.row_N) * active.d_sae + index_N
        fired_N = (active.value_N != 0).to(n_fired_LF.dtype)
        n_fired_LF.view(-1).scatter_add_(0, index_N, fired_N)
        n_rows_L = torch.zeros_like(self.n_rows_L)
        n_rows_L.scatter_add_(0, position_B, torch.ones_like(position_B, dtype=n_rows_L.dtype))
        self._count(n_fired_LF, n_rows_L)
        return n_fired_LF.sum(dim=0)

    def _count(self, n_fired_LF: torch.Tensor, n_rows_L: torch.Tensor) -> None:
        self.n_fired_LF += n_fired_LF
        self.n_rows_L += n_rows_L
        self.n_steps_since_fired_LF += 1
        self.n_steps_since_fired_LF.masked_fill_(n_fired_LF > 0, 0)

    def reset_window(self) -> None:
        """Starts the next window of firing counts; how long features have been silent goes on."""
        self._last_n_fired_LF.copy_(self.n_fired_LF)
        self._last_n_rows_L.copy_(self.n_rows_L)
        self.n_fired_LF.zero_()
        self.n_rows_L.zero_()

    @property
    def frequency_LF(self) -> torch.Tensor:
        """Fraction of this and the last window's rows of each layer that each feature fired on."""
        n_rows_L = self.n_rows_L + self._last_n_rows_L
        return (self.n_fired_LF + self._last_n_fired_LF) / n_rows_L.clamp(min=1)[:, None]

    @property
    def log_sparsity_LF(self) -> torch.Tensor:
        """log10 firing frequency per layer and feature, as in SAELens's `sparsity.safetensors`."""
        return torch.log10(self.frequency_LF + _LOG_EPS).cpu()

    def n_dead_L(self, dead_feature_window: int) -> list[int]:
        """Per layer, the features that have not fired on it for more than this many steps."""
        return (self.n_steps_since_fired_LF > dead_feature_window).sum(dim=1).int().tolist()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything, for a checkpoint."""
        return {
            "n_fired": self.n_fired_LF,
            "n_rows": self.n_rows_L,
            "last_n_fired": self._last_n_fired_LF,
            "last_n_rows": self._last_n_rows_L,
            "n_steps_since_fired": self.n_steps_since_fired_LF,
        }

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over what `state_dict` gave."""
        self.n_fired_LF.copy_(state["n_fired"])
        # Below 0 it was, for a while, of the last window.
        self.n_rows_L.copy_(state["n_rows"].clamp(min=0))
        if "last_n_fired" in state:  # since 0.10.0
            self._last_n_fired_LF.copy_(state["last_n_fired"])
            self._last_n_rows_L.copy_(state["last_n_rows"])
        self.n_steps_since_fired_LF.copy_(state["n_steps_since_fired"])


@torch.no_grad()
def layer_metrics(
    output: TrainStepOutput, position_B: torch.Tensor, position: int
) -> dict[str, Any]:
    """SAELens's training metrics on the rows of one layer; empty where the batch has too few."""
    of_layer_B = position_B == position
    if of_layer_B.sum() < 2:
        return {}
    sae_in_BD = output.sae_in[of_layer_B].float()
    squared_error_B = (output.sae_out[of_layer_B] - sae_in_BD).pow(2).sum(dim=-1)
    variance_B = (sae_in_BD - sae_in_BD.mean(dim=0)).pow(2).sum(dim=-1)
    return {
        "losses/mse_loss": squared_error_B.mean().item(),
        "metrics/explained_variance": (1 - squared_error_B.mean() / variance_B.mean()).item(),
    }
