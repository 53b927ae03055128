"""Which features of another SAE at the same layer an SAE has too, by their decoder directions.

Shapes: F features of the suite's SAE, G of the baseline's, D = d_in.
"""

from dataclasses import dataclass

import torch

# Below it two decoder directions count as two features.
FOUND_COSINE = 0.7
_ROWS_AT_ONCE = 1024  # 1024 x G cosines: 100 MB for 24,000 features


@dataclass(frozen=True)
class FeatureMatch:
    """The baseline's features beside their nearest in the suite's SAE. Dead features play no part."""

    mmcs: float
    """Mean over the suite's features of the largest cosine with a feature of the baseline."""
    mmcs_of_baseline: float
    """Mean over the baseline's features of the largest cosine with a feature of the suite."""
    features_G: torch.Tensor
    """The baseline's features that fire."""
    cosine_G: torch.Tensor
    """The largest cosine of each with a feature of the suite,"""
    nearest_G: torch.Tensor
    """and that feature."""
    n_firings_G: torch.Tensor
    """Tokens on which each fires."""

    @property
    def is_missed_G(self) -> torch.Tensor:
        """Which of the baseline's features the suite's SAE has nothing like."""
        return self.cosine_G < FOUND_COSINE

    @property
    def missed_features(self) -> float:
        """Share of the baseline's features that are missed."""
        return self.is_missed_G.float().mean().item()

    @property
    def missed_firings(self) -> float:
        """Share of the baseline's firings that are of missed features."""
        firings_G = self.n_firings_G.double()
        return (firings_G[self.is_missed_G].sum() / firings_G.sum()).item()


@torch.no_grad()
def match_features(
    W_dec_FD: torch.Tensor,
    n_firings_F: torch.Tensor,
    baseline_W_dec_GD: torch.Tensor,
    baseline_n_firings_G: torch.Tensor,
    *,
    is_signed: bool = False,
) -> FeatureMatch | None:
    """Compares two SAEs at one layer; None where one of them has no feature that fires.

    `is_signed` says that features may be negative, so that a direction and its opposite are one.
    """
    alive_F, alive_G = n_firings_F.nonzero()[:, 0], baseline_n_firings_G.nonzero()[:, 0]
    if not len(alive_F) or not len(alive_G):
        return None
    ours_FD, theirs_GD = _directions(W_dec_FD, alive_F), _directions(baseline_W_dec_GD, alive_G)
    best_F, best_G = ours_FD.new_empty(len(alive_F)), ours_FD.new_full((len(alive_G),), -2)
    nearest_G = torch.zeros(len(alive_G), dtype=torch.long, device=best_G.device)
    for start in range(0, len(alive_F), _ROWS_AT_ONCE):
        cosines_RG = ours_FD[start : start + _ROWS_AT_ONCE] @ theirs_GD.T
        cosines_RG = cosines_RG.abs() if is_signed else cosines_RG
        best_F[start : start + _ROWS_AT_ONCE] = cosines_RG.max(1).values
        highest_G, row_G = cosines_RG.max(0)
        nearest_G = torch.where(highest_G > best_G, row_G + start, nearest_G)
        best_G = torch.maximum(best_G, highest_G)
    return FeatureMatch(
        mmcs=best_F.mean().item(),
        mmcs_of_baseline=best_G.mean().item(),
        features_G=alive_G,
        cosine_G=best_G.cpu(),
        nearest_G=alive_F[nearest_G.cpu()],
        n_firings_G=baseline_n_firings_G[alive_G],
    )


def _directions(W_dec: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(W_dec[features.to(W_dec.device)].float(), dim=1)
