"""`sae-lens-groups train`: SAELens's training command with groups."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sae_lens_groups.cli.command_line import CommandLine, OwnFlags, announce, read_command_line
from sae_lens_groups.cli.train_help import train_help

if TYPE_CHECKING:  # they bring SAELens, which takes seconds to import
    from sae_lens_groups.config import GroupSAERunnerConfig
    from sae_lens_groups.saved import TransferReport


def train(args: Sequence[str]) -> int:
    """Trains a suite from command-line flags and says where it lies."""
    own, rest = _parser().parse_known_args(list(args))
    architecture = [] if own.architecture is None else ["--architecture", own.architecture]
    if own.help:
        print(train_help(own.architecture))
        return 0
    line = read_command_line("train", [*architecture, *rest])
    announce(line)
    return _train(line, is_dry_run=own.dry_run)


def _train(line: CommandLine, *, is_dry_run: bool) -> int:
    from sae_lens_groups.cli.flags import as_mistakes, parse_flags, with_width
    from sae_lens_groups.plan import plan_text
    from sae_lens_groups.train import GroupSAETrainingRunner, dry_run, run_text

    cfg = with_width(parse_flags(line)).cfg
    with as_mistakes():
        if is_dry_run:
            print(dry_run(cfg))
            return 0
        runner = GroupSAETrainingRunner(
            cfg, before_loading=lambda run: print(run_text(run), flush=True)
        )
    if runner.plan is not None:
        print(plan_text(runner.plan), flush=True)
    suite = runner.run()
    n_saes, n_layers = len(runner.groups), sum(map(len, runner.groups))
    print(f"Trained {n_saes} SAEs for {n_layers} layers.")
    if suite.manifest.transfer is not None:
        print(_came_from(suite.manifest.transfer))
    if suite.path is not None:
        hook_name = next(iter(suite))
        print(f"The suite of {len(suite)} layers lies in {suite.path}, a plain SAE for each:")
        print(f'    SAE.load_from_disk("{suite.path / hook_name}")')
    return 0


def _parser() -> OwnFlags:
    parser = OwnFlags(prog="sae-lens-groups train", add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("--architecture", "--sae")  # whose settings the help shows
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

    return parse_flags(read_command_line("train", args)).cfg
