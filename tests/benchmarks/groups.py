"""What grouping costs and saves on the demo model: `python -m tests.benchmarks.groups`.

Trains `each`, `even:5`, `even:3` and `even:1` at equal tokens per SAE, and `each` once more with
only as many tokens as fit into the wall-clock of `even:3`. Every run has a process of its own; the
order is shuffled in every round, and one thread computes. Each variant gets the best of several learning rates, found
first, with another seed than those reported. Prints medians over the rounds, one row per variant.
"""

import argparse
import random
import resource
import statistics
from pathlib import Path
from typing import Any

from tests.benchmarks.demo_runs import Figures, Watch, mean_scores
from tests.benchmarks.own_process import in_own_process, log

VARIANTS = ("each", "even:5", "even:3", "even:1")
CUT = "each, cut to the time of even:3"


def main() -> None:
    """Runs all rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=300_000, help="per SAE")
    parser.add_argument("--lrs", type=float, nargs="+", default=[2e-3, 4e-3, 8e-3, 1.6e-2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--log", type=Path, help="append every run to this file as JSON")
    args = parser.parse_args()
    best_lr = tune(args)
    print_table(
        [run for seed in range(1, args.rounds + 1) for run in one_round(args, best_lr, seed)]
    )


def tune(args: argparse.Namespace) -> dict[str, float]:
    """Variant -> the learning rate of the highest mean explained variance, under seed 0."""
    best: dict[str, float] = {}
    for variant in VARIANTS:
        runs = [
            in_process(args, variant, layer_groups=variant, lr=lr, tokens=args.tokens, seed=0)
            for lr in args.lrs
        ]
        best[variant] = max(runs, key=lambda run: run["explained_variance"])["lr"]
    # How far `each` gets in the time of even:3 depends on its learning rate in its own way.
    n_tokens = args.tokens // 3
    runs = [
        in_process(args, "tuning cut", layer_groups="each", lr=lr, tokens=n_tokens, seed=0)
        for lr in args.lrs
    ]
    best[CUT] = max(runs, key=lambda run: run["explained_variance"])["lr"]
    return best


def one_round(args: argparse.Namespace, lr: dict[str, float], seed: int) -> list[dict[str, Any]]:
    """Every variant once, in an order of this round's own."""
    order = list(VARIANTS)
    random.Random(seed).shuffle(order)
    runs = [
        in_process(
            args, variant, layer_groups=variant, lr=lr[variant], tokens=args.tokens, seed=seed
        )
        for variant in order
    ]
    seconds = {run["variant"]: run["seconds"] for run in runs}
    n_tokens = int(args.tokens * seconds["even:3"] / seconds["each"])
    cut = in_process(args, CUT, layer_groups="each", lr=lr[CUT], tokens=n_tokens, seed=seed)
    return [*runs, cut]


def in_process(args: argparse.Namespace, variant: str, **settings: Any) -> dict[str, Any]:
    """One run in a process of its own, whose peak memory is then its own too."""
    run = {"variant": variant, **settings, **in_own_process(train_and_score, **settings)}
    log(args.log, run)
    return run


def train_and_score(layer_groups: str, lr: float, tokens: int, seed: int) -> Figures:
    """Seconds and peak memory of `run`, and mean scores over the 12 layers on held-out text."""
    import torch

    from sae_lens_groups import GroupSAETrainingRunner
    from sae_lens_groups.demo.model import stdlib_tokens
    from sae_lens_groups.demo.run import demo_config

    torch.set_num_threads(1)
    cfg = demo_config(layer_groups, None, tokens, lr=lr, seed=seed)
    runner = GroupSAETrainingRunner(cfg, override_dataset=stdlib_tokens("train", seed=seed))
    watch = Watch()
    suite = runner.run()
    seconds = watch.seconds()
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {"peak_mib": peak_kib / 1024, "n_saes": len(runner.groups)}
    return {**seconds, **figures, **mean_scores(suite, runner.model)}


def print_table(runs: list[dict[str, Any]]) -> None:
    """A Markdown table of medians; after ± half the range over the rounds."""
    print("| groups | SAEs | lr | tokens per SAE | wall-clock | EV | CE-loss score | peak memory |")
    print("|---|---|---|---|---|---|---|---|")
    for variant in (*VARIANTS, CUT):
        of_variant = [run for run in runs if run["variant"] == variant]

        def cell(name: str, form: str, of_variant: list[dict[str, Any]] = of_variant) -> str:
            values = [run[name] for run in of_variant]
            half_range = (max(values) - min(values)) / 2
            return f"{statistics.median(values):{form}} ± {half_range:{form}}"

        tokens = int(statistics.median(run["tokens"] for run in of_variant))
        print(
            f"| {variant} | {of_variant[0]['n_saes']} | {of_variant[0]['lr']:g} | {tokens:,} | "
            f"{cell('seconds', '.1f')} s | {cell('explained_variance', '.4f')} | "
            f"{cell('ce_loss_score', '.4f')} | {cell('peak_mib', '.0f')} MiB |"
        )


if __name__ == "__main__":
    main()
