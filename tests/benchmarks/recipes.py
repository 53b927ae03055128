"""What a full suite costs by each recipe: `python -m tests.benchmarks.recipes`.

One SAE per layer from scratch, against recipes of two runs of which the second starts from the
first's suite, on the demo model. Every run has a process of its own; the order of the recipes is
shuffled in every round, each round has a seed of its own, and one thread computes. Seconds are
those of both runs, from the config to the suite on disk, without imports and reading text. Prints
medians over the rounds, ± half their range, from held-out text.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BUDGET = 600_000  # tokens per SAE of the suite from scratch
Run = dict[str, Any]

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
    """Runs all rounds and prints the table, or does one run where `--run` is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--log", type=Path, help="append every run to this file as JSON")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(train(**json.loads(args.run))))
        return
    results: dict[str, list[dict[str, float]]] = {name: [] for name in args.only}
    for seed in range(1, args.rounds + 1):
        order = list(args.only)
        random.Random(seed).shuffle(order)
        for name in order:
            results[name].append(cook(args, name, seed))
    print_table(results)


def cook(args: argparse.Namespace, name: str, seed: int) -> dict[str, float]:
    """Does the runs of a recipe one after the other; their seconds in all, and the last's scores."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, scores = 0.0, {}
        for n, run in enumerate(RECIPES[name]):
            settings = {**run, "seed": seed, "output_path": f"{folder}/{n}"}
            if n:
                settings["init_from"] = f"{folder}/{n - 1}"
            is_last = n == len(RECIPES[name]) - 1
            scores = in_process({**settings, "is_scored": is_last})
            seconds += scores["seconds"]
    result = {**scores, "seconds": seconds}
    line = json.dumps({"recipe": name, "seed": seed, **result})
    print(line, file=sys.stderr, flush=True)
    if args.log:
        with args.log.open("a") as file:
            file.write(line + "\n")
    return result


def in_process(settings: Run) -> dict[str, float]:
    """One run in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.recipes", "--run", json.dumps(settings)]
    output = subprocess.run(command, capture_output=True, text=True)
    if output.returncode:
        raise SystemExit(output.stderr)
    return json.loads(output.stdout.splitlines()[-1])


def train(
    layer_groups: str, tokens: int, lr: float, seed: int, *, is_scored: bool, **flags: Any
) -> dict[str, float]:
    """Seconds of a run, and where it is asked for mean scores over its suite on held-out text."""
    import torch

    from sae_lens_groups import GroupSAETrainingRunner, evaluate_suite
    from sae_lens_groups.demo.model import stdlib_tokens
    from sae_lens_groups.demo.run import demo_config

    torch.set_num_threads(1)
    dataset = stdlib_tokens("train", seed=seed)
    output_path = flags.pop("output_path")
    start = time.monotonic()
    cfg = demo_config(
        layer_groups, output_path, tokens, lr=lr, seed=seed, plan_tokens=20_000, **flags
    )
    runner = GroupSAETrainingRunner(cfg, override_dataset=dataset)
    suite = runner.run()
    seconds = time.monotonic() - start
    if not is_scored:
        return {"seconds": seconds}
    scores = evaluate_suite(suite, runner.model, stdlib_tokens("held_out"), n_batches=8)
    metrics = ("explained_variance", "ce_loss_score")
    return {
        "seconds": seconds,
        **{name: statistics.fmean(s.metrics[name] for s in scores) for name in metrics},
    }


def print_table(results: dict[str, list[dict[str, float]]]) -> None:
    """A Markdown table; the last column is the median of each round's share of `each`'s time."""
    print("| recipe | explained variance | CE-loss score | wall-clock | of `each` |")
    print("|---|---|---|---|---|")
    baseline = results.get(SCRATCH, [])
    for name, runs in results.items():

        def cell(metric: str, form: str, runs: list[dict[str, float]] = runs) -> str:
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
