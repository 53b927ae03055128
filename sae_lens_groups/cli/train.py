"""`sae-lens-groups train`: SAELens's training command with groups."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sae_lens_groups import files
from sae_lens_groups.cli.command_line import CommandLine, ConfigFlags, announce, read_command_line
from sae_lens_groups.cli.train_help import train_help
from sae_lens_groups.errors import counted
from sae_lens_groups.layers import saes_for_layers

if TYPE_CHECKING:  # they bring SAELens, which takes seconds to import
    from sae_lens_groups.config import GroupSAERunnerConfig
    from sae_lens_groups.saved import TransferReport


def train(args: Sequence[str]) -> int:
    """Trains a suite from command-line flags and says where it lies."""
    parser = _parser()
    own, _ = parser.parse_known_args(list(args))
    if own.help:
        print(train_help(own.architecture))
        return 0
    _, line = read_command_line(parser, args)
    if (output_path := line.given.get("output_path")) is not None:
        files.require_free(output_path)
    announce(line)
    return _train(line, is_dry_run=own.dry_run)


def _train(line: CommandLine, *, is_dry_run: bool) -> int:
    from sae_lens_groups.cli.flags import as_mistakes, parse_flags, with_width
    from sae_lens_groups.plan import plan_text
    from sae_lens_groups.train import GroupSAETrainingRunner, dry_run, run_text, world_of_process

    # Launchers end the others when one ends; so none does before the first has said why.
    cfg = world_of_process().agreed(lambda: with_width(parse_flags(line), line))
    with as_mistakes():
        if is_dry_run:
            print(dry_run(cfg))
            return 0
        runner = GroupSAETrainingRunner(
            cfg, before_loading=lambda run: print(run_text(run), flush=True)
        )
    if runner.plan is not None:
        print(plan_text(runner.plan), flush=True)
    with as_mistakes():
        suite = runner.run()
    print(f"Trained {saes_for_layers(runner.groups)}.")
    if suite.manifest.transfer is not None:
        print(_came_from(suite.manifest.transfer))
    if suite.path is not None:
        hook_name = next(iter(suite))
        print(
            f"The suite of {counted(len(suite), 'layer')} lies in {suite.path}, a plain SAE for each:"
        )
        print(f'    SAE.load_from_disk("{suite.path / hook_name}")')
    for fault in runner.faults:
        print(f"Look into: {fault}")
    return 0


def _parser() -> ConfigFlags:
    parser = ConfigFlags("train", needs_layer_groups=True, add_help=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--dry_run", action="store_true")
    return parser


def _came_from(transfer: "TransferReport") -> str:
    before = transfer.mean(transfer.zero_shot)
    start = f"Started from {transfer.init_from}: mean explained variance {before:.4f}"
    if not transfer.final:
        return f"{start} then."
    return f"{start} before training, {transfer.mean(transfer.final):.4f} after it."


def parse_config(args: Sequence[str]) -> "GroupSAERunnerConfig[Any]":
    """The config that these flags mean.

    Raises:
        GroupSAEError: a flag is unknown, lacks its value, or has an impossible one.
    """
    from sae_lens_groups.cli.flags import parse_flags

    return parse_flags(read_command_line(_parser(), args)[1])
