"""The tokens that every layer of every suite is evaluated on."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from sae_lens import SAE, ActivationsStore
from sae_lens.config import HfDataset
from sae_lens.util import get_special_token_ids
from transformer_lens import HookedRootModule

from sae_lens_groups.activations import TokenStore, as_stream, require_positions
from sae_lens_groups.errors import DatasetError


@dataclass(frozen=True)
class EvaluatedTokens:
    """LM batches of prompts, and which tokens in them do not count: those that training left out."""

    batches: list[torch.Tensor]
    """Each (prompts, context)."""
    excluded: Sequence[int] = ()
    """Ids of tokens that are left out."""
    seqpos_slice: tuple[int | None, ...] = (None,)
    """The positions that count."""
    n_outliers: int = 0
    """Tokens of massive activations, which do not count either; known once they were evaluated."""

    @property
    def n_prompts(self) -> int:
        """In all batches."""
        return sum(map(len, self.batches))

    @property
    def context_size(self) -> int:
        """Tokens per prompt."""
        return self.batches[0].shape[1]

    @cached_property
    def n_tokens(self) -> int:
        """Tokens that count, in all batches."""
        return sum(int(self.kept(batch).sum()) for batch in self.batches) - self.n_outliers

    def kept(self, tokens_ST: torch.Tensor) -> torch.Tensor:
        """Which tokens of a batch count, unless they are outliers."""
        excluded = torch.tensor(list(self.excluded), dtype=torch.long, device=tokens_ST.device)
        is_in_slice_T = torch.zeros(tokens_ST.shape[1], dtype=torch.bool, device=tokens_ST.device)
        is_in_slice_T[slice(*self.seqpos_slice)] = True
        return ~torch.isin(tokens_ST, excluded) & is_in_slice_T


def read_tokens(
    model: HookedRootModule,
    sae: SAE[Any],
    dataset: HfDataset,
    n_batches: int,
    batch_size_prompts: int,
    context_size: int | None,
) -> EvaluatedTokens:
    """The dataset's first LM batches, made as the run that trained `sae` made them.

    Fewer batches, with a warning, where the dataset ends before; none at all is a DatasetError.
    """
    metadata = sae.cfg.metadata
    require_positions(model, context_size or int(metadata.context_size))
    try:
        store = TokenStore.from_sae(
            model,
            sae,
            as_stream(dataset),
            context_size=context_size,
            store_batch_size_prompts=batch_size_prompts,
            disable_concat_sequences=bool(metadata.disable_concat_sequences),
            sequence_separator_token=metadata.get("sequence_separator_token", "bos"),
        )
        batches = _read(store, n_batches)
    except DatasetError:
        raise
    except (ValueError, AssertionError) as error:  # SAELens's, of rows that it cannot use
        raise DatasetError(f"the dataset cannot be used: {' '.join(str(error).split())}") from error
    seqpos_slice = tuple(metadata.get("seqpos_slice") or (None,))
    return EvaluatedTokens(batches, _excluded_tokens(sae, model), seqpos_slice)


def _read(store: ActivationsStore, n_batches: int) -> list[torch.Tensor]:
    batches: list[torch.Tensor] = []
    try:
        while len(batches) < n_batches:
            batches.append(store.get_batch_tokens(raise_at_epoch_end=True))
    except StopIteration:
        given = f"the dataset gives fewer than {n_batches if batches else 1} batches of "
        given += f"{store.store_batch_size_prompts} prompts of {store.context_size} tokens"
        advice = "use more data, or lower n_batches, batch_size_prompts or context_size"
        if not batches:
            raise DatasetError(f"{given}; {advice}") from None
        warnings.warn(f"{given}: {len(batches)} are evaluated; {advice}", stacklevel=4)
    return batches


def _excluded_tokens(sae: SAE[Any], model: HookedRootModule) -> list[int]:
    """The tokens that training left out; the tokenizer's special ones where the SAE does not say."""
    setting = sae.cfg.metadata.get("exclude_special_tokens", True)
    if isinstance(setting, list | tuple):
        return list(setting)
    tokenizer = getattr(model, "tokenizer", None)
    return [] if setting is False or tokenizer is None else get_special_token_ids(tokenizer)
