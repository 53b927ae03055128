"""The papers' claims, at equal tokens and at equal processor time: `python -m tests.benchmarks.claims`.

A suite of the demo's model, or with `--smollm2 MODEL TEXTS...` of twelve layers of SmolLM2, in four ways:
an SAE for each layer; groups of four layers (Group-SAE); every other layer, and then the layers
between from their neighbours (BlackboxNLP 2024); groups, and then each layer from its group.
Each way's learning rate is the best under the first seed at half of the tokens, of those that are the
subject's own doubled or halved.
`--last_layer` gives as many SAEs to all layers, with the last one alone and in the last group.

Prints Markdown tables of means over the layers on held-out text, medians over the seeds (lowest to
highest), and draws the ways' scores against the language model's tokens and the processor's seconds.
One thread computes, all in float32.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from sae_lens_groups.layers import parse_ranges
from tests.benchmarks.curve_plot import Curve, draw
from tests.benchmarks.demo_runs import Run
from tests.benchmarks.from_cache import METRICS, Found, Result, Rounds, mean
from tests.benchmarks.subjects import Subject, layers_of, subject
from tests.benchmarks.time_to_quality import CONSTANT, EACH, FALLING, FOURS, cell

NEIGHBOURS = "every other layer, then the rest from neighbours"
SHARES = (1 / 4, 1 / 2, 1)
TUNED_AT = 1 / 2


class Way(NamedTuple):
    """How to come to a suite."""

    runs: list[Run]
    first: str = ""
    """The way whose rate the first of two runs takes."""


WAYS = {
    "each layer": Way([EACH]),
    "groups of four": Way([FOURS]),
    NEIGHBOURS: Way(
        [
            {**EACH, "layer_groups": "every other"},
            {**FALLING, "layer_groups": "the rest", "init_keep_layers": True, "share": 1 / 4},
        ],
        first="each layer",
    ),
    "groups, then each layer from them": Way(
        [{**CONSTANT, "init_features": "rows"}, {**FALLING, "share": 0.3}],
        first="groups of four",
    ),
}
# The last layers of a model, and as many SAEs for them in two ways.
LAST = {
    "demo": {"alone": "0-2,3-6,7-10,11", "in a group": "0-2,3-5,6-8,9-11"},
    "SmolLM2": {"alone": "21-24,25-28,29", "in a group": "21-23,24-26,27-29"},
}


def main() -> None:
    """Runs what is not in the log yet, prints the tables, draws the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=600_000, help="the most of any way")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--last_layer", action="store_true")
    parser.add_argument("--smollm2", nargs="+", metavar="FOLDER", help="SmolLM2, and texts")
    parser.add_argument("--log", type=Path, help="take finished runs from this file, append others")
    parser.add_argument("--plot", type=Path, help="PNG to draw")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.last_layer:
        print_last_layer(args)
        return
    of = subject(args.smollm2)
    with Rounds(args, args.tokens, of.groups, of.scored) as rounds:
        found = results(rounds, of, args.tokens, range(1, args.seeds + 1))
    print_ways(found)
    print_neighbours(found, [str(n) for n in layers_of(of)[1::2] if n in of.scored])
    if args.plot:
        draw_ways(found, args.plot, "SmolLM2-135M" if args.smollm2 else "the demo's model")


def results(rounds: Rounds, of: Subject, tokens: int, seeds: range) -> Found:
    """Of each way, at each share of the tokens, what each seed gave."""
    rates: dict[str, float] = {}
    for name in WAYS:

        def score(rate: float, name: str = name) -> float:
            runs = runs_of(name, of, tokens * TUNED_AT, {**rates, name: rate})
            result = rounds.result(runs, seed=1)
            scores = " / ".join(f"{mean(result, metric):.4f}" for metric in METRICS)
            print(f"{name}, {rate:g} times the rate: {scores}", flush=True)
            return mean(result, "explained_variance")

        rates[name] = best_rate(score)
    planned = {
        name: [runs_of(name, of, tokens * share, rates) for share in SHARES] for name in WAYS
    }
    return rounds.results(planned, seeds)


def best_rate(score: Callable[[float], float]) -> float:
    """The best of rates that double, or halve, from 1 on for as long as that is better."""
    found = {1.0: score(1)}
    for factor in (2, 0.5):
        rate = 1.0
        while len(found) == 1 or found[rate] == max(found.values()):
            rate *= factor
            found[rate] = score(rate)
        if max(found, key=lambda rate: found[rate]) != 1:
            break
    return max(found, key=lambda rate: found[rate])


def runs_of(name: str, of: Subject, tokens: float, rates: dict[str, float]) -> list[Run]:
    """A way's runs where an SAE from scratch has so many tokens."""
    way, layers = WAYS[name], layers_of(of)
    named = {"each": layers, "every other": layers[::2], "the rest": layers[1::2]}
    groups = {key: ",".join(map(str, value)) for key, value in named.items()}
    factors = [rates[way.first], rates[name]] if way.first else [rates[name]]
    return [
        {
            **{key: value for key, value in run.items() if key != "share"},
            "layer_groups": groups.get(run["layer_groups"], of.groups),
            "tokens": round(tokens * run["share"]),
            "lr": of.settings["lr"] * factor,
        }
        for run, factor in zip(way.runs, factors)
    ]


def lm_tokens(result: Result) -> float:
    """Tokens that the language model reads, once for all runs."""
    return max(run["tokens"] / run.get("layers_per_token", 1) for run in result["runs"])


def cpu_seconds(result: Result) -> float:
    """The language model's for its tokens, and the runs'."""
    return result["lm_cpu_seconds"] * lm_tokens(result) + result["cpu_seconds"]


def print_ways(found: Found) -> None:
    """A row for each way and number of tokens."""
    print("| way | tokens | explained variance | CE-loss score | CPU seconds |")
    print("|---|---|---|---|---|")
    for name, at in found.items():
        for of in at:
            rows = [{**means(result), "seconds": cpu_seconds(result)} for result in of]
            cells = [cell(rows, metric, ".4f") for metric in METRICS]
            tokens = f"{lm_tokens(of[0]):,.0f}"
            print(f"| {name} | {tokens} | {' | '.join(cells)} | {cell(rows, 'seconds', '.1f')} |")


def print_neighbours(found: Found, rest: list[str]) -> None:
    """The layers between alone: from their neighbours, and from scratch at all tokens."""
    print("\n| the layers between | tokens | explained variance | CE-loss score |")
    print("|---|---|---|---|")
    for name in ("each layer", NEIGHBOURS):
        for of in found[name]:
            rows = [means(result, rest) for result in of]
            cells = [cell(rows, metric, ".4f") for metric in METRICS]
            print(f"| {name} | {of[0]['runs'][-1]['tokens']:,} | {' | '.join(cells)} |")


def print_last_layer(args: argparse.Namespace) -> None:
    """Scores of all layers, and of the last one's."""
    ways = LAST["SmolLM2" if args.smollm2 else "demo"]
    groups = parse_ranges(ways["alone"])
    first, last = groups[0].first, groups[-1].last
    scored = sorted({layer for group in groups for layer in (group.first, group.last)})
    planned = {name: [[{"layer_groups": of, "tokens": args.tokens}]] for name, of in ways.items()}
    print("| last layer | groups |" + 2 * " explained variance | CE-loss score |")
    print("|---|---|---|---|---|---|")
    with Rounds(args, args.tokens, f"{first}-{last}", scored) as rounds:
        found = rounds.results(planned, range(1, args.seeds + 1))
    for name, (of_seeds,) in found.items():
        cells = [
            cell([means(result, part) for result in of_seeds], metric, ".4f")
            for part in (None, [str(last)])
            for metric in METRICS
        ]
        print(f"| {name} | {ways[name]} | {' | '.join(cells)} |", flush=True)


def means(result: Result, layers: list[str] | None = None) -> dict[str, float]:
    """Both scores, over all layers or those given."""
    return {metric: mean(result, metric, layers) for metric in METRICS}


def draw_ways(found: Found, path: Path, model: str) -> None:
    """Against tokens, and against seconds."""
    panels = {
        "tokens of the language model": lm_tokens,
        "processor seconds": cpu_seconds,
    }
    curves = {
        label: [
            Curve(name, [statistics.median(map(x, of)) for of in at], at)
            for name, at in found.items()
        ]
        for label, x in panels.items()
    }
    draw(path, f"BatchTopK suites of {model}: medians of seeds, with lowest and highest", curves)


if __name__ == "__main__":
    main()
