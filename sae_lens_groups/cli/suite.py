"""`sae-lens-groups suite`: the whole way from text to an evaluated SAE per layer, in one command."""

import argparse
import contextlib
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from sae_lens_groups import files
from sae_lens_groups.cli import evaluate
from sae_lens_groups.cli.command_line import CommandLine, ConfigFlags, announce, read_command_line
from sae_lens_groups.errors import ConfigError, GroupSAEError
from sae_lens_groups.field_values import parse_every
from sae_lens_groups.layers import format_layer_groups

if TYPE_CHECKING:  # they bring SAELens, which takes seconds to import
    from sae_lens_groups.train import SuiteParts, SuiteRecipe

# What the recipe decides on, with the value that stands for "not yet".
_DECIDED = {
    **dict.fromkeys(("init_from", "token_fraction", "from_pretrained_path"), None),
    **dict.fromkeys(("cached_activations_path", "resume_from_checkpoint"), None),
    **dict.fromkeys(("use_cached_activations", "init_keep_layers"), False),
    "lr_scheduler_name": "constant",
    "lr_decay_steps": 0,
    "checkpoint_path": None,
    "init_features": "random",
}


def suite(args: Sequence[str]) -> int:
    """Caches, trains groups, trains every layer from its group's SAE, and scores the suite.

    Started again with the same flags, it goes on where it was stopped.
    """
    own, line = read_command_line(_parser(), args)
    for name in [*_DECIDED, "lr_end", "n_restart_cycles"]:
        if name in line.given:
            raise ConfigError(
                f"--{name} is decided by the recipe; leave it out, or use sae-lens-groups train"
            )
    if not line.given.get("output_path"):
        raise ConfigError("--output_path is not given; name the folder of the new suite")
    announce(line)
    # These import SAELens.
    from sae_lens_groups.cli.flags import as_mistakes
    from sae_lens_groups.train import dry_run, replace_flags

    recipe = _recipe(line, own)
    with as_mistakes(), files.only_writer(recipe.folder):
        parts = recipe.saved()
        if parts is None:
            groups = format_layer_groups(recipe.groups())
            dry_run(replace_flags(recipe.cfg, layer_groups=groups))  # finds mistakes
            parts = recipe.decided()
        print(parts.text, flush=True)
        if not own.dry_run:
            recipe.begin(parts)
            with warnings.catch_warnings():  # it is read over and over, as the plan says
                warnings.filterwarnings("ignore", message="the cache ended")
                _make(recipe, parts)
    return 0


def _recipe(line: CommandLine, own: argparse.Namespace) -> "SuiteRecipe":
    from sae_lens_groups.cli.flags import parse_flags, with_width
    from sae_lens_groups.train import Budget, SuiteRecipe, replace_flags

    given = with_width(parse_flags(line, {"layer_groups": "each"}), line)
    cfg = replace_flags(given, **_DECIDED, lr_end=None)
    cfg.checkpoint_every = given.checkpoint_every
    budget = None if own.budget is None else Budget(*own.budget)
    has_groups = "layer_groups" in {**line.given, **(line.saved or {})}
    return SuiteRecipe(cfg=cfg, budget=budget, has_groups=has_groups)


def _make(recipe: "SuiteRecipe", parts: "SuiteParts") -> None:
    """Does what is not done yet, part by part."""
    from sae_lens_groups.train import GroupSAETrainingRunner, cache_activations, followed_by

    output = Path(str(recipe.cfg.output_path))
    steps: dict[str, tuple[Path, Callable[[], object]]] = {
        "cache": (
            recipe.folder / "cache" / files.CACHE,
            lambda: cache_activations(recipe.config("cache", parts), cache_dtype=parts.cache_dtype),
        ),
        "groups": (
            recipe.folder / "groups" / files.SUITE,
            lambda: GroupSAETrainingRunner(recipe.config("groups", parts)).run(),
        ),
        "layers": (
            output / files.SUITE,
            lambda: GroupSAETrainingRunner(recipe.config("layers", parts)).run(),
        ),
    }
    if not files.exists(output / files.SUITE):
        done = 0.0
        with _bar_over_all() as show:
            for part, (result, do) in steps.items():
                share = parts.shares.get(part, 0.0)
                if share and not files.exists(result):
                    print(f"{done:4.0%} done, now {part}", flush=True)
                    with followed_by(partial(show, part, done, share)):
                        do()
                done += share
    if not files.exists(output / files.EVALUATION):
        print("100% done, now evaluation", flush=True)
        _evaluate(recipe)
    recipe.clean()
    print(f"The suite lies in {output}, an SAE for each layer.")


@contextlib.contextmanager
def _bar_over_all() -> Iterator[Callable[[str, float, float, float], None]]:
    """A bar below those of the parts; what is printed meanwhile comes above it."""
    from tqdm.auto import tqdm
    from tqdm.contrib import DummyTqdmFile

    form = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
    with (
        tqdm(total=1.0, desc="Whole suite", bar_format=form, leave=False) as bar,
        contextlib.redirect_stdout(cast("TextIO", DummyTqdmFile(sys.stdout))),
    ):

        def show(part: str, before: float, share: float, of_part: float) -> None:
            done = before + share * of_part
            if not bar.n:  # what an earlier command did says nothing about the time left
                bar.initial = bar.n = done
            bar.set_description_str(f"Whole suite, {part}", refresh=False)
            bar.update(done - bar.n)

        yield show


def _evaluate(recipe: "SuiteRecipe") -> None:
    cfg = recipe.cfg
    words = [str(cfg.output_path), "--model_name", cfg.model_name, "--device", cfg.device]
    words += ["--trust_remote_code"] * cfg.dataset_trust_remote_code
    try:
        evaluate.evaluate(words)
    except GroupSAEError as error:  # the suite is there, and its text may all be read
        print(f"not evaluated: {error}\nsae-lens-groups evaluate {shlex.join(words)}")


def _parser() -> ConfigFlags:
    parser = ConfigFlags(
        "suite",
        usage="sae-lens-groups suite --output_path FOLDER --model_name NAME --hook_name HOOK ...",
        description="Makes a suite in one command: stores the activations where the disk has room, "
        "trains groups of\nlayers at a constant learning rate, trains every layer on from its "
        "group's SAE while the rate falls to\nnothing, and evaluates. Prints tokens, FLOPs and time "
        "of each part before it starts. Stopped at any\nmoment, the same command goes on.",
        epilog="""every flag of `train` works here too, but those that the recipe decides on:
schedules of the learning rate, starts, caches and checkpoints; those that matter:
  --training_tokens  what one SAE per layer would be trained on; every part has a share of it
  --layer_groups     (default: all layers in runs of four)
  --refit_tokens     the groups' decoders are refitted to so many tokens before every layer
                     is trained on (default: 0)
  --checkpoint_every what a killed run loses at most (default: 10m)""",
    )
    parser.add_argument(
        "--budget",
        type=_budget,
        help="what all parts together may take: a share of the FLOPs of an SAE per layer by SAELens, "
        "such as 0.15, or a time such as 2h, by steps timed on this machine; scales their tokens",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="print what would be done, with its cost, and stop"
    )
    return parser


def _budget(text: str) -> tuple[float, bool]:
    """The number, and whether it is seconds."""
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if 0 < share <= 1:
        return share, False
    try:
        seconds = parse_every(text).seconds
    except ConfigError:
        seconds = None
    if seconds is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a share such as 0.15 nor a time such as 90m or 2h"
        )
    return seconds, True
