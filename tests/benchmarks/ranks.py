"""What a second process brings on two cores: `python -m tests.benchmarks.ranks`.

The demo's model with an SAE per layer, and with four groups of a larger SAE, trained by one process
with one thread, one with two, and two with one each. Wall-clock of `run`, without imports and
loading; ways take turns, so that what else the machine does meets all of them.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


class Way(NamedTuple):
    """How a run is started."""

    name: str
    n_processes: int
    n_threads: int


WAYS = (
    Way("1 process, 1 thread", 1, 1),
    Way("1 process, 2 threads", 1, 2),
    Way("2 processes", 2, 1),
)
SHAPES = {"each, d_sae 768": ("each", 768), "4 groups, d_sae 6,144": ("0-3,4-7,8-10,11", 6144)}


def main() -> None:
    """Prints the median seconds of each way, and how many times as fast as the first it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--training_tokens", type=int, default=60_000)
    args = parser.parse_args()
    for shape in SHAPES:
        seconds: dict[Way, list[float]] = {way: [] for way in WAYS}
        for _ in range(args.rounds):
            for way in WAYS:
                seconds[way].append(timed(way, shape, args.training_tokens))
        first = statistics.median(seconds[WAYS[0]])
        for way, found in seconds.items():
            median = statistics.median(found)
            spread = f"{min(found):.1f} to {max(found):.1f}"
            print(f"{shape:24} {way.name:22} {median:6.1f} s ({spread})  {first / median:.2f}x")


def timed(way: Way, shape: str, training_tokens: int) -> float:
    """The seconds that the slowest process took for a run."""
    with socket.socket() as found, tempfile.TemporaryDirectory() as folder:
        found.bind(("127.0.0.1", 0))
        world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(found.getsockname()[1])}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(way.n_threads))
        world |= {"WORLD_SIZE": str(way.n_processes), **threads}
        found.close()
        command = [sys.executable, "-m", __spec__.name, "--", shape, str(training_tokens), folder]
        started = [
            subprocess.Popen(
                command,
                env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for rank in range(way.n_processes)
        ]
        shown = [process.communicate()[0] for process in started]
    return max(json.loads(text.splitlines()[-1]) for text in shown)


def train(shape: str, training_tokens: int, folder: Path) -> float:
    """The seconds of one run, in this process."""
    from sae_lens import TopKTrainingSAEConfig

    from sae_lens_groups import GroupSAETrainingRunner
    from sae_lens_groups.demo import stdlib_tokens
    from sae_lens_groups.demo.model import D_IN
    from sae_lens_groups.demo.run import demo_config

    layer_groups, d_sae = SHAPES[shape]
    sae = TopKTrainingSAEConfig(
        d_in=D_IN, d_sae=d_sae, k=16, normalize_activations="expected_average_only_in"
    )
    cfg = demo_config(layer_groups, folder / "suite", training_tokens, sae=sae)
    runner = GroupSAETrainingRunner(cfg, stdlib_tokens("train"))
    start = time.perf_counter()
    runner.run()
    return time.perf_counter() - start


if __name__ == "__main__":
    if sys.argv[1:2] == ["--"]:
        print(json.dumps(train(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
    else:
        main()
