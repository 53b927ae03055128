"""What a command line says, before SAELens is imported, so that a slip in it shows at once."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from typing_extensions import override

from sae_lens_groups import files
from sae_lens_groups.cli.fields import DEFAULT_ARCHITECTURE, Field, architectures, config_fields
from sae_lens_groups.errors import ConfigError, SuiteError, quoted, reason
from sae_lens_groups.field_values import require_range, whole_number
from sae_lens_groups.files import MISREAD, CheckedFolder, require_kinds
from sae_lens_groups.layers import parse_ranges

_READ: dict[str, Callable[[str], float]] = {"int": whole_number, "float": float}
_RANGES = re.compile(r"[\d\s,-]*\d[\d\s,-]*")
# What others call them, where it is not the beginning of the name.
_SYNONYMS = {
    "learning_rate": "lr",
    "batch_size": "train_batch_size_tokens",
    "groups": "layer_groups",
}


@dataclass(frozen=True)
class CommandLine:
    """The flags of the config, each known, spelled out and of a possible value."""

    prog: str
    architecture: str
    flags: list[str]
    given: dict[str, str | None]
    """The fields that they set, such as `sae.k`, and the value of each."""
    saved: dict[str, Any] | None
    """What `--config_file` holds."""


def read_command_line(
    parser: "ConfigFlags", args: Sequence[str]
) -> tuple[argparse.Namespace, CommandLine]:
    """A command's own flags, and those of the config.

    Raises:
        GroupSAEError: one is unknown, lacks its value, or has an impossible one.
    """
    own, rest = parser.parse_known_args(list(args))
    saved = None if own.config_file is None else _config_file(own.config_file, own.architecture)
    architecture = saved["sae"]["architecture"] if saved else own.architecture
    flags, given = _spelled_out(parser, rest, architecture or DEFAULT_ARCHITECTURE)
    if parser.needs_layer_groups and "layer_groups" not in {**given, **(saved or {})}:
        parser.error("the following arguments are required: --layer_groups")
    return own, CommandLine(parser.prog, architecture or DEFAULT_ARCHITECTURE, flags, given, saved)


def announce(line: CommandLine | None = None) -> None:
    """Says at once that something happens: what comes next imports SAELens, which takes seconds.

    With `--noverbose` it says nothing, and there are no progress bars.
    """
    if "tqdm" in sys.modules:  # which reads its settings when it is imported
        return
    if os.environ.get("RANK", "0") != "0":  # the first of several processes says it
        return
    if line is not None and "--noverbose" in line.flags:
        os.environ.setdefault("TQDM_DISABLE", "1")
    else:
        print("Importing torch and SAELens ...", file=sys.stderr, flush=True)


class OwnFlags(argparse.ArgumentParser):
    """Reads the flags that a command has beside those of the config, or instead of them."""

    def __init__(self, command: str, **settings: Any) -> None:
        super().__init__(prog=f"sae-lens-groups {command}", allow_abbrev=False, **settings)

    @override
    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]  # it has overloads
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        for arg in args or ():
            if arg.startswith("--") and arg.endswith("=--"):  # Python 3.11 makes a list of that
                self.error(f"argument {arg.removesuffix('=--')}: expected one argument")
        return super().parse_known_args(args, namespace)

    @override
    def error(self, message: str, known: Iterable[str] = ()) -> NoReturn:
        """One line, where argparse would print the usage before it; with a flag that is like one
        that is unknown."""
        _, is_unknown, flags = message.partition("unrecognized arguments: ")
        if is_unknown:
            message += _similar(flags.partition(" ")[0], [*self._option_string_actions, *known])
        raise ConfigError(f"{message}; `{self.prog} --help` lists the flags")


class ConfigFlags(OwnFlags):
    """The same for a command that takes the flags of the config too, each its own parser's."""

    def __init__(self, command: str, needs_layer_groups: bool = False, **settings: Any) -> None:
        super().__init__(command, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)
        self.needs_layer_groups = needs_layer_groups
        self.add_argument(
            "--config_file", type=files.expanded, help="the runner_cfg.json of an earlier run"
        )
        self.add_argument("--architecture", "--sae", help="of the SAE (default: standard)")


def _similar(given: str, known: Iterable[str]) -> str:
    """`; did you mean --layer_groups?`, or nothing where none is like it."""
    name = given.removeprefix("--").replace("-", "_").lower()
    near = get_close_matches(_SYNONYMS.get(name, name), [one.lstrip("-") for one in known], n=1)
    return f"; did you mean --{near[0]}?" if near else ""


def _spelled_out(
    parser: OwnFlags, args: Sequence[str], architecture: str
) -> tuple[list[str], dict[str, str | None]]:
    """The arguments with every flag and number written out, and the fields that they give."""
    fields = {field.flag: field for field in config_fields(architecture)}
    fields |= {f"--no{flag[2:]}": field for flag, field in fields.items() if field.is_switch}
    flags: list[str] = []
    given: dict[str, str | None] = {}
    if args and not args[0].startswith("--"):
        parser.error(f"unrecognized arguments: {args[0]}")
    field: Field | None = None
    for arg in args:
        if arg.startswith("--"):
            name, equals, value = arg.partition("=")
            field = fields[name := _whole_name(parser, name, list(fields), architecture)]
            given[field.path] = None
            flags.append(name)
            if not equals:
                continue
        else:
            value = arg
        if field is not None:
            value = given[field.path] = _checked(parser, field, value)
        if arg.startswith("--"):
            flags[-1] += f"={value}"
        else:
            flags.append(value)
    for field in fields.values():
        if given.get(field.path, "") is None and field.kind in ("str", *_READ):
            parser.error(f"argument {field.flag}: expected one argument")
    return flags, given


def _whole_name(parser: OwnFlags, name: str, known: list[str], architecture: str) -> str:
    """The flag that this is the beginning of, as argparse takes it."""
    if name in known:
        return name
    other = next((a for a in architectures() if name in {f.flag for f in config_fields(a)}), None)
    if other:
        parser.error(f"{name} is a setting of --architecture {other}, not of {architecture}")
    begun = [flag for flag in known if flag.startswith(name) and name != "--"]
    if len(begun) == 1:
        return begun[0]
    if begun:
        parser.error(f"{name} is the beginning of {', '.join(begun)}; write one of them")
    return parser.error(f"unrecognized arguments: {name}", known)


def _checked(parser: OwnFlags, field: Field, text: str) -> str:
    """The value as simple_parsing reads it."""
    kind = field.kind.removesuffix(" | None")
    if field.path == "layer_groups":
        _require_groups(text)
    if kind not in _READ or (text.lower() == "none" and kind != field.kind):
        return text
    try:
        value = _READ[kind](text)
    except ValueError:
        parser.error(f"argument {field.flag}: invalid {kind} value: {quoted(text)}")
    section, _, name = field.path.rpartition(".")
    require_range(f"{section}." if section else "", name, value)
    return str(value) if kind == "int" else text


def require_no_part(suite: str, command: str) -> None:
    """Refuses a folder inside of a suite, such as a layer's, where the whole one is asked for."""
    folder = files.expanded(suite)
    if not files.exists(folder) or (folder / files.SUITE).is_file():
        return
    for whole in folder.resolve().parents[:2]:
        if (whole / files.SUITE).is_file():
            raise ConfigError(f"{suite!r} is a part of the suite {whole.name!r}; {command} that")


def _require_groups(text: str) -> None:
    """Refuses groups that overlap and a plan that is not there."""
    if _RANGES.fullmatch(text):
        parse_ranges(text)
    plan = files.expanded(text)
    if plan.suffix == ".json" and not files.exists(plan):
        raise ConfigError(
            f"layer_groups {quoted(text)} is not there; name the plan.json that "
            f"`sae-lens-groups plan` wrote{files.did_you_mean(plan)}"
        )


def _config_file(path: Path, architecture: str | None) -> dict[str, Any]:
    """What `--config_file` holds."""
    if files.exists(path / files.RUNNER_CFG):
        raise ConfigError(
            f"config_file {str(path)!r} is a folder; did you mean {path / files.RUNNER_CFG}?"
        )
    _require_unaltered(path)
    try:
        saved = files.parse_json(path.read_text(encoding="utf-8"))
        require_kinds(saved, {"sae": dict, "logger": dict})
        require_kinds(saved["sae"], {"architecture": str})
    except (OSError, *MISREAD) as error:
        raise ConfigError(
            f"config_file {str(path)!r} cannot be read: {reason(error)}; name the runner_cfg.json "
            f"that SAELens wrote beside a trained SAE{files.did_you_mean(path)}"
        ) from error
    if architecture is not None:
        raise ConfigError(
            f"--architecture cannot be changed together with --config_file, whose SAE is "
            f"{saved['sae']['architecture']!r} and has settings of its own; leave one of them out"
        )
    return saved


def _require_unaltered(config_file: Path) -> None:
    """Refuses the settings in a suite that are not those that were written with it."""
    try:
        suite = CheckedFolder(config_file.parent)
        if config_file.name == files.RUNNER_CFG and suite.checksums is not None:
            suite.file(files.RUNNER_CFG)
    except SuiteError as error:
        raise ConfigError(
            f"config_file {str(config_file)!r} cannot be used: {error}; to train with other "
            "settings, give them as flags, or edit a copy of that file elsewhere"
        ) from error
