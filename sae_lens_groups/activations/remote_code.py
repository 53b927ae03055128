"""No code that comes with a model or a dataset runs because a suite or a file asks for it."""

import warnings
from collections.abc import Mapping
from typing import Any

import datasets

from sae_lens_groups.errors import ConfigError

_MODEL = "model_from_pretrained_kwargs"
_DATASET = "dataset_trust_remote_code"

# What says how a model's weights are read and where they lie. Everything else may load programs:
# `trust_remote_code` and `code_revision` plainly, `weights_only` through pickles, and so on.
_HARMLESS = frozenset(
    [
        "cache_dir",
        "center_unembed",
        "center_writing_weights",
        "checkpoint_index",
        "checkpoint_value",
        "default_padding_side",
        "default_prepend_bos",
        "device_map",
        "dtype",
        "first_n_layers",
        "fold_ln",
        "fold_value_biases",
        "force_download",
        "local_files_only",
        "low_cpu_mem_usage",
        "max_memory",
        "move_to_device",
        "n_ctx",
        "n_devices",
        "refactor_factored_attn_matrices",
        "revision",
        "subfolder",
        "torch_dtype",
        "use_cache",
        "variant",
    ]
)
# Any other name is that of a program on the Hub.
_ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")


def require_no_remote_code(model_kwargs: object, asked_by: str, to_do: str) -> None:
    """Refuses settings of a model's loader that may run code, where the user did not give them.

    `asked_by` is what they come from, and `to_do` how the user can ask for it.
    """
    if model_kwargs is None:
        return
    if not isinstance(model_kwargs, Mapping):
        raise ConfigError(
            f"{asked_by} has {_MODEL}={model_kwargs!r}, which is not a set of settings"
        )
    asked = [f"{name}={value!r}" for name, value in model_kwargs.items() if _asks(name, value)]
    if asked:
        raise ConfigError(
            f"{asked_by} asks to load the model with {', '.join(asked)}, which may run the code "
            f"that comes with it; if you trust that, {to_do}"
        )


def without_remote_code(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a file, in which the code of a dataset is not asked for."""
    # SAELens has it on by default; versions of datasets from 4 on run no code at all.
    if settings.get(_DATASET) and int(datasets.__version__.split(".")[0]) < 4:
        warnings.warn(
            f"{_DATASET} of the config_file is left out, so no code of the dataset is run; if you "
            f"trust it, give --{_DATASET} True",
            stacklevel=4,
        )
    return {**settings, _DATASET: False} if _DATASET in settings else dict(settings)


def _asks(name: str, value: Any) -> bool:
    if name == "trust_remote_code":
        return value is not False and value is not None
    if name == "attn_implementation":
        return value not in _ATTENTION
    return name not in _HARMLESS
