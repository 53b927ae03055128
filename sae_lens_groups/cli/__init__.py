"""The command `sae-lens-groups`."""

import argparse
import contextlib
import importlib
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence

from sae_lens_groups._version import __version__
from sae_lens_groups.errors import ConfigError, GroupSAEError, TrainingInterrupted

USAGE_ERROR = 2
_SECONDS_TO_SPEAK = 3  # for the first of several processes, before a launcher ends it
_COMMANDS = {
    "plan": "measure how far apart the layers of a model are, and propose groups with their cost",
    "cache": "store a model's activations at all layers, for many training runs",
    "train": "train an SAE per group of layers (every flag of SAELens's training command, and --layer_groups)",
    "suite": "cache, train groups, train every layer from its group's SAE, and evaluate, for a given budget",
    "evaluate": "score every layer of a suite, compare it with a baseline, and show both on a page",
    "refit": "give every layer of a suite a decoder of its own, by least squares on a few tokens",
    "features": "show what a suite's features fire on, on every layer, with their text on a page",
    "publish": "put a suite on the Hugging Face Hub, where plain SAELens loads every layer",
    "demo": "train a suite on the model that ships with the package, offline, in about a minute",
    "plugins": "list the registered partitions, distances and alignments, and by which package",
}


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    0, 2 for an error with a message, 128 + n after signal n.
    """
    args = sys.argv[1:] if args is None else args
    parser = argparse.ArgumentParser(
        prog="sae-lens-groups",
        description="An SAE for every layer of a language model at a fraction of the cost, inside SAELens.",
    )
    parser.add_argument("--version", action="version", version=f"sae-lens-groups {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _COMMANDS.items():
        commands.add_parser(name, help=text, description=text, add_help=False)
    chosen, rest = parser.parse_known_args(args[:1])
    assert not rest
    if "tqdm" not in sys.modules and not (
        sys.stderr.isatty() and _is_heard()
    ):  # which reads this when imported
        # In a log a bar would leave a line for each of its states.
        os.environ.setdefault("TQDM_DISABLE", "1")
    # Each command reads its own flags, so that starting one does not import what the others need.
    format_before, warnings.formatwarning = warnings.formatwarning, _OneLine()
    try:
        with contextlib.nullcontext() if _is_heard() else _in_silence():
            _require_one_process(chosen.command)
            return _command(chosen.command)(args[1:])
    except GroupSAEError as error:
        _end_bars()
        if _is_heard():
            print(f"sae-lens-groups {chosen.command}: error: {error}", file=sys.stderr)
        elif "torch" not in sys.modules:  # they have not met yet
            time.sleep(_SECONDS_TO_SPEAK)
        return USAGE_ERROR
    except KeyboardInterrupt as interruption:
        return _interrupted(chosen.command, interruption)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        warnings.formatwarning = format_before


def _interrupted(command: str, interruption: KeyboardInterrupt) -> int:
    """Says that it was stopped, and returns the exit status."""
    said, number = f"sae-lens-groups {command}: stopped by Ctrl-C", signal.SIGINT.value
    if isinstance(interruption, TrainingInterrupted):
        said, number = str(interruption), interruption.signal_number
    _end_bars()
    if _is_heard():
        print(f"\n{said}", file=sys.stderr)
    return 128 + number


def _end_bars() -> None:
    """Leaves the line of a progress bar that stopped in its middle, and that the error holds on to."""
    if "tqdm" in sys.modules:
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()


def _n_processes() -> int:
    return int(os.environ.get("WORLD_SIZE") or 1)


def _is_heard() -> bool:
    """Whether it speaks to the user: of several processes the first one does."""
    return _n_processes() == 1 or os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def _in_silence() -> Iterator[None]:
    with (
        open(os.devnull, "w") as nowhere,  # noqa: PTH123
        contextlib.redirect_stdout(nowhere),
        warnings.catch_warnings(action="ignore"),
    ):
        yield


def _require_one_process(command: str) -> None:
    if _n_processes() > 1 and command != "train":
        raise ConfigError(
            f"{_n_processes()} processes were started (WORLD_SIZE), and only train is shared by "
            "several; run it without torchrun"
        )


class _OneLine:
    """A warning without the place in the code that gave it, which is nothing to a user, and once.

    Python by itself repeats one whenever some code has ignored others in between.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, message: Warning | str, *_: object) -> str:
        text = f"warning: {message}\n"
        is_new = text not in self._said
        self._said.add(text)
        return text if is_new else ""


def _command(name: str) -> Callable[[Sequence[str]], int]:
    module = importlib.import_module(
        "sae_lens_groups.demo" if name == "demo" else f"{__name__}.{name}"
    )
    return getattr(module, name)
