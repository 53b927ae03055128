"""How long until a suite is as good as SAELens's: `python -m tests.benchmarks.time_to_quality`.

SAELens's multi-SAE runner trains an SAE for each layer of the demo model (with `--smollm2 MODEL
TEXTS...`, as `tests.benchmarks.real_model` makes them, of twelve layers of that) with its full budget of
tokens. The mean explained variance over the layers that it ends with, on held-out text, is the
target of every recipe. A recipe is run with one budget after another, from small to large, until it
gets there: its seconds are those of the run that did, from the config to the suite on disk,
without imports and reading text; compared is the processor's time, which other work on the machine
does not change. The learning rate falls in the last fifth of a run where its recipe says nothing
else. Every run has a process of its own; one thread computes. Each round has a seed of its own, and
SAELens's run with it.
"""

import argparse
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.demo_runs import Figures, Run, Watch, cook, mean_scores
from tests.benchmarks.own_process import in_own_process, log
from tests.benchmarks.subjects import layers_of, subject

BUDGET = 600_000  # tokens per SAE
MULTI = "SAELens's MultiSAETrainingRunner"
CLOCK = "cpu_seconds"

EACH: Run = {"layer_groups": "each", "share": 1.0}
FOURS: Run = {"layer_groups": "0-3,4-7,8-11", "share": 1.0}
# Groups whose learning rate stays, and then SAEs of single layers whose learning rate falls from
# the same value to nothing: one schedule over both runs.
CONSTANT: Run = {**FOURS, "layers_per_token": 2, "decay": 0.0}
FALLING: Run = {"layer_groups": "each", "decay": 1.0}

# Of each recipe the budgets to try, each a list of runs of which the second starts from the first;
# `share` is the part of BUDGET that a run trains every SAE on, `decay` the part of the run in which
# the learning rate falls, `cached` the part of BUDGET whose activations are stored first, for both runs.
RECIPES: dict[str, list[list[Run]]] = {
    "`each`": [[{**EACH, "share": share}] for share in (1.0, 1.1)],
    "`0-3,4-7,8-11`": [[{**FOURS, "share": share}] for share in (1.0, 2.0, 3.0)],
    "`0-3,4-7,8-11`, then `each`": [
        [CONSTANT, {**FALLING, "share": share}] for share in (0.3, 0.35, 0.4)
    ],
    "the same from one cache": [
        [{**CONSTANT, "cached": cached}, {**FALLING, "share": share}]
        for cached, share in ((0.2, 0.3), (0.2, 0.35), (0.25, 0.35), (0.2, 0.45))
    ],
    "the same from one cache, groups from rows": [
        [
            {**CONSTANT, "share": groups, "cached": cached, "init_features": "rows"},
            {**FALLING, "share": share},
        ]
        for cached, groups, share in (
            *((0.05, 0.25, 0.1), (0.1, 0.5, 0.1)),  # enough where SAELens's are far from trained
            *((0.2, 1.0, 0.2), (0.2, 1.0, 0.3), (0.2, 1.0, 0.4)),
        )
    ],
    "the same from one cache, refitted at the end": [
        [
            {**CONSTANT, "cached": 0.2},
            {**FALLING, "share": share, "refit_tokens": 20_000},
        ]
        for share in (0.2, 0.25, 0.3, 0.35)
    ],
    "the same from one cache, groups refitted too": [
        [
            {**CONSTANT, "share": 0.7, "cached": 0.2, "refit_tokens": 20_000},
            {**FALLING, "share": share, "refit_tokens": 20_000},
        ]
        for share in (0.2, 0.3, 0.4)
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


def main() -> None:
    """Runs all rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--log", type=Path, help="append every run to this file as JSON")
    parser.add_argument(
        "--architecture", default="topk", choices=("topk", "batchtopk", "matryoshka_batchtopk")
    )
    parser.add_argument(
        "--targets",
        nargs="+",
        choices=("explained_variance", "ce_loss_score"),
        default=["explained_variance"],
        help="which of the baseline's scores a recipe has to reach",
    )
    parser.add_argument("--tokens", type=int, default=BUDGET, help="SAELens's, per SAE")
    parser.add_argument("--smollm2", nargs="+", metavar="FOLDER", help="SmolLM2, and texts")
    parser.add_argument(
        "--autocast", action="store_true", help="train SAEs under autocast, SAELens's too"
    )
    parser.add_argument(
        "--float32",
        dest="autocast_lm",
        action="store_false",
        help="the language model in float32, for processors without instructions for bfloat16",
    )
    args = parser.parse_args()
    rounds = [one_round(args, seed) for seed in range(1, args.rounds + 1)]
    print_table(rounds)


def one_round(args: argparse.Namespace, seed: int) -> dict[str, dict[str, Any]]:
    """Of SAELens's runner and of each recipe: seconds, scores and budget."""
    names = ("architecture", "autocast", "autocast_lm", "tokens", "smollm2")
    settings = {name: getattr(args, name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        baseline = in_own_process(train_with_saelens, seed=seed, output_path=folder, **settings)
    log(args.log, {"recipe": MULTI, "seed": seed, **baseline})
    results: dict[str, dict[str, Any]] = {MULTI: baseline}
    order = list(args.only)
    random.Random(seed).shuffle(order)
    for name in order:
        for runs in RECIPES[name]:
            cached = int(args.tokens * runs[0].get("cached", 0))
            result: dict[str, Any] = cook(
                [with_settings(run, args) for run in runs], seed, cached, args.smollm2
            )
            result["shares"] = [run["share"] for run in runs]
            result["is_reached"] = all(result[name] >= baseline[name] for name in args.targets)
            log(args.log, {"recipe": name, "seed": seed, **result})
            results[name] = result
            if result["is_reached"]:
                break
    return results


def with_settings(run: Run, args: argparse.Namespace) -> Run:
    """The run with what all have in common, and its share of the budget as tokens."""
    of = subject(args.smollm2)
    own = {name: value for name, value in run.items() if name not in ("share", "cached")}
    if args.smollm2:
        layers = layers_of(of)
        own["layer_groups"] = {
            EACH["layer_groups"]: ",".join(map(str, layers)),
            FOURS["layer_groups"]: of.groups,
        }[own["layer_groups"]]
    names = ("architecture", "autocast", "autocast_lm")
    common = {name: getattr(args, name) for name in names}
    return {**of.settings, **common, **own, "tokens": int(args.tokens * run["share"])}


def train_with_saelens(
    seed: int,
    output_path: str,
    architecture: str,
    autocast: bool,
    autocast_lm: bool,
    tokens: int,
    smollm2: Sequence[str] | None,
) -> Figures:
    """Seconds and scores of SAELens's runner, with the same settings, on the same text."""
    import torch
    from sae_lens import MultiSAETrainingRunner, MultiSAETrainingRunnerConfig

    from sae_lens_groups import SAESuite

    torch.set_num_threads(1)
    of = subject(smollm2)
    dataset = of.dataset("train", seed)
    watch = Watch()
    flags = {"sae": of.sae(architecture), "autocast": autocast, "autocast_lm": autocast_lm}
    own = of.config(of.groups, None, tokens, **of.settings, **flags)
    own.lr_decay_steps = int(tokens // own.train_batch_size_tokens * 0.2)
    shared = {
        name: getattr(own, name)
        for name in MultiSAETrainingRunnerConfig.__annotations__
        if name in vars(own) and name not in ("saes", "hook_names", "sae")
    }
    hook_names = {f"layer_{n}": own.hook_template.hook_name(n) for n in layers_of(of)}
    torch.manual_seed(seed)
    cfg = MultiSAETrainingRunnerConfig(
        **{
            **shared,
            "saes": {name: type(own.sae).from_dict(own.sae.to_dict()) for name in hook_names},
            "hook_names": hook_names,
            "output_path": None,
        }
    )
    runner = MultiSAETrainingRunner(cfg, override_dataset=dataset)
    saes = runner.run()
    for name, sae in saes.items():
        sae.save_inference_model(Path(output_path) / hook_names[name])
    suite = SAESuite.load(output_path)
    return {**watch.seconds(), **mean_scores(suite, runner.model, of, autocast_lm)}


def print_table(rounds: list[dict[str, dict[str, Any]]]) -> None:
    """A Markdown table of medians over the rounds, with the lowest and the highest."""
    print(
        "| recipe | budgets | explained variance | CE-loss score | L0 | wall-clock | CPU | "
        "times faster |"
    )
    print("|---|---|---|---|---|---|---|---|")
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
            f"{cell(runs, 'ce_loss_score', '.4f')} | {cell(runs, 'l0', '.1f')} | "
            f"{cell(runs, 'seconds', '.1f')} | {cell(runs, 'cpu_seconds', '.1f')} | "
            f"{statistics.median(faster):.2f} ({min(faster):.2f} to {max(faster):.2f}) |"
        )


def cell(runs: list[dict[str, Any]], name: str, form: str) -> str:
    """The median of a figure, and its range."""
    values = [run[name] for run in runs]
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
