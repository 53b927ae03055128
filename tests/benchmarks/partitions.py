"""What the way of grouping layers is worth: `python -m tests.benchmarks.partitions`.

Trains suites of the demo model on `linkage`, `even`, `optimal` and a bad partition (the one of the
smallest AMAD, which is single layers beside one giant group) into 2 to 6 groups, at equal tokens,
with several seeds, and scores every layer on held-out text. One thread computes.

`--objectives` instead trains on random partitions into 2, 3 and 4 groups, and prints how well each
candidate objective for `optimal` ranks them (Spearman's correlation with the scores).
The last layer, which stays alone, is left out of all these runs: its SAE is the same in each.
"""

import argparse
import json
import random
import statistics
from collections.abc import Callable, Iterator
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from sae_lens_groups import GroupSAETrainingRunner, evaluate_suite
from sae_lens_groups.activations.model import load_hooked_model
from sae_lens_groups.demo.model import stdlib_tokens
from sae_lens_groups.demo.run import demo_config
from sae_lens_groups.layers import LayerGroup, format_layer_groups
from sae_lens_groups.plan.choose import plan_groups
from sae_lens_groups.plan.distances import LayerDistances
from sae_lens_groups.plan.measure import measure_layer_distances

METRICS = ("explained_variance", "ce_loss_score")
N_GROUPS = range(2, 7)
N_RANDOM = {2: 10, 3: 16, 4: 14}
BAD = "smallest AMAD"

# Candidates for what `optimal` minimises: the distances inside each group to one number.
OBJECTIVES: dict[str, Callable[[list[np.ndarray]], float]] = {
    "sum of pairs": lambda groups: sum(g.sum() for g in groups),
    "sum of pairs / size": lambda groups: sum(g.sum() / len(g) for g in groups),
    "sum of squared pairs / size": lambda groups: sum((g**2).sum() / len(g) for g in groups),
    "distance to the medoid": lambda groups: sum(g.sum(axis=1).min() for g in groups),
    "largest diameter": lambda groups: max(g.max() for g in groups),
    "weighted AMAD": lambda groups: sum(len(g) * g.max() for g in groups),
    "weighted squared diameters": lambda groups: sum(len(g) * g.max() ** 2 for g in groups),
    "AMAD": lambda groups: statistics.fmean(g.max() for g in groups),
    "largest size": lambda groups: max(len(g) for g in groups),
    "sum of squared sizes": lambda groups: sum(len(g) ** 2 for g in groups),
}


def main() -> None:
    """Runs what is not in the log yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=150_000, help="per SAE")
    parser.add_argument("--lr", type=float, default=8e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--objectives", action="store_true")
    parser.add_argument("--log", type=Path, help="take finished runs from this file, append others")
    args = parser.parse_args()
    torch.set_num_threads(1)
    distances = measured()
    if args.objectives:
        print_objectives(args, distances)
    else:
        print_partitions(args, distances)


def measured() -> LayerDistances:
    """Angular distances of the demo model."""
    cfg = demo_config("auto", None)
    model = load_hooked_model(cfg, None)
    return measure_layer_distances(
        cfg, override_model=model, override_dataset=stdlib_tokens("train")
    )


def print_partitions(args: argparse.Namespace, distances: LayerDistances) -> None:
    """A Markdown table of mean scores, ± half their range over the seeds."""
    print("| G | partition | groups | explained variance | CE-loss score |")
    print("|---|---|---|---|---|")
    for n_groups in N_GROUPS:
        for name, groups in partitions_into(n_groups, distances).items():
            runs = [scored(args, groups, seed) for seed in range(1, args.seeds + 1)]
            print(f"| {n_groups} | {name} | {groups} | {cells(runs)} |", flush=True)


def cells(runs: list[dict[str, Any]]) -> str:
    """Both scores as cells of a table: the median, ± half the range."""
    columns = [[run[metric] for run in runs] for metric in METRICS]
    return " | ".join(
        f"{statistics.median(values):.4f} ± {(max(values) - min(values)) / 2:.4f}"
        for values in columns
    )


def partitions_into(n_groups: int, distances: LayerDistances) -> dict[str, str]:
    """Name -> groups of the layers below the last, as `layer_groups` names them."""
    chosen = {
        name: plan_groups(distances, f"{name}:{n_groups}").groups[:-1]
        for name in ("linkage", "even", "optimal")
    }
    below_last = distances.n_layers - 1
    chosen[BAD] = min(
        all_partitions(below_last, n_groups),
        key=lambda groups: OBJECTIVES["AMAD"](inside(groups, distances)),
    )
    return {name: format_layer_groups(groups) for name, groups in chosen.items()}


def print_objectives(args: argparse.Namespace, distances: LayerDistances) -> None:
    """A Markdown table: per objective and number of groups, Spearman's correlation with scores."""
    below_last = distances.n_layers - 1
    tables: dict[int, dict[str, tuple[float, float]]] = {}
    draw = random.Random(0)
    for n_groups, n_random in N_RANDOM.items():
        pool = list(all_partitions(below_last, n_groups))
        if len(pool) > n_random:
            pool = draw.sample(pool, n_random)
        runs = [scored(args, format_layer_groups(groups), seed=1) for groups in pool]
        tables[n_groups] = {
            name: correlations([objective(inside(groups, distances)) for groups in pool], runs)
            for name, objective in OBJECTIVES.items()
        }
    print("| objective | " + " | ".join(f"G={n}: EV, CE" for n in tables) + " |")
    print("|---|" + "---|" * len(tables))
    for name in OBJECTIVES:
        cells = (f"{ev:.2f}, {ce:.2f}" for ev, ce in (table[name] for table in tables.values()))
        print(f"| {name} | {' | '.join(cells)} |")


def correlations(values: list[float], runs: list[dict[str, Any]]) -> tuple[float, float]:
    """Spearman's correlation of an objective with either score; -1 would be a perfect ranking."""
    ev, ce = (float(spearmanr(values, [run[metric] for run in runs])[0]) for metric in METRICS)  # type: ignore[arg-type]
    return ev, ce


def inside(groups: tuple[LayerGroup, ...], distances: LayerDistances) -> list[np.ndarray]:
    """The distances inside each group."""
    return [
        distances.matrix[group.first : group.last + 1, group.first : group.last + 1]
        for group in groups
    ]


def all_partitions(n_layers: int, n_groups: int) -> Iterator[tuple[LayerGroup, ...]]:
    """Every way to split layers into runs."""
    for cuts in combinations(range(1, n_layers), n_groups - 1):
        ends = (0, *cuts, n_layers)
        yield tuple(LayerGroup(first, end - 1) for first, end in pairwise(ends))


def scored(args: argparse.Namespace, groups: str, seed: int, **flags: Any) -> dict[str, Any]:
    """Mean scores over the layers named, from the log where this very run is in it."""
    settings = {"groups": groups, "seed": seed, "tokens": args.tokens, "lr": args.lr, **flags}
    for line in args.log.read_text().splitlines() if args.log and args.log.exists() else ():
        run = json.loads(line)
        if settings.items() <= run.items():
            return run
    run = {**settings, **train_and_score(**settings)}
    if args.log:
        with args.log.open("a") as file:
            file.write(json.dumps(run) + "\n")
    return run


def train_and_score(
    groups: str, tokens: int, lr: float, seed: int, **flags: Any
) -> dict[str, float]:
    """Trains a suite of the demo model; mean scores over its layers on held-out text."""
    cfg = demo_config(groups, None, tokens, lr=lr, seed=seed, **flags)
    runner = GroupSAETrainingRunner(cfg, override_dataset=_tokens("train", seed))
    suite = runner.run()
    scores = evaluate_suite(suite, runner.model, _tokens("held_out", 0), n_batches=3)
    return {name: statistics.fmean(s.metrics[name] for s in scores) for name in METRICS}


_tokens = cache(lambda split, seed: stdlib_tokens(split, seed=seed))


if __name__ == "__main__":
    main()
