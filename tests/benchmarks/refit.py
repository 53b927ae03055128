"""What decoders of each layer's own are worth, by how many tokens they were refitted to.

    python -m tests.benchmarks.refit demo work               # three seeds of two architectures
    python -m tests.benchmarks.refit real smollm2 TEXTS work  # a suite of tests.benchmarks.real_model

The demo's groups are trained once into `work`, 600,000 tokens each. A line per suite: mean explained
variance and CE-loss score of its layers on held-out text, the smallest change of any layer, and
the processor's seconds of the refit with one thread, its pass of the language model included.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sae_lens_groups import GroupSAETrainingRunner, SAESuite, evaluate_suite, refit_suite
from sae_lens_groups.activations import load_hooked_model
from sae_lens_groups.demo.model import stdlib_tokens
from sae_lens_groups.demo.run import demo_config
from tests.benchmarks import real_model
from tests.benchmarks.demo_runs import sae_config

TOKENS = (5_000, 20_000, 40_000)
BUDGET = 600_000
Scores = tuple[float, float]
"""Explained variance and CE-loss score of a layer."""
ARCHITECTURES = ("topk", "matryoshka_batchtopk")


def demo_suite(work: Path, architecture: str, layer_groups: str, seed: int) -> SAESuite:
    """Trained where it is not in `work` already."""
    folder = work / f"{architecture}-{layer_groups.replace(':', '')}-{seed}"
    if not folder.exists():
        flags = {"store_batch_size_prompts": 16, "n_batches_for_norm_estimate": 5}
        cfg = demo_config(
            layer_groups,
            folder,
            BUDGET,
            seed=seed,
            sae=sae_config(architecture),
            autocast_lm=True,
            **flags,
        )
        GroupSAETrainingRunner(cfg, stdlib_tokens("train", seed=seed)).run()
    return SAESuite.load(folder)


def demo(work: Path) -> None:
    model = None
    for architecture in ARCHITECTURES:
        for seed in (1, 2, 3):
            suite = demo_suite(work, architecture, "even:3", seed)
            model = model or load_hooked_model(demo_config("even:3", None), None)
            lines(
                f"{architecture}, seed {seed}",
                suite,
                partial(demo_scores, model),
                partial(refit_suite, suite, model, stdlib_tokens("train", seed=seed)),
            )


def demo_scores(model: Any, suite: SAESuite) -> list[Scores]:
    suite.path = None  # evaluations are not written
    found = evaluate_suite(suite, model, stdlib_tokens("held_out"), n_batches=3)
    return [_of(layer.metrics) for layer in found]


def real(model_folder: Path, texts: Sequence[Path], work: Path) -> None:
    text, held_out = real_model.texts(texts)
    way = real_model.WAYS["even:6"]
    cfg = real_model.config(model_folder, work, way, 1)
    model = load_hooked_model(cfg, None)
    suite = SAESuite.load(real_model.trained(cfg, text, model), layers=real_model.SCORED)
    six = real_model.WAYS["six layers, without outliers"]
    alone = real_model.trained(real_model.config(model_folder, work, six, 1), text, model)

    def scores(suite: SAESuite) -> list[Scores]:
        """Those of a baseline, which need not be a whole suite; shows those of an SAE per layer."""
        own = SAESuite.load(alone)
        own.path = None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = evaluate_suite(own, model, held_out, n_batches=1, baseline=dict(suite))
        print(f"(one SAE per layer: {means([_of(layer.metrics) for layer in found])})")
        return [_of(layer.baseline.metrics) for layer in found if layer.baseline is not None]

    lines("even:6", suite, scores, lambda n: refit_suite(suite, model, text, n))


def lines(
    name: str,
    suite: SAESuite,
    scores: Callable[[SAESuite], list[Scores]],
    refit: Callable[[int], SAESuite],
) -> None:
    """Prints the suite as it was trained, then refitted to more and more tokens."""
    before = scores(suite)
    print(f"| {name} | as trained | {means(before)} | | |", flush=True)
    for n_tokens in TOKENS:
        start = time.process_time()
        refitted = refit(n_tokens)
        seconds = time.process_time() - start
        after = scores(refitted)
        changes = [[a - b for a, b in zip(*pair)] for pair in zip(after, before)]
        worst = " ".join(f"{min(of):+.4f}" for of in zip(*changes))
        print(f"| | {n_tokens:,} | {means(after)} | {worst} | {seconds:.1f} s |", flush=True)


def _of(metrics: Mapping[str, float]) -> Scores:
    return metrics["explained_variance"], metrics["ce_loss_score"]


def means(found: Sequence[Scores]) -> str:
    return " | ".join(f"{statistics.fmean(values):.4f}" for values in zip(*found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo").add_argument("work", type=Path)
    of_real = commands.add_parser("real")
    of_real.add_argument("model", type=Path)
    of_real.add_argument("texts", type=Path, nargs="+")
    of_real.add_argument("work", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.command == "demo":
        demo(given.work)
    else:
        real(given.model, given.texts, given.work)


if __name__ == "__main__":
    main()
