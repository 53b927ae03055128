"""`sae-lens-groups train`: SAELens's training command with groups."""

import shlex
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from sae_lens_groups import files
from sae_lens_groups.cli.command_line import CommandLine, ConfigFlags, announce, read_command_line
from sae_lens_groups.cli.sweep import flags_of_first, sweep_entries
from sae_lens_groups.cli.train_help import train_help
from sae_lens_groups.errors import counted
from sae_lens_groups.layers import saes_for_layers

if TYPE_CHECKING:  # they bring SAELens, which takes seconds to import
    from sae_lens_groups.saved import TransferReport
    from sae_lens_groups.suite import SAESuite


def train(args: Sequence[str]) -> int:
    """Trains a suite from command-line flags and says where it lies."""
    parser = _parser()
    own, _ = parser.parse_known_args(list(args))
    if own.help:
        print(train_help(own.architecture))
        return 0
    sweep = sweep_entries(list(chain(*own.sweep)))
    _, line = read_command_line(parser, [*args, *flags_of_first(sweep, args)])
    if (output_path := line.given.get("output_path")) is not None:
        files.require_free(output_path)
    announce(line)
    return _train(line, sweep, is_dry_run=own.dry_run)


def _train(line: CommandLine, sweep: list[str | dict[str, Any]], *, is_dry_run: bool) -> int:
    from sae_lens_groups.cli.flags import as_mistakes, parse_flags, with_width
    from sae_lens_groups.plan import plan_text
    from sae_lens_groups.train import (
        GroupSAETrainingRunner,
        SweepTrainingRunner,
        dry_run,
        run_text,
        world_of_process,
    )

    # Launchers end the others when one ends; so none does before the first has said why.
    cfg = world_of_process().agreed(lambda: with_width(parse_flags(line), line))
    cfg.sweep = sweep or cfg.sweep
    runner_class = GroupSAETrainingRunner if cfg.sweep is None else SweepTrainingRunner
    with as_mistakes():
        if is_dry_run:
            print(dry_run(cfg))
            return 0
        runner = runner_class(cfg, before_loading=lambda run: print(run_text(run), flush=True))
    for run in runner.runs:
        if run.plan is not None:
            print(plan_text(run.plan), flush=True)
    with as_mistakes():
        suites = runner.suites()
    for run in runner.runs:
        each = f" with each of {len(run.settings)} settings" * (len(run.settings) > 1)
        site = f" of {run.cfg.hook_template}" * (len(runner.runs) > 1)
        print(f"Trained {saes_for_layers(run.groups)}{site}{each}.")
    if cfg.sweep is None:
        _say_where(suites[""])
    elif cfg.output_path is not None:
        print(f"The suites lie in {cfg.output_path}, a folder each: {', '.join(suites)}")
        print(f"    sae-lens-groups evaluate {shlex.quote(cfg.output_path)}    # compares them")
    for fault in chain.from_iterable(run.faults for run in runner.runs):
        print(f"Look into: {fault}")
    return 0


def _say_where(suite: "SAESuite") -> None:
    if suite.manifest.transfer is not None:
        print(_came_from(suite.manifest.transfer))
    if suite.path is not None:
        hook_name = next(iter(suite))
        print(
            f"The suite of {counted(len(suite), 'layer')} lies in {suite.path}, a plain SAE for each:"
        )
        print(f'    SAE.load_from_disk("{suite.path / hook_name}")')
        place = shlex.quote(str(suite.path))
        print(f"    sae-lens-groups evaluate {place}    # scores every layer")


def _parser() -> ConfigFlags:
    parser = ConfigFlags("train", needs_layer_groups=True, add_help=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("--sweep", action="append", nargs="+", default=[])
    return parser


def _came_from(transfer: "TransferReport") -> str:
    before = transfer.mean(transfer.zero_shot)
    start = f"Started from {transfer.init_from}: mean explained variance {before:.4f}"
    if not transfer.final:
        return f"{start} then."
    return f"{start} before training, {transfer.mean(transfer.final):.4f} after it."
