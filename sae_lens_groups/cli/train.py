"""`sae-lens-groups train`: SAELens's training command with groups."""

from collections.abc import Sequence
from typing import Any

from sae_lens_groups.cli.flags import as_mistakes, parse_flags
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import counted
from sae_lens_groups.layers import saes_for_layers
from sae_lens_groups.plan import plan_text
from sae_lens_groups.saved import TransferReport
from sae_lens_groups.train import GroupSAETrainingRunner


def train(args: Sequence[str]) -> int:
    """Trains a suite from command-line flags and says where it lies."""
    cfg = parse_config(args)
    with as_mistakes():
        runner = GroupSAETrainingRunner(cfg)
    if runner.plan is not None:
        print(plan_text(runner.plan), flush=True)
    if runner.checkpoint is not None:
        n_done, n_tokens = runner.checkpoint.training_tokens, runner.cfg.training_tokens
        where = f"after {n_done:,} of {n_tokens:,} tokens"
        print(f"Goes on from {runner.checkpoint.path}, {where}.", flush=True)
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


def _came_from(transfer: TransferReport) -> str:
    before = transfer.mean(transfer.zero_shot)
    start = f"Started from {transfer.init_from}: mean explained variance {before:.4f}"
    if not transfer.final:
        return f"{start} then."
    return f"{start} before training, {transfer.mean(transfer.final):.4f} after it."


def parse_config(args: Sequence[str]) -> GroupSAERunnerConfig[Any]:
    """The config that these flags mean.

    Raises:
        GroupSAEError: a flag is unknown, lacks its value, or has an impossible one.
    """
    return parse_flags("train", args).cfg
