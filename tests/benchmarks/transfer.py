"""What starting from a neighbour's SAE is worth: `python -m tests.benchmarks.transfer`.

Trains SAEs of the demo model for four target layers from scratch, and for both neighbours of each;
then starts the targets' SAEs from their neighbours'. Prints two Markdown tables of medians over the
seeds, ± half their range, from held-out text:

zero-shot   scores before any training, for every direction and alignment
curve       scores of SAEs started from neighbours and from scratch at equal tokens, for fractions
            of the full budget; each at the learning rate that was best for it under the first seed

One thread computes.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from sae_lens_groups import GroupSAETrainingRunner
from sae_lens_groups.demo.model import stdlib_tokens
from sae_lens_groups.demo.run import demo_config
from tests.benchmarks.partitions import cells, scored

TARGETS = "1,4,7,10"
NEIGHBOURS = "0,2,3,5,6,8,9,11"
BUDGET = 300_000
FRACTIONS = (0.05, 0.1, 0.2, 0.25, 0.3, 0.5, 1.0)
LRS = {"scratch": (4e-3, 8e-3, 1.6e-2, 3.2e-2), "transferred": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)}
SOURCE_LR = 8e-3
DIRECTIONS = ("forward", "backward")
ALIGNMENTS = ("none", "scale", "orthogonal", "affine")
CURVES = {
    "scratch": {},
    "backward, scale": {"init_direction": "backward", "init_alignment": "scale"},
    "backward, orthogonal": {"init_direction": "backward", "init_alignment": "orthogonal"},
    "backward, affine": {"init_direction": "backward", "init_alignment": "affine"},
}


def main() -> None:
    """Runs what is not in the log yet, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sources", type=Path, help="folder to keep the neighbours' suites in")
    parser.add_argument("--log", type=Path, help="take finished runs from this file, append others")
    parser.add_argument("--part", choices=("zero-shot", "curve"), help="just this table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.sources or Path(temporary)
        sources = {seed: neighbours(folder, seed) for seed in range(1, args.seeds + 1)}
        if args.part != "curve":
            print_zero_shot(args, sources)
        if args.part != "zero-shot":
            print_curve(args, sources)


def neighbours(folder: Path, seed: int) -> str:
    """The suite of the targets' neighbours, trained on the whole budget."""
    path = folder / f"neighbours-{seed}"
    if not path.exists():
        cfg = demo_config(NEIGHBOURS, path, BUDGET, lr=SOURCE_LR, seed=seed)
        GroupSAETrainingRunner(cfg, override_dataset=stdlib_tokens("train", seed=seed)).run()
    return str(path)


def print_zero_shot(args: argparse.Namespace, sources: dict[int, str]) -> None:
    """A Markdown table of scores before any training."""
    print("| direction | init_alignment | explained variance | CE-loss score |")
    print("|---|---|---|---|")
    for direction in DIRECTIONS:
        for alignment in ALIGNMENTS:
            flags = {"init_direction": direction, "init_alignment": alignment}
            # A run takes a step at least; this one moves nothing.
            runs = [
                run(args, seed, tokens=1024, lr=1e-30, init_from=source, **flags)
                for seed, source in sources.items()
            ]
            print(f"| {direction} | {alignment} | {cells(runs)} |", flush=True)


def print_curve(args: argparse.Namespace, sources: dict[int, str]) -> None:
    """A Markdown table of scores after a fraction of the budget."""
    print("| tokens | start | lr | explained variance | CE-loss score |")
    print("|---|---|---|---|---|")
    for fraction in FRACTIONS:
        for name, flags in CURVES.items():
            tokens = int(BUDGET * fraction)

            def trained(
                seed: int,
                lr: float,
                tokens: int = tokens,
                flags: dict[str, Any] = flags,
            ) -> dict[str, Any]:
                source = {"init_from": sources[seed]} if flags else {}
                return run(args, seed, tokens=tokens, lr=lr, **flags, **source)

            lrs = LRS["transferred" if flags else "scratch"]
            tuning = {lr: trained(1, lr) for lr in lrs}
            best = max(lrs, key=lambda lr: tuning[lr]["explained_variance"])
            runs = [trained(seed, best) for seed in sources]
            print(f"| {fraction:.0%} | {name} | {best:g} | {cells(runs)} |", flush=True)


def run(
    args: argparse.Namespace, seed: int, *, tokens: int, lr: float, **flags: Any
) -> dict[str, Any]:
    """Mean scores of the target layers."""
    settings = argparse.Namespace(tokens=tokens, lr=lr, log=args.log)
    return scored(settings, TARGETS, seed, **flags)


if __name__ == "__main__":
    main()
