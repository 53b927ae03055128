"""Cached activations, read and served in place of the language model."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import datasets
import pyarrow as pa
import torch
from sae_lens.config import HfDataset
from transformer_lens import HookedRootModule
from typing_extensions import override

from sae_lens_groups import files
from sae_lens_groups.activations import CountedRows, GroupActivationsStore, RowSink
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import CacheError
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.train.cache.layout import (
    DATASET_ROWS_READ,
    DRAWN_ROWS,
    TOKEN_IDS,
    position_column,
)
from sae_lens_groups.train.cache.manifest import WRITE_AGAIN, CacheManifest
from sae_lens_groups.train.cache.saelens import as_one_cache, caches_of_saelens

_MOST_OFF = 0.05
"""Of a prompt's norm: bfloat16 and float16 differ from float32 by less, other models by far more."""


class CachedActivations:
    """A folder of cached activations.

    The tensors it returns share the mapped file's memory, which the system reads from disk where it
    is touched and which nobody may write to: pick rows out of them.

    Args:
        folder: what `sae-lens-groups cache` wrote.
        cfg: a run's, for which caches of SAELens are taken too.

    Raises:
        CacheError: the folder is missing, holds no cached activations, or damaged ones.
    """

    def __init__(self, folder: Path | str, cfg: GroupSAERunnerConfig[Any] | None = None) -> None:
        folder = files.expanded(folder)
        if cfg is not None and (written := caches_of_saelens(folder)):
            self.manifest, self._table = as_one_cache(written, cfg)
            return
        self.manifest = CacheManifest.load(folder)
        damaged = f"cached_activations_path {str(folder)!r} is damaged"
        with files.refusing(CacheError, damaged, WRITE_AGAIN):
            dataset: Any = datasets.load_from_disk(str(folder), keep_in_memory=False)
            n_prompts = self.manifest.n_prompts
            if len(dataset) != n_prompts or dataset.features != self.manifest.layout.features:
                raise ValueError(
                    f"it holds {len(dataset)} of {n_prompts} prompts, or other columns than it "
                    "should"
                )
        # Not by row or format: `datasets` would decode and copy every number of a column.
        self._table = dataset.data

    @property
    def says_what_of(self) -> bool:
        """Whether it says of which model and tokens it was made, as SAELens's do not."""
        return bool(self.manifest.versions)

    def token_ids_PT(self, prompts: range) -> torch.Tensor:
        """The tokens that the rows belong to."""
        return self._flat(TOKEN_IDS, prompts).view(len(prompts), -1).long()

    def dataset_rows_read(self, prompts: range) -> int:
        """Rows of the dataset that had been read, from its first on, for these prompts; 0 if unknown."""
        if not self.says_what_of:
            return 0
        is_old = not self.manifest.norms  # of before 0.9, which did not count the row in progress
        return int(self._flat(DATASET_ROWS_READ, prompts)[-1]) + is_old

    def rows_ND(self, column: str, prompts: range) -> torch.Tensor:
        """The activations of a hook, or the drawn ones of a group, prompt by prompt."""
        return self._flat(column, prompts).view(-1, self.manifest.layout.d_in)

    def positions_N(self, group: str, prompts: range) -> torch.Tensor:
        """The position in the group of each drawn row's layer."""
        return self._flat(position_column(group), prompts).long()

    def _flat(self, column: str, prompts: range) -> torch.Tensor:
        pieces = self._table.column(column).slice(prompts.start, len(prompts)).chunks
        # One piece where runs read as many prompts at once as were written at once.
        flat = [torch.from_dlpack(_numbers(piece)) for piece in pieces]
        return flat[0] if len(flat) == 1 else torch.cat(flat)


def _numbers(array: pa.Array) -> pa.Array:
    if isinstance(array, pa.ExtensionArray):  # Array2D
        array = array.storage
    while pa.types.is_nested(array.type):
        array = array.flatten()
    return array


class CachedActivationsStore(GroupActivationsStore):
    """Gives the rows that the language model gave when they were cached, in the same order.

    The language model and the dataset are there for SAELens's in-training evals.
    """

    cache: CachedActivations
    current_row_idx: int = 0
    """The prompt that is read next."""
    _prompts = range(0)
    source_name = "cache"

    @classmethod
    @override
    def from_group_config(
        cls,
        model: HookedRootModule,
        cfg: GroupSAERunnerConfig[Any],
        groups: tuple[LayerGroup, ...],
        dataset: HfDataset | CountedRows,
        norm_limits: Mapping[str, float] | None = None,
    ) -> Self:
        store = super().from_group_config(model, cfg, groups, dataset, norm_limits)
        assert cfg.cached_activations_path is not None
        store.cache = CachedActivations(cfg.cached_activations_path, cfg)
        if not store.cache.says_what_of:
            store._require_this_model(cfg.cached_activations_path)
        return store

    def _require_this_model(self, path: str) -> None:
        """Refuses activations that the model does not give for the same tokens."""
        start, _, step = slice(*self.seqpos_slice).indices(self.context_size)
        if start or step != 1:
            return  # not all tokens before a position are there
        tokens_PT = self.cache.token_ids_PT(range(1)).to(self.device)

        def compare(hook_name: str, acts: torch.Tensor) -> None:
            given_ND = self.of_heads(acts).reshape(-1, self.d_in).float().cpu()
            cached_ND = self.cache.rows_ND(hook_name, range(1)).float()
            off = float((given_ND - cached_ND).norm() / given_ND.norm())
            if not off <= _MOST_OFF:
                raise CacheError(
                    f"cached_activations_path {path!r} holds other activations of {hook_name} than "
                    f"this model gives for the same tokens: the first prompt's differ by {off:.0%}; "
                    "name the model that they were made with"
                )

        self.run_model(tokens_PT, self.places, compare)

    @property
    def holds_all_rows(self) -> bool:
        """Whether every layer's rows are there, rather than those that were drawn for a run."""
        return self.cache.manifest.cache_rows != DRAWN_ROWS

    @override
    def next_tokens(self, raise_at_epoch_end: bool = False) -> torch.Tensor:
        if self.current_row_idx + self.store_batch_size_prompts > self.cache.manifest.n_prompts:
            self.current_row_idx = 0
            if raise_at_epoch_end:
                raise StopIteration
        first = self.current_row_idx
        self.current_row_idx += self.store_batch_size_prompts
        self._prompts = range(first, self.current_row_idx)
        n_read = self.cache.dataset_rows_read(self._prompts)
        self.rows.n_read = max(n_read, self.rows.n_read)
        return self.cache.token_ids_PT(self._prompts)

    @property
    @override
    def shape_of_lm_batch(self) -> tuple[int, int]:
        return self.store_batch_size_prompts, self.training_context_size

    @property
    @override
    def place(self) -> int:
        return self.current_row_idx

    @contextlib.contextmanager
    @override
    def standing_at(self, place: int) -> Iterator[None]:
        here, self._prompts = self._prompts, range(place - self.store_batch_size_prompts, place)
        try:
            yield
        finally:
            self._prompts = here

    @override
    def pass_over(self, n_tokens: int) -> None:
        if self.holds_all_rows:
            super().pass_over(n_tokens)

    @override
    def trained_tokens(self, batch_tokens: torch.Tensor) -> torch.Tensor:
        return batch_tokens  # seqpos_slice was applied before they were cached

    @override
    def capture(
        self, batch_tokens: torch.Tensor, take: Callable[[str, torch.Tensor], None]
    ) -> None:
        for hook_name in self.places:
            rows_ND = self.cache.rows_ND(hook_name, self._prompts)
            take(hook_name, rows_ND.view(*batch_tokens.shape, -1))

    @override
    def write_drawn(self, batch_tokens: torch.Tensor, sink: RowSink) -> None:
        if self.holds_all_rows:
            super().write_drawn(batch_tokens, sink)
        else:
            self._write_as_drawn(sink)

    def _write_as_drawn(self, sink: RowSink) -> None:
        """Hands on rows that were drawn when they were cached."""
        positions = {
            group.name: self.cache.positions_N(group.name, self._prompts) for group in self.groups
        }
        is_kept_N = next(iter(positions.values())) >= 0  # the same tokens for every group
        slot_N = torch.empty(len(is_kept_N), dtype=torch.long)
        slot_N[is_kept_N] = sink.reserve(int(is_kept_N.sum()))
        for group in self.groups:
            rows_ND = self.cache.rows_ND(group.name, self._prompts)
            for position in range(len(group)):
                index_N = (positions[group.name] == position).nonzero().squeeze(1)
                drawn_ND = self.as_served(rows_ND[index_N])
                sink.write(group.name, slot_N[index_N], drawn_ND, position)

    @override
    def as_served(self, rows_ND: torch.Tensor) -> torch.Tensor:
        dtype = getattr(torch, self.cache.manifest.activations_dtype)
        return rows_ND.to(self.device, dtype)

    @override
    def state_dict(self) -> dict[str, torch.Tensor]:
        return {**super().state_dict(), "current_row_idx": torch.tensor(self.current_row_idx)}

    @override
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self.current_row_idx = int(state["current_row_idx"])
        self.load_counts(state)
