"""On which layers of its group each feature fires.

Shapes: L layers of the group, F = d_sae.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sae_lens_groups.layers import LayerGroup

# A feature seen once fires on one layer whatever it stands for.
FEWEST_FIRINGS = 10
# A feature belongs to one layer when this share of its firings is there.
SPECIFIC_SHARE = 0.9


@dataclass(frozen=True)
class FeatureLayers:
    """How the firings of a group's features spread over its layers.

    Every layer sees the same tokens, so counts compare as frequencies do.
    """

    group: LayerGroup
    n_firings_LF: np.ndarray
    """Tokens on which each feature fires, per layer."""
    n_tokens: int

    @cached_property
    def is_counted_F(self) -> np.ndarray:
        """Which features fire often enough, over all layers, to be spoken of."""
        return self.n_firings_LF.sum(0) >= FEWEST_FIRINGS

    @cached_property
    def share_LF(self) -> np.ndarray:
        """The part of a feature's firings that each layer has; NaN for a feature without any."""
        total_F = self.n_firings_LF.sum(0).astype(float)
        total_F[total_F == 0] = np.nan
        return self.n_firings_LF / total_F

    @cached_property
    def entropy_F(self) -> np.ndarray:
        """Bits of entropy over layers: 0 on one layer alone, log2(L) evenly on all.

        NaN for a feature that fires too rarely to tell.
        """
        share_LF = np.where(self.share_LF > 0, self.share_LF, 1.0)
        entropy_F = np.abs((share_LF * np.log2(share_LF)).sum(0))
        return np.where(self.is_counted_F, entropy_F, np.nan)

    @property
    def mean_entropy(self) -> float:
        """Of the features that fire often enough, as a part of the most there can be, log2(L).

        NaN for a group of one layer.
        """
        if len(self.group) == 1 or not self.is_counted_F.any():
            return float("nan")
        return float(np.nanmean(self.entropy_F) / np.log2(len(self.group)))

    @property
    def specific_share(self) -> float:
        """Share of the features, that fire often enough, which belong to one layer."""
        if not self.is_counted_F.any():
            return float("nan")
        return float((self.share_LF.max(0)[self.is_counted_F] >= SPECIFIC_SHARE).mean())

    @property
    def dead_share(self) -> float:
        """Share of the features that fire on no layer."""
        return float((self.n_firings_LF.sum(0) == 0).mean())

    def heat_map_RL(self, n_rows: int) -> np.ndarray:
        """Shares of firings per layer, features ordered by where they fire and averaged in rows.

        At most `n_rows` rows, each the mean of as many features as the next.
        """
        share_FL = self.share_LF.T[self.is_counted_F]
        if not len(share_FL):
            return np.empty((0, len(self.group)))
        centre_F = share_FL @ np.arange(len(self.group))
        rows = np.array_split(share_FL[np.argsort(centre_F, kind="stable")], n_rows)
        return np.stack([row.mean(0) for row in rows if len(row)])
