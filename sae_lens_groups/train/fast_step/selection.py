"""Which latents are active: exactly those that SAELens chooses."""

from typing import Protocol

import torch

from sae_lens_groups.train.fast_step.active_latents import ActiveLatents
from sae_lens_groups.train.fast_step.largest import largest_of_all, largest_per_row


class Selection(Protocol):
    """Chooses the active latents of a batch from the pre-activations (B, F)."""

    def __call__(self, hidden_BF: torch.Tensor) -> ActiveLatents: ...


class TopK:
    """The k largest of each row, behind a ReLU."""

    def __init__(self, k: int) -> None:
        self.k = k

    def __call__(self, hidden_BF: torch.Tensor) -> ActiveLatents:
        """The active latents of (B, F)."""
        value_BK, feature_BK = largest_per_row(hidden_BF, self.k)
        return _k_per_row(value_BK.relu(), feature_BK, hidden_BF.shape[1])


class AbsTopK:
    """The k of largest magnitude of each row, with their signs."""

    def __init__(self, k: int) -> None:
        self.k = k

    def __call__(self, hidden_BF: torch.Tensor) -> ActiveLatents:
        """The active latents of (B, F)."""
        value_BK, feature_BK = largest_per_row(hidden_BF, self.k, by_magnitude=True)
        return _k_per_row(value_BK, feature_BK, hidden_BF.shape[1])


class BatchTopK:
    """The k * B largest of the batch, behind a ReLU."""

    def __init__(self, k: float) -> None:
        self.k = k

    def __call__(self, hidden_BF: torch.Tensor) -> ActiveLatents:
        """The active latents of (B, F)."""
        n_rows, d_sae = hidden_BF.shape
        hidden = hidden_BF.flatten()
        index_N = largest_of_all(hidden, int(self.k * n_rows))
        row_N = index_N // d_sae
        count_B = torch.zeros(n_rows, dtype=torch.long, device=hidden.device)
        count_B.scatter_add_(0, row_N, torch.ones_like(row_N))
        return ActiveLatents(
            row_start_B=count_B.cumsum(0) - count_B,
            row_N=row_N,
            feature_N=index_N % d_sae,
            value_N=hidden[index_N].relu(),
            d_sae=d_sae,
        )


def _k_per_row(value_BK: torch.Tensor, feature_BK: torch.Tensor, d_sae: int) -> ActiveLatents:
    n_rows, k = value_BK.shape
    row_B = torch.arange(n_rows, device=value_BK.device)
    return ActiveLatents(
        row_start_B=row_B * k,
        row_N=row_B[:, None].expand(n_rows, k).reshape(-1),
        feature_N=feature_BK.reshape(-1),
        value_N=value_BK.reshape(-1),
        d_sae=d_sae,
    )
