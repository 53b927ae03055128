"""How fast SAEs for all layers train: `python -m tests.benchmarks.speed`.

The same SAEs on the same number of tokens, in five ways:

- single: SAELens's runner, a run for every layer; their times are added.
- multi: SAELens's multi-SAE runner, an SAE per layer from one pass of the language model.
- each: this package, an SAE per layer.
- groups: this package, an SAE per group of layers.
- limit: the language model's layers and the SAE steps alone, on data that is already there.

Every run has a process of its own, in an order of each round's own. Timed is `run()`, after one
step of one layer that warms up. It includes filling the shuffle buffer of 8 training batches: every
way but limit passes about 4 batches more through the language model than it trains on, for single
once per layer. The fewer steps, the more that weighs. TopK's auxiliary loss is zero before step
1000, when features first count as dead; the default lengths end before.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.own_process import in_own_process, in_turns, log
from tests.benchmarks.speed.jobs import (
    ARCHITECTURES,
    AUTO_MODEL,
    AUTOCAST,
    CONTEXT_SIZE,
    CPU,
    EACH,
    ESTIMATED,
    FLOAT32,
    GROUPS,
    HOOKED_TRANSFORMER,
    JUMPRELU,
    LM_DTYPES,
    MODEL_CLASSES,
    SHAPES,
    TOPK,
    TURNS,
    WALL,
    WAYS,
    Job,
    spread_layers,
)
from tests.benchmarks.speed.table import print_table


def main() -> None:
    """Runs all rounds of all shapes and prints a table per shape."""
    parser = _parser()
    args = parser.parse_args()
    if args.turns is not None and args.clock != CPU:
        parser.error("--turns needs --clock cpu, as a run that waits for its turn takes no time")
    jobs_of_shape = {shape: [_job(args, shape, way) for way in args.ways] for shape in args.shapes}
    for jobs in jobs_of_shape.values():
        _require_usable(parser, jobs)
    for shape, jobs in jobs_of_shape.items():
        print(f"\n### {shape}\n", flush=True)
        rounds = range(args.rounds)
        print_table([run for number in rounds for run in _one_round(args, jobs, number)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--tokens", type=int, help="per SAE; default: by shape")
    parser.add_argument("--batch", type=int, help="tokens per training step; default: by shape")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, help="of the language model; default: by shape")
    parser.add_argument(
        "--layer_groups", help="of the way groups; default: about 4 layers each, such as even:3"
    )
    parser.add_argument(
        "--single_layers",
        type=_layers,
        help="layers of single to measure, such as 0,5,11, or all; the others are interpolated; "
        "default: by shape",
    )
    parser.add_argument(
        "--layers_per_token", type=int, default=1, help="of the way groups (default: %(default)s)"
    )
    parser.add_argument(
        "--parts",
        action="store_true",
        help="also print the time by part of each and groups, which the stopwatch slows a little",
    )
    parser.add_argument("--architecture", default=TOPK, choices=ARCHITECTURES)
    parser.add_argument(
        "--autocast",
        action="store_true",
        help="SAELens's autocast and autocast_lm: SAEs and the model compute in bfloat16",
    )
    parser.add_argument(
        "--normalize_activations",
        help="default: none, and expected_average_only_in for jumprelu, whose thresholds are "
        "set for it so that about k latents are active from the start",
    )
    parser.add_argument("--model_class", choices=MODEL_CLASSES, help="default: by shape")
    parser.add_argument(
        "--lm_dtype",
        default=FLOAT32,
        choices=LM_DTYPES,
        help="bfloat16: the model's weights; autocast: SAELens's autocast_lm, float32 weights",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock",
        default=WALL,
        choices=(WALL, CPU),
        help="cpu: the time in which the processor worked on a run, for one thread on a shared "
        "machine (default: %(default)s)",
    )
    parser.add_argument(
        "--turns",
        type=float,
        help="run the ways of a round at once, one at a time in turns of about so many seconds, "
        "so that all meet the same noise of a shared machine; default: one after the other",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="append every run to this file as JSON")
    return parser


def _layers(text: str) -> tuple[int, ...]:
    """`0,5,11`; none of them stands for all."""
    return () if text == "all" else tuple(sorted({int(part) for part in text.split(",")}))


def _job(args: argparse.Namespace, shape_name: str, way: str) -> Job:
    shape = SHAPES[shape_name]
    n_layers = args.layers or shape.n_layers
    single_layers = args.single_layers
    if single_layers is None:
        single_layers = spread_layers(shape.single_layers, n_layers)
    by_shape = AUTO_MODEL if shape.is_llama else HOOKED_TRANSFORMER
    by_architecture = ESTIMATED if args.architecture == JUMPRELU else "none"
    return Job(
        way=way,
        shape_name=shape_name,
        model_class=args.model_class or by_shape,
        n_layers=n_layers,
        architecture=args.architecture,
        autocast=args.autocast,
        lm_dtype=AUTOCAST if args.autocast else args.lm_dtype,
        layer_groups=(args.layer_groups or f"even:{n_layers // 4}") if way == GROUPS else EACH,
        single_layers=single_layers or tuple(range(n_layers)),
        normalize_activations=args.normalize_activations or by_architecture,
        tokens=args.tokens or shape.tokens,
        batch=args.batch or shape.batch,
        device=args.device,
        threads=args.threads,
        seed=args.seed,
        clock=args.clock,
        is_by_part=args.parts and way in (EACH, GROUPS),
        layers_per_token=args.layers_per_token if way == GROUPS else 1,
    )


def _require_usable(parser: argparse.ArgumentParser, jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.batch % CONTEXT_SIZE:
            parser.error(f"--batch {job.batch} is no multiple of the context size {CONTEXT_SIZE}")
        if job.tokens % job.batch:
            parser.error(f"--tokens {job.tokens} is no multiple of the batch of {job.batch}")
        if {job.single_layers[0], job.single_layers[-1]} != {0, job.n_layers - 1}:
            parser.error(f"--single_layers needs the first layer and the last, {job.n_layers - 1}")


def _one_round(
    args: argparse.Namespace, jobs: Sequence[Job], round_number: int
) -> list[dict[str, Any]]:
    """Every way once, in an order of this round's own, or all in turns.

    Each in a process of its own, whose peak memory is then its own too.
    """
    order = list(jobs)
    random.Random(f"{args.seed} {round_number}").shuffle(order)
    calls = [{"settings": job.to_dict()} for job in order]
    if args.turns is None:
        results = (in_own_process(measured, n_threads=args.threads, **call) for call in calls)
    else:
        seconds = [args.turns * TURNS[job.way] for job in order]
        results = in_turns(measured, calls, seconds=seconds, n_threads=args.threads)
    runs: list[dict[str, Any]] = []
    for job, found in zip(order, results, strict=True):
        runs.append({"round": round_number, **job.to_dict(), "n_steps": job.n_steps, **found})
        log(args.log, runs[-1])
    return runs


def measured(settings: dict[str, Any]) -> dict[str, Any]:
    """What a job's run took, in this process."""
    from tests.benchmarks.speed.ways import measure

    return measure(Job.from_dict(settings))


if __name__ == "__main__":
    main()
