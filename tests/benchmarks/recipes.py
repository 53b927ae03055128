"""What a full suite costs by each recipe: `python -m tests.benchmarks.recipes`.

One SAE per layer from scratch, against recipes of two runs of which the second starts from the
first's suite, on the demo model. Every run has a process of its own; the order of the recipes is
shuffled in every round, each round has a seed of its own, and one thread computes. Seconds are
those of both runs, from the config to the suite on disk, without imports and reading text. Prints
medians over the rounds, ± half their range, from held-out text.
"""

import argparse
import statistics
from pathlib import Path

from tests.benchmarks.demo_runs import Figures, Run, cook, in_rounds
from tests.benchmarks.own_process import log

BUDGET = 600_000  # tokens per SAE of the suite from scratch

SCRATCH = "`each` from scratch"
GROUPS: Run = {"layer_groups": "even:3", "tokens": BUDGET, "lr": 8e-3}
FOURS: Run = {**GROUPS, "layer_groups": "0-3,4-7,8-11"}
RECIPES: dict[str, list[Run]] = {
    SCRATCH: [{"layer_groups": "each", "tokens": BUDGET, "lr": 8e-3}],
    "`even:3` aligned, then `each` for 7%": [
        {**GROUPS, "layer_alignment": "orthogonal"},
        {"layer_groups": "each", "tokens": BUDGET * 7 // 100, "lr": 2e-3},
    ],
    "`0-3,4-7,8-11`, then `each` for 10%": [
        FOURS,
        {"layer_groups": "each", "tokens": BUDGET // 10, "lr": 2e-3},
    ],
    "`0-3,4-7,8-11` aligned, then `each` for 10%": [
        {**FOURS, "layer_alignment": "orthogonal"},
        {"layer_groups": "each", "tokens": BUDGET // 10, "lr": 2e-3},
    ],
    "every other layer, then the rest for 20%": [
        {"layer_groups": "0,2,4,6,8,10", "tokens": BUDGET, "lr": 8e-3},
        {
            "layer_groups": "1,3,5,7,9,11",
            "tokens": BUDGET // 5,
            "lr": 2e-3,
            "init_alignment": "affine",
            "init_keep_layers": True,
        },
    ],
}


def main() -> None:
    """Runs all rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--log", type=Path, help="append every run to this file as JSON")
    args = parser.parse_args()
    results: dict[str, list[Figures]] = {name: [] for name in args.only}
    for seed, name in in_rounds(args.only, args.rounds):
        results[name].append(cook(RECIPES[name], seed))
        log(args.log, {"recipe": name, "seed": seed, **results[name][-1]})
    print_table(results)


def print_table(results: dict[str, list[Figures]]) -> None:
    """A Markdown table; the last column is the median of each round's share of `each`'s time."""
    print("| recipe | explained variance | CE-loss score | wall-clock | of `each` |")
    print("|---|---|---|---|---|")
    baseline = results.get(SCRATCH, [])
    for name, runs in results.items():

        def cell(metric: str, form: str, runs: list[Figures] = runs) -> str:
            values = [run[metric] for run in runs]
            return f"{statistics.median(values):{form}} ± {(max(values) - min(values)) / 2:{form}}"

        shares = [run["seconds"] / each["seconds"] for run, each in zip(runs, baseline)]
        share = f"{statistics.median(shares):.2f}" if shares else "-"
        print(
            f"| {name} | {cell('explained_variance', '.4f')} | {cell('ce_loss_score', '.4f')} | "
            f"{cell('seconds', '.1f')} s | {share} |"
        )


if __name__ == "__main__":
    main()
