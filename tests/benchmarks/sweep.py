"""What further settings cost in one run: `python -m tests.benchmarks.sweep`.

SAEs with one value of k, and SAEs with each of four, on the same tokens: an SAE per layer, and one
per group of about four layers. Every run has a process of its own, in an order of each round's own;
a ratio is of the two runs of a round.
"""

import argparse
import random
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.own_process import in_own_process, log
from tests.benchmarks.speed.__main__ import measured
from tests.benchmarks.speed.jobs import (
    ARCHITECTURES,
    AUTO_MODEL,
    EACH,
    GROUPS,
    HOOKED_TRANSFORMER,
    SHAPES,
    TOPK,
    Job,
)

_SWEEP = ("k=16,32,64,128",)


def main() -> None:
    """Runs all rounds of all shapes and prints a row per shape and way."""
    args = _parser().parse_args()
    print("| shape | way | one k | four k | times | memory of one, of four |\n|" + "---|" * 6)
    for shape in args.shapes:
        runs = [run for number in range(args.rounds) for run in _one_round(args, shape, number)]
        for way in (EACH, GROUPS):
            print(_row(shape, [run for run in runs if run["way"] == way]), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sweep", description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES)[:2], choices=list(SHAPES))
    parser.add_argument("--architecture", default=TOPK, choices=ARCHITECTURES)
    parser.add_argument("--tokens", type=int, help="per SAE; default: by shape")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"))
    parser.add_argument("--log", type=Path, help="append every run to this file as JSON")
    return parser


def _one_round(args: argparse.Namespace, shape: str, number: int) -> list[dict[str, Any]]:
    order = [(way, sweep) for way in (EACH, GROUPS) for sweep in ((), _SWEEP)]
    random.Random(number).shuffle(order)
    return [_in_process(args, _job(args, shape, way, sweep), number) for way, sweep in order]


def _job(args: argparse.Namespace, name: str, way: str, sweep: tuple[str, ...]) -> Job:
    shape = SHAPES[name]
    return Job(
        way=way,
        shape_name=name,
        model_class=AUTO_MODEL if shape.is_llama else HOOKED_TRANSFORMER,
        n_layers=shape.n_layers,
        lm_dtype="float32",
        layer_groups=EACH if way == EACH else f"even:{shape.n_layers // 4}",
        single_layers=(),
        normalize_activations="none",
        tokens=args.tokens or shape.tokens,
        batch=shape.batch,
        device="cpu",
        threads=args.threads,
        seed=0,
        architecture=args.architecture,
        clock=args.clock,
        sweep=sweep,
    )


def _in_process(args: argparse.Namespace, job: Job, number: int) -> dict[str, Any]:
    settings = job.to_dict()
    found = in_own_process(measured, n_threads=job.threads, settings=settings)
    run = {"round": number, **settings, **found}
    log(args.log, run)
    return run


def _row(shape: str, runs: list[dict[str, Any]]) -> str:
    one = {run["round"]: run for run in runs if not run["sweep"]}
    four = {run["round"]: run for run in runs if run["sweep"]}
    ratios = sorted(four[number]["seconds"] / one[number]["seconds"] for number in one)
    cells = [
        shape,
        runs[0]["way"],
        f"{_median(one, 'seconds'):.1f} s",
        f"{_median(four, 'seconds'):.1f} s",
        f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        f"{_median(one, 'peak_mib'):,.0f}, {_median(four, 'peak_mib'):,.0f} MiB",
    ]
    return f"| {' | '.join(cells)} |"


def _median(runs: Mapping[int, Mapping[str, Any]], figure: str) -> float:
    return median(run[figure] for run in runs.values())


if __name__ == "__main__":
    main()
