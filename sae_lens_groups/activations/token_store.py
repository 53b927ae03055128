"""The tokens of a dataset, LM batch by LM batch, and how far they were read."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from sae_lens import ActivationsStore
from sae_lens.util import get_special_token_ids
from safetensors.torch import load_file
from tqdm.auto import tqdm
from transformer_lens import HookedRootModule
from typing_extensions import override

from sae_lens_groups.activations.model import d_vocab
from sae_lens_groups.errors import DatasetError, in_one_line

_N_SEQUENCES = "n_sequences"
_TO_DO = "correct the row, or leave it out"


class TokenStore(ActivationsStore):
    """SAELens's store as a source of tokens, which goes on exactly where a checkpoint was."""

    source_name = "dataset"
    """What is read, for messages."""
    rows_per_token = 1
    """That each group's shuffle buffer gets."""
    _is_resumed = False

    @property
    def buffer_size(self) -> int:
        """Rows per group in the shuffle buffer."""
        return self.n_batches_in_buffer * self.training_context_size

    @property
    def shape_of_lm_batch(self) -> tuple[int, int]:
        """Prompts, and tokens of each."""
        return self.store_batch_size_prompts, self.context_size

    @property
    def device_of_tokens(self) -> torch.device:
        """Where the language model takes them."""
        return next(self.model.parameters()).device

    @property
    def place(self) -> int:
        """Where in the dataset it is, by which `standing_at` finds an LM batch again."""
        return self.n_dataset_processed

    @property
    def place_in_text(self) -> tuple[int, int]:
        """How far it has read, which rises with every LM batch: rows in all, and prompts since the
        dataset started over."""
        return self.n_dataset_processed, self._sequences.n_taken

    @contextlib.contextmanager
    def standing_at(self, place: int) -> Iterator[None]:
        """For the block where it, or one of the same dataset, was behind an LM batch."""
        here, self.n_dataset_processed = self.n_dataset_processed, place
        try:
            yield
        finally:
            self.n_dataset_processed = here

    def next_tokens(self, raise_at_epoch_end: bool = False) -> torch.Tensor:
        """The next LM batch of tokens, (prompts, context), as `get_batch_tokens` gives it."""
        return self.get_batch_tokens(raise_at_epoch_end=raise_at_epoch_end)

    @override
    def get_batch_tokens(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The next LM batch of tokens.

        Raises:
            DatasetError: names the row that cannot be read, or holds what the model does not know.
        """
        batch_tokens = super().get_batch_tokens(*args, **kwargs)
        lowest, highest = batch_tokens.aminmax()
        n_known = d_vocab(self.model)
        if lowest < 0 or highest >= n_known:
            is_unknown = (batch_tokens < 0) | (batch_tokens >= n_known)
            n_behind = len(batch_tokens) - 1 - int(is_unknown.any(1).nonzero()[0])
            row = self.n_dataset_processed + 1 - (n_behind if self.is_dataset_tokenized else 0)
            raise DatasetError(
                f"row {row:,} of the {self.source_name} holds token "
                f"{int(batch_tokens[is_unknown][0])}, but the model's vocabulary ends at "
                f"{n_known - 1}; {_TO_DO}"
            )
        return batch_tokens

    def trained_tokens(self, batch_tokens: torch.Tensor) -> torch.Tensor:
        """Of an LM batch of tokens those that are trained on."""
        return batch_tokens[:, slice(*self.seqpos_slice)]

    def require_filled_buffer(self, n_tokens: int) -> None:
        """Refuses a dataset that ended after so many tokens, if that is too early."""
        if n_tokens * self.rows_per_token < self.buffer_size:
            raise DatasetError(
                f"the {self.source_name} gives {n_tokens:,} tokens in whole batches of "
                f"{self.store_batch_size_prompts} prompts, less than the shuffle buffer of "
                f"n_batches_in_buffer * {self.training_context_size} positions of a prompt = "
                f"{self.buffer_size:,} tokens; use more data, or lower n_batches_in_buffer or "
                "store_batch_size_prompts"
            )

    def token_batches(self) -> Iterator[torch.Tensor]:
        """LM batches of tokens, (prompts, context), starting over where the dataset ends."""
        n_tokens = 0
        is_first_epoch = not self._is_resumed  # which starts in the middle
        while True:
            try:
                batch_tokens = self.next_tokens(raise_at_epoch_end=True)
            except StopIteration:
                batch_tokens = None
            if batch_tokens is None:
                if is_first_epoch:
                    self.require_filled_buffer(n_tokens)
                warnings.warn(
                    f"the {self.source_name} ended after {n_tokens:,} tokens and starts over, without "
                    "the prompts at its end that are no whole batch (store_batch_size_prompts)",
                    stacklevel=1,
                )
                is_first_epoch = False
                batch_tokens = self.next_tokens()
            n_tokens += self.trained_tokens(batch_tokens).numel()
            yield batch_tokens

    def kept_positions(self, batch_tokens: torch.Tensor) -> torch.Tensor:
        """Where the tokens to train on lie among all B of an LM batch."""
        return self.kept(self.trained_tokens(batch_tokens))

    def kept(self, trained_tokens: torch.Tensor) -> torch.Tensor:
        """The same of tokens at trained positions alone."""
        token_ids = trained_tokens.reshape(-1)
        if self.exclude_special_tokens is None:
            return torch.arange(len(token_ids), device=token_ids.device)
        excluded = self.exclude_special_tokens.to(token_ids.device)
        return (~torch.isin(token_ids, excluded)).nonzero().squeeze(1)

    @property
    def iterable_sequences(self) -> Iterator[torch.Tensor]:  # type: ignore[override]
        """The dataset's sequences of `context_size` tokens, from where the last ones were taken."""
        return self._sequences

    @iterable_sequences.setter
    def iterable_sequences(self, sequences: Iterator[torch.Tensor]) -> None:
        # SAELens sets it anew each time the dataset starts over.
        self._sequences = _Counted(sequences, self)

    @override
    def state_dict(self) -> dict[str, torch.Tensor]:
        """How much of the dataset was read, this time round and in all."""
        n_sequences = torch.tensor(self._sequences.n_taken)
        return {**super().state_dict(), _N_SEQUENCES: n_sequences}

    @override
    def load(self, file_path: str) -> None:
        self.load_state_dict(load_file(file_path))

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on where `state_dict` was called.

        Rows may be cut into sequences in their middle, so SAELens's own count of rows does not say
        where that was, and the dataset is read again up to there.
        """
        n_sequences = int(state[_N_SEQUENCES])
        description = "Reading the dataset up to where the checkpoint was"
        for n in tqdm(range(n_sequences), desc=description, unit="seq", leave=False):
            if next(self._sequences, None) is None:
                raise DatasetError(
                    f"the dataset gives {n:,} prompts, and the run that goes on has read "
                    f"{n_sequences:,}; name the dataset that it was trained on"
                )
        self.load_counts(state)

    def load_counts(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on with a checkpoint's count of rows."""
        self.n_dataset_processed = int(state["n_dataset_processed"])
        self._is_resumed = True


class _Counted(Iterator[torch.Tensor]):
    """A store's sequences, counted. Whatever the dataset or the tokenizer raises names the row."""

    def __init__(self, source: Iterator[torch.Tensor], store: TokenStore) -> None:
        self._source = source
        self._store = store
        self.n_taken = 0

    def __next__(self) -> torch.Tensor:
        try:
            sequence = next(self._source)
        except StopIteration:
            raise
        except Exception as error:  # of files, servers, tokenizers and templates
            raise self._bad_row(f"cannot be read: {in_one_line(error)}") from error
        shape, context_size = tuple(sequence.shape), self._store.context_size
        if shape != (context_size,):
            what = f"gives tokens of shape {shape}, and context_size is {context_size}"
            raise self._bad_row(f"{what}; {_TO_DO}")
        self.n_taken += 1
        return sequence

    def _bad_row(self, what: str) -> DatasetError:
        row = self._store.n_dataset_processed + 1
        return DatasetError(f"row {row:,} of the dataset {what}")


def excluded_tokens(
    setting: bool | list[int], model: HookedRootModule, device: torch.device
) -> torch.Tensor | None:
    """The token ids that SAELens's `exclude_special_tokens` setting means."""
    if setting is False:
        return None
    ids = get_special_token_ids(model.tokenizer) if setting is True else setting  # type: ignore[arg-type]
    return torch.tensor(ids, dtype=torch.long, device=device)
