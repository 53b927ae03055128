"""The flags of `train` and `plan`: SAELens's own, and those of `GroupSAERunnerConfig`."""

import argparse
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import simple_parsing
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from sae_lens.saes.sae import TrainingSAEConfig
from typing_extensions import override

from sae_lens_groups import files
from sae_lens_groups.activations import require_no_remote_code, without_remote_code
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError, GroupSAEError, SuiteError, UnknownNameError, quoted
from sae_lens_groups.files import MISREAD, CheckedFolder, require_kinds


@dataclass(frozen=True)
class ParsedFlags:
    """A config from the command line."""

    cfg: GroupSAERunnerConfig[Any]
    given: frozenset[str]
    """The fields that the flags gave, such as `sae.d_sae`."""
    has_file: bool
    """Whether a file gave all the others; they have defaults otherwise."""


def parse_flags(
    command: str,
    args: Sequence[str],
    defaults: Mapping[str, Any] | None = None,
    d_sae: int = 1024,
) -> ParsedFlags:
    """The config that the flags mean, on top of the file that `--config_file` names.

    Args:
        command: the command they were given to.
        args: the flags.
        defaults: values of fields that are not given, in place of the config's own.
        d_sae: its value where it is not given; SAELens's command has 1024.

    Raises:
        GroupSAEError: a flag is unknown, lacks its value, or has an impossible one.
    """
    prog = f"sae-lens-groups {command}"
    try:
        if (message := _lack_of_value(args)) is not None:
            raise argparse.ArgumentError(None, message)
        saved, flags = _config_file(args)
        _require_known_architecture(flags)
        defaults = dict(defaults or {})
        if saved is not None and "layer_groups" in saved:  # one of SAELens's own runs has none
            defaults["layer_groups"] = saved["layer_groups"]
        parser = _parser(prog, defaults, d_sae, is_partial=saved is not None)
        parsed = parser.parse_args(flags).cfg
        given = _given(parser, flags)
        cfg = parsed if saved is None else _on_top_of(_trusted(saved, given), parsed, given)
        return ParsedFlags(cfg, frozenset(given), has_file=saved is not None)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}; `{prog} --help` lists every flag") from error
    except GroupSAEError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from error


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
    _require_unaltered(found.config_file)
    try:
        saved = files.parse_json(found.config_file.read_text(encoding="utf-8"))
        require_kinds(saved, {"sae": dict, "logger": dict})
        require_kinds(saved["sae"], {"architecture": str})
        architecture = saved["sae"]["architecture"]
    except (OSError, *MISREAD) as error:
        raise ConfigError(
            f"config_file {str(found.config_file)!r} cannot be read: {quoted(error)}; name the "
            "runner_cfg.json that SAELens wrote beside a trained SAE"
        ) from error
    if "--architecture" in rest or any(arg.startswith("--architecture=") for arg in rest):
        raise ConfigError(
            f"--architecture cannot be changed together with --config_file, whose SAE is "
            f"{architecture!r} and has settings of its own; leave one of them out"
        )
    return saved, ["--architecture", architecture, *rest]


def _require_unaltered(config_file: Path) -> None:
    """Refuses the settings in a suite that are not those that were written with it.

    Raises:
        ConfigError: they were altered since.
    """
    try:
        suite = CheckedFolder(config_file.parent)
        if config_file.name == files.RUNNER_CFG and suite.checksums is not None:
            suite.file(files.RUNNER_CFG)
    except SuiteError as error:
        raise ConfigError(
            f"config_file {str(config_file)!r} cannot be used: {error}; to train with other "
            "settings, give them as flags, or edit a copy of that file elsewhere"
        ) from error


def _lack_of_value(args: Sequence[str]) -> str | None:
    """What is wrong with a flag such as `--lr=--`: Python 3.11 makes an empty list of that."""
    for arg in args:
        if arg.startswith("--") and arg.endswith("=--"):
            return f"argument {arg.removesuffix('=--')}: expected one argument"
    return None


class OwnFlags(argparse.ArgumentParser):
    """Reads the flags that a command has beside those of the config, or instead of them."""

    @override
    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]  # it has overloads
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        if (message := _lack_of_value(args or ())) is not None:
            self.error(message)
        return super().parse_known_args(args, namespace)

    @override
    def error(self, message: str) -> NoReturn:
        """One line, as for every other mistake."""
        raise ConfigError(f"{message}; `{self.prog} --help` lists the flags")


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
    parser = _Parser(
        prog=prog,
        description="Trains one SAE per group of layers. Takes every flag of SAELens's training "
        "command, and --layer_groups.",
        epilog="--config_file runner_cfg.json starts from the settings of an earlier SAELens run; "
        "flags given beside it win.",
        exit_on_error=False,
    )
    parser.add_arguments(config_class, dest="cfg")
    return parser


def _given(parser: argparse.ArgumentParser, flags: Sequence[str]) -> list[str]:
    """The fields that the flags on the command line give, such as `sae.k`."""
    # argparse has no public list of its arguments.
    field_of = {
        option: action.dest.removeprefix("cfg.")
        for action in parser._actions
        for option in action.option_strings
        if action.dest.startswith("cfg.")
    }
    given = [flag.split("=", 1)[0] for flag in flags if flag.startswith("--")]
    # argparse takes the beginning of a flag for the flag, where only one begins like that.
    whole = [
        name if name in field_of else next((o for o in field_of if o.startswith(name)), name)
        for name in given
    ]
    return [field_of[name] for name in whole if name in field_of]


def _trusted(saved: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """The saved settings without code that the command line does not ask for.

    Raises:
        ConfigError: the model is to be loaded with some.
    """
    if "model_from_pretrained_kwargs" not in given:
        require_no_remote_code(
            saved.get("model_from_pretrained_kwargs"),
            "config_file",
            "say so with --model_from_pretrained_kwargs",
        )
    return saved if "dataset_trust_remote_code" in given else without_remote_code(saved)


def _on_top_of(
    saved: dict[str, Any], parsed: GroupSAERunnerConfig[Any], given: Sequence[str]
) -> GroupSAERunnerConfig[Any]:
    """The saved settings, with those replaced that the command line gave."""
    flags: dict[str, Any] = {"layer_groups": parsed.layer_groups}
    for field in given:
        *section, name = field.split(".")
        if not section:
            if name != "sae":  # the architecture is the file's own
                flags[name] = getattr(parsed, name)
            continue
        (part,) = section  # sae or logger
        values = flags.setdefault(part, dict(saved[part]))
        values[name] = getattr(getattr(parsed, part), name)
    return GroupSAERunnerConfig.from_saved(saved, **flags)
