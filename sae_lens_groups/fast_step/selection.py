"""Which latents are active: exactly those that SAELens chooses, found with less work."""

from typing import Protocol

import torch

from sae_lens_groups.fast_step.active_latents import ActiveLatents

_BUNDLE = 4  # measured best among 2, 4 and 8


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


def largest_per_row(
    values_BF: torch.Tensor, k: int, by_magnitude: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest values of each row and where they are, both (B, k), in no order."""
    column_BK = _columns_of_largest(values_BF, k, by_magnitude)
    return values_BF.gather(1, column_BK), column_BK


def _columns_of_largest(values_BF: torch.Tensor, k: int, by_magnitude: bool) -> torch.Tensor:
    n_rows, width = values_BF.shape
    n_bundles = width // _BUNDLE
    if width % _BUNDLE or n_bundles < 2 * k:
        ranked_BF = values_BF.abs() if by_magnitude else values_BF
        return torch.topk(ranked_BF, k, dim=-1, sorted=False).indices
    # Columns c, c + n, c + 2n and c + 3n make a bundle. The k largest values lie in the k bundles of
    # the largest maximum: outside of those, k larger values exist. Maxima are quick to find.
    bundles = values_BF.view(n_rows, _BUNDLE, n_bundles)
    maximum = bundles.amax(1)
    if by_magnitude:
        maximum = torch.maximum(maximum, -bundles.amin(1))
    bundle_BK = _columns_of_largest(maximum, k, by_magnitude=False)
    firsts = torch.arange(0, width, n_bundles, device=values_BF.device)
    candidate = (bundle_BK[:, None, :] + firsts[:, None]).view(n_rows, _BUNDLE * k)
    values = values_BF.gather(1, candidate)
    ranked = values.abs() if by_magnitude else values
    return candidate.gather(1, torch.topk(ranked, k, dim=-1, sorted=False).indices)


def largest_of_all(values: torch.Tensor, n: int) -> torch.Tensor:
    """The places of the n largest of a flat tensor, in ascending order.

    Values that are not positive may be left out, as ReLU makes them zero.
    """
    if values.device.type != "cpu":  # a data-dependent size would wait for the device
        return torch.topk(values, n, sorted=False).indices.sort().values
    # torch.topk of millions is slow on a processor, so most are ruled out first.
    for bound in (_bound_below_largest(values, n), 0.0):
        candidate = (values > bound).nonzero().squeeze(1)
        if bound == 0.0 or len(candidate) >= n:
            break
    if len(candidate) <= n:
        return candidate
    chosen_N = torch.topk(values[candidate], n, sorted=False).indices
    return candidate[chosen_N].sort().values


def _bound_below_largest(values: torch.Tensor, n: int) -> float:
    """A positive bound that a sample suggests: a little more than n values lie above it."""
    sample = values[:: max(1, len(values) // 2**18)]
    expected = n * len(sample) / len(values)
    rank = min(len(sample), int(1.1 * expected + 6 * expected**0.5) + 1)
    return max(0.0, float(torch.topk(sample, rank).values[-1]))


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
