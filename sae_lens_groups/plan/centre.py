"""Each layer's mean, and what the distances would be if it came from other tokens.

Shapes: L layers, N tokens of one block, D = d_in, P parts of the tokens behind the means.
"""

from collections.abc import Callable, Iterable
from functools import cached_property

import torch

# The error of the means is estimated by leaving out each of up to so many parts of their LM batches,
MAX_PARTS = 16
# and measuring again without it on about so many of the other tokens. More cost time and tell little.
CHECKED_TOKENS = 4096


class Centre:
    """The layers' means; LM batches come first, then the blocks that the means are taken off."""

    def __init__(self, sums: Callable[[torch.Tensor], torch.Tensor], n_tokens: int) -> None:
        """`sums` are a metric's; about `n_tokens` are going to come in blocks."""
        self._sums_of = sums
        self._n_expected = n_tokens
        self._n_seen = 0
        self._n_checked = 0
        self._n_batches = 0
        self._sum_LD = torch.zeros((), dtype=torch.float64)
        self._parts_PLD: list[torch.Tensor] = []
        self._n_tokens_P: list[int] = []
        self._sums_without_P: list[torch.Tensor] = []

    def add(self, blocks: Iterable[torch.Tensor]) -> None:
        """Takes one LM batch, as blocks (L, N, D), into the means."""
        part = self._n_batches % MAX_PARTS
        if part == len(self._parts_PLD):
            self._parts_PLD.append(torch.zeros((), dtype=torch.float64))
            self._n_tokens_P.append(0)
        for block_LND in blocks:
            sum_LD = block_LND.sum(dim=1)
            self._sum_LD = self._sum_LD + sum_LD
            self._parts_PLD[part] = self._parts_PLD[part] + sum_LD
            self._n_tokens_P[part] += block_LND.shape[1]
        self._n_batches += 1

    def taken_off(self, block_LND: torch.Tensor) -> torch.Tensor:
        """The block without the means; some blocks are also measured with the means of fewer."""
        is_due = self._n_checked * self._n_expected <= CHECKED_TOKENS * self._n_seen
        if is_due and self._means_without_P:
            sums_P = [
                self._sums_of(block_LND - mean_LD[:, None]).cpu()
                for mean_LD in self._means_without_P
            ]
            before_P = self._sums_without_P or [torch.zeros_like(sums) for sums in sums_P]
            self._sums_without_P = [sums + more for sums, more in zip(before_P, sums_P)]
            self._n_checked += block_LND.shape[1]
        self._n_seen += block_LND.shape[1]
        return block_LND - self._mean_LD[:, None]

    def distances_without(
        self, distances: Callable[[torch.Tensor, int], torch.Tensor]
    ) -> list[torch.Tensor]:
        """Distances (L, L) from the means without each part; none where there is but one part."""
        return [distances(sums, self._n_checked) for sums in self._sums_without_P]

    @cached_property
    def _mean_LD(self) -> torch.Tensor:
        return self._sum_LD / sum(self._n_tokens_P)

    @cached_property
    def _means_without_P(self) -> list[torch.Tensor]:
        if len(self._parts_PLD) < 2:
            return []
        n_tokens = sum(self._n_tokens_P)
        return [
            (self._sum_LD - part_LD) / (n_tokens - n)
            for part_LD, n in zip(self._parts_PLD, self._n_tokens_P)
        ]
