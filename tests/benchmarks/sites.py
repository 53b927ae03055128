"""What three sites cost in one run, and in a run of each: `python -m tests.benchmarks.sites`.

TopK SAEs of the demo model's residual stream, of its MLPs' output and of its attention's, with groups
and with an SAE per layer. Every run has a process of its own.
"""

import argparse
import tempfile
from collections.abc import Sequence
from statistics import median
from typing import Any

from tests.benchmarks.own_process import in_own_process, log

SITES = ("gpt_neox.layers.0", "gpt_neox.layers.0.mlp", "gpt_neox.layers.0.attention.dense")


def main() -> None:
    """Runs all rounds and prints a row per way."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sites", description=__doc__)
    parser.add_argument("--tokens", type=int, default=100_000, help="per SAE")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print("| way | one run | three runs | share | memory of one run, of each |\n|" + "---|" * 5)
    for way in ("even:3", "each"):
        rounds = [_one_round(way, args.tokens, seed) for seed in range(args.rounds)]
        print(_row(way, rounds), flush=True)


def _one_round(way: str, tokens: int, seed: int) -> list[dict[str, float]]:
    """What the run of all sites took, and that of each."""
    found = []
    for sites in (SITES, *([site] for site in SITES)):
        given = {"sites": sites, "layer_groups": way, "tokens": tokens, "seed": seed}
        found.append(in_own_process(train, **given))
        log(None, {**given, **found[-1]})
    return found


def train(sites: Sequence[str], layer_groups: str, tokens: int, seed: int) -> dict[str, float]:
    """Processor time of a run with one thread, from the config to the suites on disk, and its memory."""
    import resource

    import torch

    from sae_lens_groups import SweepTrainingRunner
    from sae_lens_groups.demo.model import stdlib_tokens
    from sae_lens_groups.demo.run import demo_config
    from tests.benchmarks.demo_runs import Watch

    torch.set_num_threads(1)
    dataset = stdlib_tokens("train", seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch()
        sweep = [f"hook_name={','.join(sites)}"]
        cfg: Any = demo_config(layer_groups, f"{folder}/out", tokens, seed=seed, sweep=sweep)
        SweepTrainingRunner(cfg, override_dataset=dataset).run()
        seconds = watch.seconds()["cpu_seconds"]
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak_mib": peak_kib / 1024}


def _row(way: str, rounds: Sequence[Sequence[dict[str, float]]]) -> str:
    together = [run["seconds"] for run, *_ in rounds]
    apart = [sum(run["seconds"] for run in runs) for _, *runs in rounds]
    shares = sorted(one / three for one, three in zip(together, apart))
    memory = [median(run["peak_mib"] for run in runs) for runs in zip(*rounds)]
    cells = [
        way,
        f"{median(together):.1f} s",
        f"{median(apart):.1f} s",
        f"{median(shares):.2f} ({shares[0]:.2f} to {shares[-1]:.2f})",
        f"{memory[0]:,.0f}, {max(memory[1:]):,.0f} MiB",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
