"""`sae-lens-groups train`: SAELens's training command with groups."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import make_dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import simple_parsing
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from sae_lens.saes.sae import TrainingSAEConfig

from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError, GroupSAEError, UnknownNameError
from sae_lens_groups.runner import GroupSAETrainingRunner

_PROG = "sae-lens-groups train"


def train(args: Sequence[str]) -> int:
    """Trains a suite from command-line flags and says where it lies."""
    cfg = parse_config(args)
    try:
        runner = GroupSAETrainingRunner(cfg)
    except GroupSAEError:
        raise
    except (ValueError, OSError) as error:
        # SAELens and transformers say this way that a model, dataset or setting does not exist.
        raise ConfigError(str(error)) from error
    suite = runner.run()
    n_saes, n_layers = len(runner.groups), len(suite)
    print(f"Trained {n_saes} SAEs for {n_layers} layers.")
    if suite.path is not None:
        hook_name = next(iter(suite))
        print(f"The suite lies in {suite.path}, one plain SAELens SAE per layer:")
        print(f'    SAE.load_from_disk("{suite.path / hook_name}")')
    return 0


def parse_config(args: Sequence[str]) -> GroupSAERunnerConfig[Any]:
    """The config that the flags mean, on top of the file that `--config_file` names.

    Raises:
        GroupSAEError: a flag is unknown, lacks its value, or has an impossible one.
    """
    try:
        saved, flags = _config_file(args)
        _require_known_architecture(flags)
        parser = _parser(saved)
        parsed = parser.parse_args(flags).cfg
        return parsed if saved is None else _on_top_of(saved, parsed, _given(parser, flags))
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}; `{_PROG} --help` lists every flag") from error
    except GroupSAEError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from error


def _require_known_architecture(flags: Sequence[str]) -> None:
    # simple_parsing looks the SAE's flags up in a parser of its own, which would exit by itself.
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--architecture", default="standard")
    name = parser.parse_known_args(list(flags))[0].architecture
    if name not in SAE_TRAINING_CLASS_REGISTRY:
        raise UnknownNameError(
            f"architecture {name!r} is not known; known architectures: "
            f"{', '.join(sorted(SAE_TRAINING_CLASS_REGISTRY))}"
        )


def _config_file(args: Sequence[str]) -> tuple[dict[str, Any] | None, list[str]]:
    """What `--config_file` holds, and the other arguments."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config_file", type=Path)
    found, rest = parser.parse_known_args(list(args))
    if found.config_file is None:
        return None, rest
    try:
        saved = json.loads(found.config_file.read_text(encoding="utf-8"))
        architecture = saved["sae"]["architecture"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"config_file {str(found.config_file)!r} cannot be read: {error!r}; name the "
            "runner_cfg.json that SAELens wrote beside a trained SAE"
        ) from error
    if "--architecture" in rest or any(arg.startswith("--architecture=") for arg in rest):
        raise ConfigError(
            f"--architecture cannot be changed together with --config_file, whose SAE is "
            f"{architecture!r} and has settings of its own; leave one of them out"
        )
    return saved, ["--architecture", architecture, *rest]


class _Parser(simple_parsing.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse would print the usage of a hundred flags before it."""
        raise argparse.ArgumentError(None, message)


def _parser(saved: dict[str, Any] | None) -> simple_parsing.ArgumentParser:
    """A parser of every field of the config; `--architecture` decides which SAE fields there are.

    SAELens builds its own the same way, so the flags of both are spelled alike.
    """
    architectures: Any = {  # the annotation of subgroups takes no partials, though it does
        name: partial(config_class, d_in=512, d_sae=1024)
        for name, (_, config_class) in SAE_TRAINING_CLASS_REGISTRY.items()
    }
    sae_field = simple_parsing.subgroups(architectures, default="standard", alias="--architecture")
    # Inside a file, layer_groups may be absent: then it has to be on the command line.
    layer_groups = (saved or {}).get("layer_groups")
    fields: list[Any] = [("sae", TrainingSAEConfig, sae_field)]
    if layer_groups is not None:
        fields.append(("layer_groups", str, simple_parsing.field(default=layer_groups)))
    # Beside a file the flags are a part of the settings, to be checked once they are whole.
    namespace = {} if saved is None else {"__post_init__": lambda _: None}
    config_class = make_dataclass(
        "GroupSAERunnerConfig",
        fields,
        bases=(GroupSAERunnerConfig,),
        kw_only=True,
        namespace=namespace,
    )
    parser = _Parser(
        prog=_PROG,
        description="Trains one SAE per group of layers. Takes every flag of SAELens's training "
        "command, and --layer_groups.",
        epilog="--config_file runner_cfg.json starts from the settings of an earlier SAELens run; "
        "flags given beside it win.",
        exit_on_error=False,
        # Beside a file, the flags given are looked up by their whole names.
        allow_abbrev=saved is None,
    )
    parser.add_arguments(config_class, dest="cfg")
    return parser


def _given(parser: argparse.ArgumentParser, flags: Sequence[str]) -> list[str]:
    """Where in the config the flags on the command line belong, such as `cfg.sae.k`."""
    names = {flag.split("=", 1)[0] for flag in flags if flag.startswith("-")}
    return [
        action.dest
        for action in parser._actions  # argparse has no public list of its arguments
        if not names.isdisjoint(action.option_strings) and action.dest.startswith("cfg.")
    ]


def _on_top_of(
    saved: dict[str, Any], parsed: GroupSAERunnerConfig[Any], destinations: Sequence[str]
) -> GroupSAERunnerConfig[Any]:
    """The saved settings, with those replaced that the command line gave."""
    flags: dict[str, Any] = {"layer_groups": parsed.layer_groups}
    for destination in destinations:
        *section, name = destination.split(".")[1:]
        if not section:
            if name != "sae":  # the architecture is the file's own
                flags[name] = getattr(parsed, name)
            continue
        (part,) = section  # sae or logger
        values = flags.setdefault(part, dict(saved[part]))
        values[name] = getattr(getattr(parsed, part), name)
    return GroupSAERunnerConfig.from_saved(saved, **flags)
