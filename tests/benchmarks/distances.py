"""What measuring layer distances takes: `python -m tests.benchmarks.distances`.

Measures all 12 layers of the demo model on 200,000 tokens with every metric, and passes the same
tokens through the bare language model (no hooks, no unembedding). Everything in one process and one
thread, interleaved in an order of each round's own. Prints the median of each metric's ratios to the
bare passes of its round; beside it, how memory grows from 50,000 tokens to 200,000.
"""

import argparse
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from sae_lens_groups import measure_layer_distances
from sae_lens_groups.activations.model import load_hooked_model
from sae_lens_groups.demo.model import stdlib_tokens
from sae_lens_groups.demo.run import demo_config
from sae_lens_groups.plan.measure import all_layers_store

METRICS = ("angular", "cosine", "cka")
BARE = "bare language model"


def main() -> None:
    """Runs all rounds and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        metric, n_tokens = args.peak
        measure(metric, int(n_tokens))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    seconds = interleaved(args.tokens, args.rounds)
    bare = statistics.median(seconds[BARE])
    print(f"{BARE}: {bare:.1f} s for {args.tokens:,} tokens\n")
    print("| metric | time | of the bare pass | peak memory, 50,000 tokens | 200,000 tokens |")
    print("|---|---|---|---|---|")
    for metric in METRICS:
        ratios = [mine / theirs for mine, theirs in zip(seconds[metric], seconds[BARE])]
        peaks = " | ".join(f"{peak_mib(metric, n):.0f} MiB" for n in (50_000, 200_000))
        print(
            f"| {metric} | {statistics.median(seconds[metric]):.1f} s | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {peaks} |"
        )


def interleaved(n_tokens: int, rounds: int) -> dict[str, list[float]]:
    """Name -> seconds in each round."""
    cfg = demo_config("auto", None)
    dataset = stdlib_tokens("train")
    model = load_hooked_model(cfg, None)

    def bare() -> None:
        store = all_layers_store(cfg, model, dataset)
        n_read = 0
        with torch.no_grad():
            while n_read < n_tokens:
                tokens = store.get_batch_tokens()
                model.model.gpt_neox(tokens)  # type: ignore[operator, union-attr]
                n_read += tokens.numel()

    def measuring(metric: str) -> Callable[[], Any]:
        return lambda: measure_layer_distances(
            cfg, metric=metric, n_tokens=n_tokens, override_dataset=dataset, override_model=model
        )

    work = {BARE: bare, **{metric: measuring(metric) for metric in METRICS}}
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for round_number in range(rounds):
        order = list(work)
        random.Random(round_number).shuffle(order)
        for name in order:
            start = time.perf_counter()
            work[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def measure(metric: str, n_tokens: int) -> None:
    """Measures once, for its peak memory."""
    cfg = demo_config("auto", None)
    measure_layer_distances(
        cfg, metric=metric, n_tokens=n_tokens, override_dataset=stdlib_tokens("train")
    )


def peak_mib(metric: str, n_tokens: int) -> float:
    """Peak memory of a process that measures and does nothing else."""
    command = [sys.executable, "-m", "tests.benchmarks.distances", "--peak", metric, str(n_tokens)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(output.splitlines()[-1])


if __name__ == "__main__":
    main()
