"""How long until a suite is as good as SAELens's: `python -m tests.benchmarks.time_to_quality`.

SAELens's multi-SAE runner trains an SAE for each layer of the demo model with its full budget of
tokens. The mean explained variance over the layers that it ends with, on held-out text, is the
target of every recipe. A recipe is run with one budget after another, from small to large, until it
gets there: its seconds are those of the run that did, from the config to the suite on disk,
without imports and reading text; compared is the processor's time, which other work on the machine
does not change. Every run decays its learning rate over its own budget and has a
process of its own; one thread computes. Each round has a seed of its own and SAELens's run with it.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BUDGET = 600_000  # tokens per SAE
MULTI = "SAELens's MultiSAETrainingRunner"
# The time in which the processor worked on a run: with one thread it is what a quiet machine's
# wall-clock would show, and other work on the machine does not count.
CLOCK = "cpu_seconds"
Run = dict[str, Any]

EACH: Run = {"layer_groups": "each", "share": 1.0}
FOURS: Run = {"layer_groups": "0-3,4-7,8-11", "share": 1.0}
# Groups whose learning rate stays, and then SAEs of single layers whose learning rate falls from
# the same value to nothing: one schedule over both runs.
CONSTANT: Run = {**FOURS, "layers_per_token": 2, "decay": 0.0}
FALLING: Run = {"layer_groups": "each", "decay": 1.0}

# Of each recipe the budgets to try, each a list of runs of which the second starts from the first;
# `share` is the part of BUDGET that a run trains every SAE on, `decay` the part of the run in which
# the learning rate falls.
RECIPES: dict[str, list[list[Run]]] = {
    "`each`": [[{**EACH, "share": share}] for share in (1.0, 1.1)],
    "`0-3,4-7,8-11`": [[{**FOURS, "share": share}] for share in (1.0, 2.0, 3.0)],
    "`0-3,4-7,8-11`, then `each`": [
        [CONSTANT, {**FALLING, "share": share}] for share in (0.3, 0.35, 0.4)
    ],
    "every other layer, then the rest": [
        [
            {**EACH, "layer_groups": "0,2,4,6,8,10", "share": share},
            {
                **FALLING,
                "layer_groups": "1,3,5,7,9,11",
                "init_alignment": "affine",
                "init_keep_layers": True,
                "share": share / 4,
            },
        ]
        for share in (1.0, 1.2)
    ],
}
# Of every run, SAELens's too. An LM batch of 2,048 tokens is faster here than one of 4,096: it fits
# the processor's cache. 10,240 tokens are enough for a mean norm.
SETTINGS: Run = {
    "lr": 8e-3,
    "store_batch_size_prompts": 16,
    "n_batches_for_norm_estimate": 5,
    "autocast_lm": True,
}
DECAY = 0.2


def main() -> None:
    """Runs all rounds and prints the table, or does one run where `--run` is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--log", type=Path, help="append every run to this file as JSON")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run = json.loads(args.run)
        print(json.dumps(train_with_saelens(**run) if "layer_groups" not in run else train(**run)))
        return
    rounds = [one_round(args, seed) for seed in range(1, args.rounds + 1)]
    print_table(rounds)


def one_round(args: argparse.Namespace, seed: int) -> dict[str, dict[str, Any]]:
    """Of SAELens's runner and of each recipe: seconds, explained variance and budget."""
    with tempfile.TemporaryDirectory() as folder:
        baseline = in_process({"seed": seed, "output_path": folder})
    log(args, seed, MULTI, baseline)
    results: dict[str, dict[str, Any]] = {MULTI: baseline}
    order = list(args.only)
    random.Random(seed).shuffle(order)
    for name in order:
        for runs in RECIPES[name]:
            results[name] = {**cook(runs, seed), "shares": [run["share"] for run in runs]}
            results[name]["is_reached"] = (
                results[name]["explained_variance"] >= baseline["explained_variance"]
            )
            log(args, seed, name, results[name])
            if results[name]["is_reached"]:
                break
    return results


def cook(runs: list[Run], seed: int) -> dict[str, float]:
    """Does the runs of a recipe one after the other; their seconds in all, and the last's scores."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = cpu_seconds = 0.0
        scores: dict[str, float] = {}
        for n, run in enumerate(runs):
            settings = {**run, "seed": seed, "output_path": f"{folder}/{n}"}
            if n:
                settings["init_from"] = f"{folder}/{n - 1}"
            scores = in_process({**settings, "is_scored": n == len(runs) - 1})
            seconds += scores["seconds"]
            cpu_seconds += scores["cpu_seconds"]
    return {**scores, "seconds": seconds, "cpu_seconds": cpu_seconds}


def in_process(settings: Run) -> dict[str, float]:
    """One run in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.time_to_quality"]
    command += ["--run", json.dumps(settings)]
    output = subprocess.run(command, capture_output=True, text=True)
    if output.returncode:
        raise SystemExit(output.stderr)
    return json.loads(output.stdout.splitlines()[-1])


def log(args: argparse.Namespace, seed: int, name: str, result: Mapping[str, Any]) -> None:
    """Shows a finished run, and appends it to the file that `--log` names."""
    line = json.dumps({"recipe": name, "seed": seed, **result})
    print(line, file=sys.stderr, flush=True)
    if args.log:
        with args.log.open("a") as file:
            file.write(line + "\n")


def train(
    layer_groups: str,
    share: float,
    seed: int,
    output_path: str,
    *,
    is_scored: bool,
    decay: float = DECAY,
    **flags: Any,
) -> dict[str, float]:
    """Seconds of a run, and where it is asked for mean scores over its suite on held-out text."""
    import torch

    from sae_lens_groups import GroupSAETrainingRunner
    from sae_lens_groups.demo.model import stdlib_tokens
    from sae_lens_groups.demo.run import demo_config

    torch.set_num_threads(1)
    dataset = stdlib_tokens("train", seed=seed)
    start, cpu_start = time.monotonic(), time.process_time()
    tokens = int(BUDGET * share)
    flags = {**SETTINGS, "seed": seed, "plan_tokens": 20_000, **flags}
    cfg = demo_config(layer_groups, output_path, tokens, **flags)
    cfg.lr_decay_steps = int(tokens // cfg.train_batch_size_tokens * decay)
    runner = GroupSAETrainingRunner(cfg, override_dataset=dataset)
    suite = runner.run()
    seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu_start
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        **(scored(suite, runner.model) if is_scored else {}),
    }


def train_with_saelens(seed: int, output_path: str) -> dict[str, float]:
    """Seconds and scores of SAELens's runner, with the same settings, on the same text."""
    import torch
    from sae_lens import MultiSAETrainingRunner, MultiSAETrainingRunnerConfig

    from sae_lens_groups import SAESuite
    from sae_lens_groups.demo.model import stdlib_tokens
    from sae_lens_groups.demo.run import demo_config

    torch.set_num_threads(1)
    dataset = stdlib_tokens("train", seed=seed)
    start, cpu_start = time.monotonic(), time.process_time()
    demo = demo_config("each", None, BUDGET, **SETTINGS)
    shared = {
        name: getattr(demo, name)
        for name in MultiSAETrainingRunnerConfig.__annotations__
        if name in vars(demo) and name not in ("saes", "hook_names", "sae")
    }
    hook_names = {f"layer_{n}": demo.hook_template.hook_name(n) for n in range(12)}
    torch.manual_seed(seed)
    cfg = MultiSAETrainingRunnerConfig(
        **{
            **shared,
            "saes": {name: type(demo.sae).from_dict(demo.sae.to_dict()) for name in hook_names},
            "hook_names": hook_names,
            "output_path": None,
        }
    )
    runner = MultiSAETrainingRunner(cfg, override_dataset=dataset)
    saes = runner.run()
    for name, sae in saes.items():
        sae.save_inference_model(Path(output_path) / hook_names[name])
    seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu_start
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        **scored(SAESuite.load(output_path), runner.model),
    }


def scored(suite: Any, model: Any) -> dict[str, float]:
    """Mean scores over the layers of a suite, on held-out text."""
    from sae_lens_groups import evaluate_suite
    from sae_lens_groups.demo.model import stdlib_tokens

    scores = evaluate_suite(suite, model, stdlib_tokens("held_out"), n_batches=8)
    metrics = ("explained_variance", "ce_loss_score")
    return {name: statistics.fmean(score.metrics[name] for score in scores) for name in metrics}


def print_table(rounds: list[dict[str, dict[str, Any]]]) -> None:
    """A Markdown table of medians over the rounds, with the lowest and the highest."""
    print(
        "| recipe | budgets | explained variance | CE-loss score | wall-clock | CPU | times faster |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in rounds[0]:
        runs = [results[name] for results in rounds]
        faster = [results[MULTI][CLOCK] / results[name][CLOCK] for results in rounds]
        n_reached = sum(run.get("is_reached", True) for run in runs)
        budgets = "; ".join(
            sorted({" + ".join(f"{share:g}" for share in run.get("shares", [1])) for run in runs})
        )
        missed = "" if n_reached == len(runs) else f" (reached in {n_reached} of {len(runs)})"
        print(
            f"| {name}{missed} | {budgets} | {cell(runs, 'explained_variance', '.4f')} | "
            f"{cell(runs, 'ce_loss_score', '.4f')} | {cell(runs, 'seconds', '.1f')} | "
            f"{cell(runs, 'cpu_seconds', '.1f')} | "
            f"{statistics.median(faster):.2f} ({min(faster):.2f} to {max(faster):.2f}) |"
        )


def cell(runs: list[dict[str, Any]], name: str, form: str) -> str:
    """The median of a figure, and its range."""
    values = [run[name] for run in runs]
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
