"""What k, d_sae, lr, tokens and groups do: `python -m tests.benchmarks.curves --plot choosing.png`.

Trains BatchTopK suites of the demo model from one cache of activations for each seed, changing one
setting at a time, and scores all layers on held-out text. Prints a Markdown table of medians over
the seeds (lowest to highest), and draws it. One thread computes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.curve_plot import Curve, draw
from tests.benchmarks.demo_runs import Run
from tests.benchmarks.from_cache import METRICS, Result, Rounds, mean
from tests.benchmarks.time_to_quality import cell

TOKENS = 300_000
LAYERS = "0-11"
LRS = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
GROUPINGS = {
    1: "0-11",
    2: "0-5,6-11",
    3: "0-3,4-7,8-11",
    4: "0-2,3-5,6-8,9-11",
    6: "0-1,2-3,4-5,6-7,8-9,10-11",
    12: "each",
}
# Of each panel the curves, and of each curve what changes: an SAE for each of the 12 layers where
# nothing else is said.
CHOICES: dict[str, dict[str, dict[float, Run]]] = {
    "k": {"": {k: {"sae": {"k": k}} for k in (4, 8, 16, 32)}},
    "d_sae": {"": {d_sae: {"sae": {"d_sae": d_sae}} for d_sae in (192, 384, 768, 1536, 3072)}},
    "lr": {
        "": {lr: {"lr": lr} for lr in LRS},
        "d_sae 3,072": {lr: {"lr": lr, "sae": {"d_sae": 3072}} for lr in LRS[1:5]},
        "75,000 tokens": {lr: {"lr": lr, "tokens": 75_000} for lr in LRS[2:]},
        "k 4": {lr: {"lr": lr, "sae": {"k": 4}} for lr in LRS[2:5]},
    },
    "tokens per SAE": {
        "": {tokens: {"tokens": tokens} for tokens in (37_500, 75_000, 150_000, TOKENS)}
    },
    "SAEs for 12 layers": {"": {n: {"layer_groups": of} for n, of in GROUPINGS.items()}},
}
PLAIN: Run = {"layer_groups": "each", "tokens": TOKENS, "lr": 8e-3}


def main() -> None:
    """Runs what is not in the log yet, prints the table, draws the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--log", type=Path, help="take finished runs from this file, append others")
    parser.add_argument("--plot", type=Path, help="PNG to draw")
    parser.add_argument("--only", nargs="+", choices=list(CHOICES), default=list(CHOICES))
    args = parser.parse_args()
    args.smollm2 = None
    torch.set_num_threads(1)
    planned = {
        f"{name}: {label}": [[{**PLAIN, **run}] for run in at.values()]
        for name in args.only
        for label, at in CHOICES[name].items()
    }
    with Rounds(args, TOKENS, LAYERS, range(12)) as rounds:
        found = rounds.results(planned, range(1, args.seeds + 1))
    panels = {
        name: [
            Curve(label or "as it is", list(at), found[f"{name}: {label}"])
            for label, at in CHOICES[name].items()
        ]
        for name in args.only
    }
    print_table(panels)
    if args.plot:
        title = "BatchTopK SAEs of the demo's model: medians of seeds, with lowest and highest"
        draw(args.plot, title, panels)


def print_table(panels: dict[str, list[Curve]]) -> None:
    """A row for each value of each setting."""
    print("| | | | explained variance | CE-loss score | L0 | CPU seconds, without the LM |")
    print("|---|---|---|---|---|---|---|")
    for name, curves in panels.items():
        for curve in curves:
            for x, results in zip(curve.xs, curve.results):
                print(f"| {name} | {curve.label} | {x:g} | {' | '.join(cells(results))} |")


def cells(results: Sequence[Result]) -> list[str]:
    """Means over the layers and seconds, as medians of seeds with the lowest and the highest."""
    rows: list[dict[str, Any]] = [
        {**{name: mean(of, name) for name in (*METRICS, "l0")}, "cpu": of["cpu_seconds"]}
        for of in results
    ]
    forms = {**dict.fromkeys(METRICS, ".4f"), "l0": ".1f", "cpu": ".1f"}
    return [cell(rows, name, form) for name, form in forms.items()]


if __name__ == "__main__":
    main()
