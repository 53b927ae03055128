"""The columns of cached activations, as SAELens and the `datasets` library know them.

Each row of the table is a prompt. SAELens trains from any column that is named after a hook.

Shapes: P prompts, N = P * rows of a prompt, D = d_in.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pyarrow as pa
import torch
from datasets import Array2D, Features, Sequence, Value
from pydantic import Field, PositiveInt

from sae_lens_groups import files
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.layers import HookTemplate, LayerGroup

TOKEN_IDS = "token_ids"
DATASET_ROWS_READ = "dataset_rows_read"
"""Rows of the dataset that had been read, from its first on, once the prompt was made."""
NOT_DRAWN = -1
"""The position where a token was left out, so that every prompt has as many rows."""

CacheRows = Literal["all", "drawn"]
ALL_ROWS: CacheRows = "all"
DRAWN_ROWS: CacheRows = "drawn"
CACHE_ROWS: tuple[CacheRows, ...] = get_args(CacheRows)
CacheDtype = Literal["float32", "float16"]
"""What both Array2D and torch know; bfloat16 fits into either, into float16 up to 65,504."""
CACHE_DTYPES: tuple[CacheDtype, ...] = get_args(CacheDtype)
_Columns = Annotated[tuple[str, ...], Field(strict=False)]  # which JSON has as a list


def row_columns(
    template: HookTemplate, groups: tuple[LayerGroup, ...], cache_rows: CacheRows
) -> tuple[str, ...]:
    """The columns of activations: one per hook, or one per group where rows were drawn."""
    if cache_rows == ALL_ROWS:
        return tuple(template.hook_names(groups))
    return tuple(group.name for group in groups)


def position_column(group: str) -> str:
    """Where the layer of each drawn row stands, as its position in the group."""
    return f"{group}.position"


class CacheLayout(files.Entries):
    """Which columns there are, and how large they are."""

    row_columns: _Columns
    position_columns: _Columns
    """Empty where every layer has its own column."""
    tokens_per_prompt: PositiveInt
    rows_per_prompt: PositiveInt
    """In each column of activations."""
    d_in: PositiveInt
    dtype: CacheDtype
    """Of the activations on disk."""

    @classmethod
    def of_config(
        cls,
        cfg: GroupSAERunnerConfig[Any],
        groups: tuple[LayerGroup, ...],
        cache_rows: CacheRows,
        dtype: CacheDtype,
    ) -> "CacheLayout":
        """Every token's activations at every layer of the groups, or the rows that are drawn."""
        columns = row_columns(cfg.hook_template, groups, cache_rows)
        is_drawn = cache_rows == DRAWN_ROWS
        return cls(
            row_columns=columns,
            position_columns=tuple(map(position_column, columns)) if is_drawn else (),
            tokens_per_prompt=cfg.rows_per_prompt,
            rows_per_prompt=cfg.rows_per_prompt * (cfg.layers_per_token if is_drawn else 1),
            d_in=int(cfg.sae.d_in),
            dtype=dtype,
        )

    @property
    def features(self) -> Features:
        """The columns in the terms of the `datasets` library."""
        acts = Array2D((self.rows_per_prompt, self.d_in), self.dtype)
        positions = Sequence(Value("int16"), length=self.rows_per_prompt)
        return Features(
            {
                **dict.fromkeys(self.row_columns, acts),
                **dict.fromkeys(self.position_columns, positions),
                TOKEN_IDS: Sequence(Value("int32"), length=self.tokens_per_prompt),
                DATASET_ROWS_READ: Value("int64"),
            }
        )

    @property
    def bytes_per_prompt(self) -> int:
        """What a prompt takes on disk."""
        # Arrow keeps a 4-byte offset beside every row, and one beside every prompt.
        row = self.d_in * np.dtype(self.dtype).itemsize + 4
        acts = len(self.row_columns) * (self.rows_per_prompt * row + 4)
        positions = len(self.position_columns) * self.rows_per_prompt * 2
        return acts + positions + 4 * self.tokens_per_prompt + 8

    def encode(self, columns: Mapping[str, torch.Tensor]) -> pa.RecordBatch:
        """Some prompts as a piece of the table: (N, D) and (N,) of each column, (P,) of the last.

        The arrays share the tensors' memory: `datasets` itself would go through every number.
        """
        schema = self.features.arrow_schema
        arrays = [self._array(columns[field.name], field) for field in schema]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _array(self, values: torch.Tensor, field: pa.Field) -> pa.Array:
        flat = pa.array(values.reshape(-1).numpy())
        if field.name in self.row_columns:
            rows = pa.ListArray.from_arrays(_offsets(len(flat), self.d_in), flat)
            prompts = pa.ListArray.from_arrays(_offsets(len(rows), self.rows_per_prompt), rows)
            return pa.ExtensionArray.from_storage(field.type, prompts)
        if field.name == DATASET_ROWS_READ:
            return flat
        n = self.tokens_per_prompt if field.name == TOKEN_IDS else self.rows_per_prompt
        return pa.FixedSizeListArray.from_arrays(flat, n).cast(field.type)


def _offsets(n_values: int, length: int) -> pa.Array:
    return pa.array(np.arange(0, n_values + 1, length, dtype=np.int32))
