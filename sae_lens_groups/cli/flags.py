"""The config that flags mean: SAELens's own, and those of `GroupSAERunnerConfig`."""

import argparse
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import make_dataclass
from functools import partial
from typing import Any, NoReturn

import simple_parsing
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from sae_lens.saes.sae import TrainingSAEConfig

from sae_lens_groups.activations import (
    known_width,
    require_no_remote_code,
    without_remote_code,
)
from sae_lens_groups.cli.command_line import CommandLine
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError, GroupSAEError


def parse_flags(
    line: CommandLine, defaults: Mapping[str, Any] | None = None, d_sae: int = 1024
) -> GroupSAERunnerConfig[Any]:
    """The config that the flags mean, on top of the file that `--config_file` names.

    Args:
        line: the flags.
        defaults: values of fields that are not given, in place of the config's own.
        d_sae: its value where it is not given; SAELens's command has 1024.
    """
    saved = line.saved
    try:
        defaults = dict(defaults or {})
        if saved is not None and "layer_groups" in saved:  # one of SAELens's own runs has none
            defaults["layer_groups"] = saved["layer_groups"]
        parser = _parser(line.prog, defaults, d_sae, is_partial=saved is not None)
        parsed = parser.parse_args(["--architecture", line.architecture, *line.flags]).cfg
        return parsed if saved is None else _on_top_of(_trusted(saved, line), parsed, line)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}; `{line.prog} --help` lists every flag") from error
    except GroupSAEError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from error


def with_width(cfg: GroupSAERunnerConfig[Any], line: CommandLine) -> GroupSAERunnerConfig[Any]:
    """The config with the width of the model's activations, where `--d_in` does not say it."""
    if line.saved is not None or "sae.d_in" in line.given:
        return cfg
    cfg.sae.d_in = known_width(cfg, ", or give --d_in")
    return cfg


@contextlib.contextmanager
def as_mistakes() -> Iterator[None]:
    """Turns what SAELens and transformers raise for a model, dataset or setting that does not exist
    into a mistake of the user's."""
    try:
        yield
    except GroupSAEError:
        raise
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error


class _Parser(simple_parsing.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse would print the usage of a hundred flags before it."""
        raise argparse.ArgumentError(None, message)


def _parser(
    prog: str, defaults: Mapping[str, Any], d_sae: int, *, is_partial: bool
) -> simple_parsing.ArgumentParser:
    """A parser of every field of the config; `--architecture` decides which SAE fields there are.

    SAELens builds its own the same way, so the flags of both are spelled alike. `is_partial` says
    that the flags are a part of the settings, to be checked once they are whole.
    """
    architectures: Any = {  # the annotation of subgroups takes no partials, though it does
        name: partial(config_class, d_in=512, d_sae=d_sae)
        for name, (_, config_class) in SAE_TRAINING_CLASS_REGISTRY.items()
    }
    sae_field = simple_parsing.subgroups(architectures, default="standard", alias="--architecture")
    fields: list[Any] = [("sae", TrainingSAEConfig, sae_field)]
    fields += [
        (name, type(value), simple_parsing.field(default=value)) for name, value in defaults.items()
    ]
    namespace = {"__post_init__": lambda _: None} if is_partial else {}
    config_class = make_dataclass(
        "GroupSAERunnerConfig",
        fields,
        bases=(GroupSAERunnerConfig,),
        kw_only=True,
        namespace=namespace,
    )
    parser = _Parser(prog=prog, add_help=False, exit_on_error=False)
    parser.add_arguments(config_class, dest="cfg")
    return parser


def _trusted(saved: dict[str, Any], line: CommandLine) -> dict[str, Any]:
    """The saved settings without code that the command line does not ask for."""
    if "model_from_pretrained_kwargs" not in line.given:
        require_no_remote_code(
            saved.get("model_from_pretrained_kwargs"),
            "config_file",
            "say so with --model_from_pretrained_kwargs",
        )
    return saved if "dataset_trust_remote_code" in line.given else without_remote_code(saved)


def _on_top_of(
    saved: dict[str, Any], parsed: GroupSAERunnerConfig[Any], line: CommandLine
) -> GroupSAERunnerConfig[Any]:
    """The saved settings, with those replaced that the command line gave."""
    flags: dict[str, Any] = {"layer_groups": parsed.layer_groups}
    for field in line.given:
        *section, name = field.split(".")
        if not section:
            if name != "sae":  # the architecture is the file's own
                flags[name] = getattr(parsed, name)
            continue
        (part,) = section  # sae or logger
        values = flags.setdefault(part, dict(saved[part]))
        values[name] = getattr(getattr(parsed, part), name)
    return GroupSAERunnerConfig.from_saved(saved, **flags)
