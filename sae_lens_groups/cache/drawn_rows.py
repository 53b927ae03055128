"""The rows drawn from one LM batch, laid out token by token.

Shapes: B tokens that are kept, N = rows of all tokens, kept or not, D = d_in.
"""

import torch

from sae_lens_groups.cache.layout import NOT_DRAWN, position_column
from sae_lens_groups.layers import LayerGroup


class DrawnRows:
    """Takes what a store draws, as its shuffle buffer would.

    Tokens that are left out have rows too, of zeros, so that every prompt has as many.
    """

    def __init__(
        self,
        groups: tuple[LayerGroup, ...],
        kept_B: torch.Tensor,
        n_tokens: int,
        layers_per_token: int,
    ) -> None:
        self._groups = {group.name: group for group in groups}
        self._n_rows = n_tokens * layers_per_token
        self._slots = (
            kept_B[:, None] * layers_per_token + torch.arange(layers_per_token)
        ).flatten()
        self.columns: dict[str, torch.Tensor] = {}
        """(N, D) by group, and (N,) the positions of their layers."""
        for group in groups:
            positions = torch.full((self._n_rows,), NOT_DRAWN, dtype=torch.int16)
            self.columns[position_column(group)] = positions

    def reserve(self, n_rows: int) -> torch.Tensor:
        """Where the rows of the tokens that are kept belong."""
        assert n_rows == len(self._slots)
        return self._slots

    def write(self, group: str, slot_N: torch.Tensor, rows_ND: torch.Tensor, position: int) -> None:
        """Takes rows of one of a group's layers."""
        if group not in self.columns:
            self.columns[group] = torch.zeros(
                self._n_rows, rows_ND.shape[1], dtype=rows_ND.dtype, device="cpu"
            )
        self.columns[group][slot_N] = rows_ND.cpu()
        self.columns[position_column(self._groups[group])][slot_N] = position
