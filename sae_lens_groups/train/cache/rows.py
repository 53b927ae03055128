"""The rows that a cache holds of each prompt."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from sae_lens_groups.activations import GroupActivationsStore, are_finite
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import CacheError
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.train.cache.demand import TrainingDemand
from sae_lens_groups.train.cache.layout import (
    DATASET_ROWS_READ,
    NOT_DRAWN,
    TOKEN_IDS,
    CacheLayout,
    position_column,
)


@dataclass(frozen=True)
class Piece:
    """Some prompts of a cache."""

    columns: dict[str, torch.Tensor]
    """As `CacheLayout.encode` takes them."""
    n_tokens: int
    n_kept_tokens: int
    """Without those that are left out of training."""
    activations_dtype: str
    """The language model's own."""


def pieces(
    store: GroupActivationsStore,
    cfg: GroupSAERunnerConfig[Any],
    layout: CacheLayout,
) -> Iterator[Piece]:
    """LM batches until a training run would have all it reads; no batch of the dataset twice,
    unless rows are drawn from it.
    """
    demand = TrainingDemand(cfg)
    # Training draws anew each time the dataset starts over; all rows are the same each time.
    batches = store.token_batches() if layout.position_columns else _one_epoch(store)
    while not demand.is_met and (batch_tokens := next(batches, None)) is not None:
        piece = _piece(store, cfg, layout, batch_tokens)
        yield piece
        demand.add(piece.n_kept_tokens * cfg.layers_per_token)


def _one_epoch(store: GroupActivationsStore) -> Iterator[torch.Tensor]:
    n_tokens = 0
    while True:
        try:
            batch_tokens = store.next_tokens(raise_at_epoch_end=True)
        except StopIteration:
            break
        n_tokens += store.trained_tokens(batch_tokens).numel()
        yield batch_tokens
    store.require_filled_buffer(n_tokens)


def _piece(
    store: GroupActivationsStore,
    cfg: GroupSAERunnerConfig[Any],
    layout: CacheLayout,
    batch_tokens: torch.Tensor,
) -> Piece:
    if layout.position_columns:
        columns, n_kept_tokens = _drawn(store, cfg, batch_tokens)
    else:
        columns = store.captured_layers(batch_tokens)
        n_kept_tokens = len(store.ordinary_positions(batch_tokens, columns))
        store.require_finite({name: are_finite(acts_ND) for name, acts_ND in columns.items()})
    dtype = columns[layout.row_columns[0]].dtype
    for name in layout.row_columns:
        columns[name] = _stored(columns[name], layout.dtype, name)
    token_ids_PT = store.trained_tokens(batch_tokens)
    columns[TOKEN_IDS] = token_ids_PT.cpu().int()
    columns[DATASET_ROWS_READ] = torch.full((len(token_ids_PT),), store.rows.n_read)
    activations_dtype = str(dtype).removeprefix("torch.")
    return Piece(columns, token_ids_PT.numel(), n_kept_tokens, activations_dtype)


def _drawn(
    store: GroupActivationsStore, cfg: GroupSAERunnerConfig[Any], batch_tokens: torch.Tensor
) -> tuple[dict[str, torch.Tensor], int]:
    """(N, D) of every group, and (N,) the positions of their layers; the tokens that have rows."""
    rows = DrawnRows(
        store.groups,
        store.kept_positions(batch_tokens).cpu(),
        n_tokens=store.trained_tokens(batch_tokens).numel(),
        layers_per_token=cfg.layers_per_token,
    )
    store.write_drawn(batch_tokens, rows)
    return rows.columns, rows.n_kept // cfg.layers_per_token


def _stored(rows_ND: torch.Tensor, dtype: str, column: str) -> torch.Tensor:
    stored_ND = rows_ND.to("cpu", getattr(torch, dtype))
    if dtype != "float32" and not stored_ND.isfinite().all():
        raise CacheError(
            f"the activations of {column} reach {rows_ND.abs().max():,.0f}, which is beyond "
            f"{dtype}; set cache_dtype to float32"
        )
    return stored_ND


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
        self._n_rows = n_tokens * layers_per_token
        self._slots = (
            kept_B[:, None] * layers_per_token + torch.arange(layers_per_token)
        ).flatten()
        self.n_kept = len(self._slots)
        self.columns: dict[str, torch.Tensor] = {}
        """(N, D) by group, and (N,) the positions of their layers."""
        for group in groups:
            positions = torch.full((self._n_rows,), NOT_DRAWN, dtype=torch.int16)
            self.columns[position_column(group.name)] = positions

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
        self.columns[position_column(group)][slot_N] = position

    def release(self, slot_N: torch.Tensor) -> None:
        """Lets go of rows of tokens that are left out after all."""
        self.n_kept -= len(slot_N)
        for values in self.columns.values():
            values[slot_N] = NOT_DRAWN if values.ndim == 1 else 0
