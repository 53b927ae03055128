"""Reads cached activations from disk, without a copy.

Shapes: P prompts, T tokens of a prompt, N rows of P prompts, D = d_in.
"""

from pathlib import Path

import datasets
import pyarrow as pa
import torch
from datasets import Dataset

from sae_lens_groups import files
from sae_lens_groups.cache.layout import DATASET_ROWS_READ, TOKEN_IDS, position_column
from sae_lens_groups.cache.manifest import CacheManifest
from sae_lens_groups.errors import CacheError
from sae_lens_groups.json_kinds import MISREAD
from sae_lens_groups.layers import LayerGroup


class CachedActivations:
    """A folder of cached activations.

    The tensors it returns share the mapped file's memory, which the system reads from disk where it
    is touched and which nobody may write to: pick rows out of them.

    Raises:
        CacheError: the folder is missing, holds no cached activations, or damaged ones.
    """

    def __init__(self, folder: Path | str) -> None:
        folder = files.expanded(folder)
        self.manifest = CacheManifest.load(folder)
        try:
            dataset = datasets.load_from_disk(str(folder), keep_in_memory=False)
        except (OSError, pa.ArrowException, *MISREAD) as error:
            raise CacheError(
                f"cached_activations_path {str(folder)!r} is damaged: {error}; write the "
                "activations again with `sae-lens-groups cache`"
            ) from error
        n_prompts = self.manifest.n_prompts
        assert isinstance(dataset, Dataset)
        if len(dataset) != n_prompts or dataset.features != self.manifest.layout.features:
            raise CacheError(
                f"cached_activations_path {str(folder)!r} is damaged: it holds {len(dataset)} of "
                f"{n_prompts} prompts, or other columns than it should; write the activations "
                "again with `sae-lens-groups cache`"
            )
        # Not by row or format: `datasets` would decode and copy every number of a column.
        self._table = dataset.data

    def token_ids_PT(self, prompts: range) -> torch.Tensor:
        """The tokens that the rows belong to."""
        return self._flat(TOKEN_IDS, prompts).view(len(prompts), -1).long()

    def dataset_rows_read(self, prompts: range) -> int:
        """Rows of the dataset that had been read, from its first on, for these prompts."""
        return int(self._flat(DATASET_ROWS_READ, prompts)[-1])

    def rows_ND(self, column: str, prompts: range) -> torch.Tensor:
        """The activations of a hook, or the drawn ones of a group, prompt by prompt."""
        return self._flat(column, prompts).view(-1, self.manifest.layout.d_in)

    def positions_N(self, group: LayerGroup, prompts: range) -> torch.Tensor:
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
