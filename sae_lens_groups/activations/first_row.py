"""What a dataset's first row and the tokenizer tell before the language model is loaded."""

import warnings
from typing import Any

import torch
from datasets import IterableDataset
from transformer_lens import HookedRootModule

from sae_lens_groups.activations.dataset import (
    TOKEN_COLUMNS,
    first_row,
    named,
    pretokenized_as,
    require_same_tokenizer,
)
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError, DatasetError, quoted

_CHAT_COLUMNS = ("conversation", "conversations", "messages", "text")
_TEXT_COLUMNS = ("text", "problem")


def require_usable_first_row(
    cfg: GroupSAERunnerConfig[Any], dataset: IterableDataset, dataset_path: str | None
) -> None:
    """Refuses a dataset whose first row SAELens could not make prompts of."""
    column, given = known_column(dataset, dataset_path, is_chat=cfg.use_chat_formatting)
    what = f"{named(dataset_path)} begins with {column} {quoted(given)}"
    if column in _TEXT_COLUMNS and not isinstance(given, str):
        raise DatasetError(f"{what}, which is no text")
    if column in TOKEN_COLUMNS and not _is_list_of_ids(given):
        raise DatasetError(f"{what}, which is no list of token ids; tokenise it, or call it text")
    if column in TOKEN_COLUMNS and len(given) < cfg.context_size:
        raise DatasetError(
            f"{named(dataset_path)} begins with {len(given)} {column}, less than context_size="
            f"{cfg.context_size}; lower it, or tokenise with a larger one"
        )


def known_column(
    dataset: IterableDataset, dataset_path: str | None, *, is_chat: bool = False
) -> tuple[str, Any]:
    """The column that SAELens would make prompts of, and what the first row holds there.

    Raises:
        DatasetError: there is no row, or no such column.
    """
    row = first_row(dataset, dataset_path)
    known = _CHAT_COLUMNS if is_chat else (*TOKEN_COLUMNS, *_TEXT_COLUMNS)
    column = next((name for name in known if name in row), None)
    if column is None:
        names = f"{', '.join(row)}, and none of {', '.join(known)}"
        raise DatasetError(f"{named(dataset_path)} has the columns {names}; rename one of them")
    return column, row[column]


def _is_list_of_ids(given: Any) -> bool:
    try:
        tokens = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        return False
    return tokens.ndim == 1 and not tokens.is_floating_point()


def require_as_pretokenized(
    cfg: GroupSAERunnerConfig[Any],
    dataset_path: str | None,
    override_model: HookedRootModule | None,
) -> None:
    """Refuses what SAELens's pretokenizer made in another way than the run is to read it.

    Its `sae_lens.json` says how. How long rows are is seen in the first one.

    Raises:
        DatasetError: another tokenizer made the tokens.
        ConfigError: its rows begin with BOS and prepend_bos is False, or the other way round.
    """
    said = {} if dataset_path is None else pretokenized_as(dataset_path)
    if dataset_path is None or not said:
        return
    tokenizer = getattr(override_model, "tokenizer", None)
    if override_model is None and (tokenizer := _tokenizer_before_loading(cfg)) is not None:
        with warnings.catch_warnings():  # it warns again once the model is loaded
            warnings.simplefilter("ignore")
            require_same_tokenizer(dataset_path, tokenizer)
    first, bos = said.get("begin_batch_token"), getattr(tokenizer, "bos_token_id", None)
    if said.get("use_chat_formatting") or said.get("begin_sequence_token") or bos is None:
        return  # their text decides, or there is no BOS
    begins = first == "bos" or bos == (getattr(tokenizer, f"{first}_token_id", first))
    if begins != cfg.prepend_bos:
        raise ConfigError(
            f"{named(dataset_path)} was tokenised with begin_batch_token {first!r}, so its rows begin "
            f"{'with' if begins else 'without'} BOS, and prepend_bos is {cfg.prepend_bos}; set it to "
            f"{begins}, or tokenise again"
        )


def require_chat_template(
    cfg: GroupSAERunnerConfig[Any], override_model: HookedRootModule | None
) -> None:
    """Refuses chats for a model whose tokenizer has no template for them, if that can be seen."""
    if not cfg.use_chat_formatting:
        return
    tokenizer = getattr(override_model, "tokenizer", None)
    if override_model is None:
        tokenizer = _tokenizer_before_loading(cfg)
    if tokenizer is not None and getattr(tokenizer, "chat_template", None) is None:
        raise ConfigError(
            f"use_chat_formatting is True, and the tokenizer of {cfg.model_name!r} has no chat "
            "template; name a model that was trained on chats, or leave use_chat_formatting out"
        )


def _tokenizer_before_loading(cfg: GroupSAERunnerConfig[Any]) -> Any:
    from transformer_lens.loading_from_pretrained import get_official_model_name
    from transformers import AutoTokenizer

    name = cfg.model_name
    try:
        if cfg.model_class_name == "HookedTransformer":
            name = get_official_model_name(name)
        return AutoTokenizer.from_pretrained(name)
    except Exception:  # any failure here shows again, with its own message, when the model loads
        return None
