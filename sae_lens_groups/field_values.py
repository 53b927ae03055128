"""What each field of a config takes, said by the field alone."""

import math
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sae_lens_groups.errors import ConfigError, UnknownNameError, first_line, quoted

# Devices may be torch's own objects and are tried out; SAELens takes more normalisations than it
# declares, and more kinds of `sae` than one. Each has a check of its own.
_CHECKED_ELSEWHERE = frozenset(
    {"sae", "dtype", "device", "llm_device", "act_store_device", "normalize_activations"}
)
_AT_LEAST_1 = (
    "context_size train_batch_size_tokens store_batch_size_prompts n_batches_in_buffer d_in d_sae "
    "eval_batch_size_prompts feature_sampling_window n_restart_cycles keep_checkpoints "
    "wandb_log_frequency eval_every_n_wandb_logs plan_tokens layers_per_token "
    "ranks_per_group"
)
# Of the seed because numpy's generators take no negative one.
_AT_LEAST_0 = "lr lr_end lr_warm_up_steps lr_decay_steps adam_beta1 adam_beta2 seed refit_tokens"
_LOWEST = {**dict.fromkeys(_AT_LEAST_1.split(), 1), **dict.fromkeys(_AT_LEAST_0.split(), 0)}
# SAELens lists the positions of a context.
_BELOW = {"context_size": 100_000_000, "adam_beta1": 1, "adam_beta2": 1}
# What torch takes for a seed; every other whole number is far smaller.
_WHOLE_NUMBERS = range(-(2**63), 2**64)
_NAMES = {
    str: "text",
    int: "a whole number of up to 64 bits",
    float: "a number",
    bool: "True or False",
    NoneType: "None",
}


def require_field_values(config: Any, section: str = "") -> None:
    """Requires what can be required of each field of a dataclass by itself.

    A path may be a `Path`, and a whole number a float such as 1e9 or one of numpy's; the fields
    then get what they declare.

    Args:
        config: SAELens's config or ours, or a part of them.
        section: what a part's fields begin with, such as `sae.`.
    """
    kinds = get_type_hints(type(config))
    for name in (field.name for field in fields(config)):
        if name in _CHECKED_ELSEWHERE:
            continue
        given = getattr(config, name)
        value = _as_declared(given, get_args(kinds[name]) or (kinds[name],))
        if not _fits(value, kinds[name]):
            raise ConfigError(f"{section}{name} is {quoted(given)}; it takes {_named(kinds[name])}")
        if value is not given:
            setattr(config, name, value)
        require_range(section, name, value)


def require_range(section: str, name: str, value: Any) -> None:
    """Refuses a number that this field does not take."""
    if value is None or name not in _LOWEST:
        return
    if value < _LOWEST[name]:
        raise ConfigError(f"{section}{name} is {value}; it has to be at least {_LOWEST[name]}")
    if name in _BELOW and value >= _BELOW[name]:
        raise ConfigError(f"{section}{name} is {value}; it has to be below {_BELOW[name]:,}")


def _as_declared(value: Any, kinds: Iterable[Any]) -> Any:
    if isinstance(value, os.PathLike) and str in kinds:
        return os.fspath(value)
    if isinstance(value, int) or not isinstance(value, Real):
        return value
    if isinstance(value, Integral):
        return int(value)
    number = float(value)
    return int(number) if float not in kinds and number.is_integer() else number


def _fits(value: Any, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in arguments)
    if origin is Literal:
        return isinstance(value, str | int | None) and value in arguments
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(_fits(v, arguments[0]) for v in value)
    if origin is dict:
        return isinstance(value, Mapping)
    if kind is bool:
        return isinstance(value, int)
    if kind is int:
        return isinstance(value, int) and value in _WHOLE_NUMBERS
    if kind is float:
        return isinstance(value, int | float) and -math.inf < value < math.inf
    return not isinstance(kind, type) or isinstance(value, kind)


def _named(kind: Any) -> str:
    """What a type is called in a message."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(map(_named, arguments))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin in (list, tuple):
        return f"a list, each item {_named(arguments[0])}"
    if origin is dict:
        return "a dict"
    return _NAMES.get(kind, f"a {getattr(kind, '__name__', kind)}")


def require_one_of(field: str, name: str, known: Collection[str]) -> None:
    """Refuses a name that is not known."""
    if not isinstance(name, str) or name not in known:
        listed = ", ".join(known if isinstance(known, tuple) else sorted(known))
        raise UnknownNameError(f"{field} {quoted(name)} is not known; known names: {listed}")


def require_known_fields(flags: Mapping[str, Any], names: Collection[str]) -> None:
    """Refuses a name that no field of the config has."""
    for name in flags:
        if name not in names:
            similar = " or ".join(get_close_matches(name, names, n=3))
            meant = f"did you mean {similar}?" if similar else "it has SAELens's fields and ours"
            raise UnknownNameError(f"the config has no field {name!r}; {meant}")


def changed_fields(sae: Any, base: Any) -> Any:
    """The fields in which one SAE's config differs from another's; what is none as it is."""
    if not hasattr(sae, "architecture"):
        return sae
    of_base = base.to_dict()
    found = {name: value for name, value in sae.to_dict().items() if name != "metadata"}
    return {name: value for name, value in found.items() if value != of_base.get(name)}


def as_flag(name: str, value: Any) -> list[str]:
    """The words of a command line that give a field a value; a list takes a word for each item."""
    if (text := str(value).lower()) in ("true", "false"):
        return [f"--{'no' * (text == 'false')}{name}"]
    return [f"--{name}", *map(str, value if isinstance(value, list) else [value])]


def require_k(sae: Any) -> None:
    """Refuses a k that is no number of an SAE's features."""
    k = getattr(sae, "k", None)
    if k is not None and k <= 0:
        raise ConfigError(f"k is {k}; at least one feature has to be active")
    if k is not None and k > sae.d_sae:
        raise ConfigError(
            f"k is {k}, more than the d_sae={sae.d_sae} features; lower k or raise d_sae"
        )


def require_device(name: str, device: str | None) -> None:
    """Refuses a device that torch cannot use here."""
    if device in (None, "with_model"):
        return
    if (reason := why_not_here(device)) is not None:
        raise ConfigError(
            f"{name} is {quoted(device)}, which cannot be used here: {reason}; "
            "name a device such as cpu or cuda:0"
        )


def why_not_here(device: str) -> str | None:
    """Why torch cannot use a device on this machine; None where it can."""
    import torch  # here, because it takes a second that no other check needs

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        return first_line(error)
    return None


def require_threshold(amad_threshold: float) -> None:
    """Refuses a threshold that no plan can mean."""
    if not 0 < amad_threshold <= 0.5:
        raise ConfigError(
            f"amad_threshold is {amad_threshold}; it lies above 0 (one SAE per layer) and is at "
            "most 0.5 (layers at a right angle); the paper's is 0.2"
        )


_POWERS = {"k": "e3", "m": "e6", "b": "e9"}


def whole_number(text: str) -> int:
    """A whole number as people write it: `3000000`, `3_000_000`, `3e6`, `3M`.

    Raises:
        ValueError: it is none.
    """
    text = text.strip().lower()
    text = text[:-1] + _POWERS.get(text[-1:], text[-1:])
    if "e" not in text:
        return int(text)
    number = float(text)
    if not number.is_integer():
        raise ValueError(f"{text!r} is not a whole number")
    return int(number)


def require_norm_multiple(multiple: float) -> None:
    """Refuses a limit that ordinary tokens are beyond."""
    if multiple != 0 and not 1 < multiple < math.inf:
        raise ConfigError(
            f"max_activation_norm_multiple is {multiple}; give a number such as 10, or 0 to train on "
            "every token (1 or less would leave out half of them)"
        )


_SECONDS = {"s": 1, "m": 60, "h": 3600}
_EVERY = re.compile(r"(?P<number>\d+(\.\d+)?) ?(?P<unit>[smh]?)", re.ASCII)


@dataclass(frozen=True)
class Every:
    """How far apart checkpoints are: in seconds, or in training tokens per SAE."""

    seconds: float | None = None
    tokens: int | None = None


def parse_every(text: str) -> Every:
    """What `checkpoint_every` means: `10m`, `30s`, `2h`, or a number of training tokens."""
    match = _EVERY.fullmatch(text.strip().replace("_", ""))
    if match is not None and float(match["number"]) > 0:
        if match["unit"]:
            return Every(seconds=float(match["number"]) * _SECONDS[match["unit"]])
        if match["number"].isdigit():
            return Every(tokens=int(match["number"]))
    raise ConfigError(
        f"checkpoint_every is {text!r}; give a time such as 10m (s, m and h are known), or a whole "
        "number of training tokens"
    )


def underived(values: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `flags` over them, and None for what SAELens is to derive from those anew.

    SAELens fills in `llm_device` from `device`, `lr_end` from `lr` and so on. Taken over as they
    are, a new `device` would leave the language model on the old one.
    """
    merged, lr = {**values, **flags}, values.get("lr")
    derived = {
        "llm_device": ("device", values.get("device")),
        "act_store_device": ("device", values.get("device")),
        "lr_end": ("lr", lr / 10 if isinstance(lr, int | float) else None),
        "model_from_pretrained_kwargs": (
            "model_class_name",
            {"center_writing_weights": False}
            if values.get("model_class_name") == "HookedTransformer"
            else {},
        ),
    }
    for name, (source, value) in derived.items():
        if source in flags and name not in flags and values.get(name) == value:
            merged[name] = None
    return merged
