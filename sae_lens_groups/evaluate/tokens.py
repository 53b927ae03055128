"""The tokens that every layer of every suite is evaluated on."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from sae_lens import SAE, ActivationsStore
from sae_lens.config import HfDataset
from sae_lens.saes.sae import SAEMetadata
from sae_lens.util import get_special_token_ids
from transformer_lens import HookedRootModule

from sae_lens_groups.activations import TokenStore, as_stream, require_positions
from sae_lens_groups.errors import DatasetError, GroupSAEError, SuiteError, quoted

_HOW_PROMPTS_ARE_MADE = {
    "prepend_bos": True,
    "disable_concat_sequences": False,
    "sequence_separator_token": "bos",
}
"""Settings, and what they are where an SAE does not say."""


@dataclass(frozen=True)
class EvaluatedTokens:
    """LM batches of prompts, and which tokens in them do not count: those that training left out.

    With a baseline those that either training left out.
    """

    batches: list[torch.Tensor]
    """Each (prompts, context)."""
    excluded: Sequence[int] = ()
    """Ids of tokens that are left out."""
    seqpos_slices: Sequence[tuple[int | None, ...]] = ((None,),)
    """The positions that count lie in all of these."""
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

    @property
    def left_out(self) -> dict[str, int]:
        """How many tokens do not count, by why; a token counts for the first reason alone."""
        n_positions = int(self._is_trained_T(self.batches[0]).sum())
        by_position = self.n_prompts * (self.context_size - n_positions)
        n_all = self.n_prompts * self.context_size
        special = n_all - by_position - self.n_tokens - self.n_outliers
        return {"by_position": by_position, "special": special, "by_norm": self.n_outliers}

    @property
    def left_out_in_words(self) -> str:
        """`512 by their position, 3 of massive activations`; empty where all count."""
        words = ("by their position", "special", "of massive activations")
        return ", ".join(f"{n:,} {why}" for n, why in zip(self.left_out.values(), words) if n)

    def kept(self, tokens_ST: torch.Tensor) -> torch.Tensor:
        """Which tokens of a batch count, unless they are outliers."""
        excluded = torch.tensor(list(self.excluded), dtype=torch.long, device=tokens_ST.device)
        return ~torch.isin(tokens_ST, excluded) & self._is_trained_T(tokens_ST)

    def _is_trained_T(self, tokens_ST: torch.Tensor) -> torch.Tensor:
        n_slices_T = torch.zeros_like(tokens_ST[0])
        for seqpos_slice in self.seqpos_slices:
            n_slices_T[slice(*seqpos_slice)] += 1
        return n_slices_T == len(self.seqpos_slices)


def read_tokens(
    model: HookedRootModule,
    sae: SAE[Any],
    trained: Sequence[SAEMetadata],
    dataset: HfDataset,
    n_batches: int,
    batch_size_prompts: int,
    context_size: int | None,
) -> EvaluatedTokens:
    """The dataset's first LM batches, made as the runs made them that trained `sae` and others.

    What counts is what all of them were trained for, by the metadata of each. Fewer batches, with a
    warning, where the dataset ends before; none at all is a DatasetError.
    """
    store = token_store(model, sae, trained, dataset, batch_size_prompts, context_size)
    batches = list(lm_batches(store, n_batches))
    tokens = as_in_training(batches, trained, model)
    if not tokens.n_tokens:
        slices = " and ".join(map(str, tokens.seqpos_slices))
        raise DatasetError(
            f"no token of the {tokens.n_prompts} prompts is one that was trained on: of "
            f"{tokens.context_size} positions with seqpos_slice {slices}, "
            f"without the tokens {quoted([*tokens.excluded])}; give other text or context_size"
        )
    return tokens


def as_in_training(
    batches: list[torch.Tensor], trained: Sequence[SAEMetadata], model: HookedRootModule
) -> EvaluatedTokens:
    """These batches, of which those tokens count that all of the trainings kept."""
    excluded = {token: None for of in trained for token in _excluded_tokens(of, model)}
    slices = dict.fromkeys(tuple(of.get("seqpos_slice") or (None,)) for of in trained)
    return EvaluatedTokens(batches, tuple(excluded), tuple(slices))


def token_store(
    model: HookedRootModule,
    sae: SAE[Any],
    trained: Sequence[SAEMetadata],
    dataset: HfDataset,
    batch_size_prompts: int,
    context_size: int | None,
) -> ActivationsStore:
    """The dataset from its start, made into prompts as the runs did that trained `sae` and others."""
    metadata = sae.cfg.metadata
    known = [int(of.context_size) for of in trained if of.context_size is not None]
    context_size = context_size or min(known, default=None)
    require_positions(model, context_size or 0)
    with _rows_refused():
        store = TokenStore.from_sae(
            model,
            sae,
            as_stream(dataset),
            context_size=context_size,
            store_batch_size_prompts=batch_size_prompts,
            disable_concat_sequences=bool(metadata.disable_concat_sequences),
            sequence_separator_token=metadata.get("sequence_separator_token", "bos"),
        )
        if not store.is_dataset_tokenized:
            _require_prompts_alike(trained)
    return store


@contextlib.contextmanager
def _rows_refused() -> Iterator[None]:
    """As a DatasetError what SAELens says of rows that it cannot use."""
    try:
        yield
    except GroupSAEError:
        raise
    except (ValueError, AssertionError) as error:
        raise DatasetError(f"the dataset cannot be used: {' '.join(str(error).split())}") from error


def _require_prompts_alike(trained: Sequence[SAEMetadata]) -> None:
    """Refuses to compare SAEs that were trained on prompts made in two ways of the same text."""
    for name, usual in _HOW_PROMPTS_ARE_MADE.items():
        found = dict.fromkeys(of.get(name, usual) for of in trained)
        if len(found) > 1:
            raise SuiteError(
                f"the suite and the baseline were trained with {name} "
                f"{' and '.join(map(str, found))}, and no prompts of text are those of both; compare "
                "them on tokens (dataset_path), or suites that agree in it"
            )


def lm_batches(store: ActivationsStore, n_batches: int) -> Iterator[torch.Tensor]:
    """The store's first batches, (prompts, context) each; a warning where there are fewer.

    Raises:
        DatasetError: there is none, or a row cannot be used.
    """
    for n_read in range(n_batches):
        try:
            with _rows_refused():
                batch = store.get_batch_tokens(raise_at_epoch_end=True)
        except StopIteration:
            _say_that_it_ended(store, n_read, n_batches)
            return
        yield batch


def _say_that_it_ended(store: ActivationsStore, n_read: int, n_batches: int) -> None:
    few = f"fewer than {n_batches} batches" if n_read else "not one batch"
    given = f"the dataset gives {few} of {store.store_batch_size_prompts} prompts of "
    given += f"{store.context_size} tokens"
    to_lower = "batch_size_prompts (--eval_batch_size_prompts) or context_size"
    if n_read:
        to_lower = f"n_batches (--n_eval_batches), {to_lower}"
    advice = f"use more data, or lower {to_lower}"
    if not n_read:
        raise DatasetError(f"{given}; {advice}") from None
    warnings.warn(f"{given}: {n_read} are evaluated; {advice}", stacklevel=4)


def _excluded_tokens(metadata: SAEMetadata, model: HookedRootModule) -> list[int]:
    """The tokens that training left out; the tokenizer's special ones where the SAE does not say."""
    setting = metadata.get("exclude_special_tokens", True)
    if isinstance(setting, list | tuple):
        return list(setting)
    tokenizer = getattr(model, "tokenizer", None)
    return [] if setting is False or tokenizer is None else get_special_token_ids(tokenizer)
