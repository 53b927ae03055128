"""What aligning the layers of a group is worth: `python -m tests.benchmarks.alignments`.

Trains groups of the demo model with every `layer_alignment`, at equal tokens, with several seeds,
and scores every layer on held-out text. One thread computes. The last layer, which stays alone, is
left out of all runs: its SAE is the same in each.
"""

import argparse
from pathlib import Path

import torch

from tests.benchmarks.partitions import cells, scored

GROUPS = ("0-10", "0-5,6-10", "0-3,4-7,8-10", "0-2,3-4,5-6,7-8,9-10")
ALIGNMENTS = ("none", "orthogonal", "affine")


def main() -> None:
    """Runs what is not in the log yet, and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=150_000, help="per SAE")
    parser.add_argument("--lr", type=float, default=8e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--log", type=Path, help="take finished runs from this file, append others")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| groups | layer_alignment | explained variance | CE-loss score |")
    print("|---|---|---|---|")
    for groups in GROUPS:
        for alignment in ALIGNMENTS:
            runs = [
                scored(args, groups, seed, layer_alignment=alignment)
                for seed in range(1, args.seeds + 1)
            ]
            print(f"| {groups} | {alignment} | {cells(runs)} |", flush=True)


if __name__ == "__main__":
    main()
