"""What a second process brings on two cores: `python -m tests.benchmarks.ranks`.

The demo's model with an SAE per layer, and with four and three groups of a larger SAE, and
Pythia-160M's shape with BatchTopK SAEs under autocast, trained by one process with one thread, one
with two, and two with one each. Wall-clock of `run`, without imports and loading; ways take turns,
so that what else the machine does meets all of them. `--plot FILE` draws what it finds, with what
its parts make of more ranks.
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
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.benchmarks.ranks_plot import Measured, Parts, draw, simulated

if TYPE_CHECKING:
    from sae_lens_groups import GroupSAETrainingRunner


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
DEMO_SHAPES = {
    "each, d_sae 768": ("each", 768),
    "4 groups, d_sae 6,144": ("0-3,4-7,8-10,11", 6144),
    "3 groups, d_sae 24,576": ("0-3,4-7,8-11", 24_576),
}
PYTHIA = "Pythia-160M's shape"
SHAPES = (*DEMO_SHAPES, PYTHIA)


def main() -> None:
    """Prints the median seconds of each way, and how many times as fast as the first it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--training_tokens", type=int, default=60_000, help="of the demo's model")
    parser.add_argument("--plot", type=Path, help="a PNG of the speed against the number of ranks")
    args = parser.parse_args()
    measured: list[Measured] = []
    for shape in args.shapes:
        seconds: dict[Way, list[float]] = {way: [] for way in WAYS}
        parts: list[Parts] = []
        for _ in range(args.rounds):
            for way in WAYS:
                found = timed(way, shape, args.training_tokens)
                seconds[way].append(found.seconds)
                parts += [found.parts] if way == WAYS[0] else []
        first = statistics.median(seconds[WAYS[0]])
        for way, found in seconds.items():
            median = statistics.median(found)
            spread = f"{min(found):.1f} to {max(found):.1f}"
            print(f"{shape:24} {way.name:22} {median:6.1f} s ({spread})  {first / median:.2f}x")
        of_two = statistics.median(seconds[WAYS[-1]])
        measured.append(Measured(shape, first, of_two, parts[0]))
        print(f"{shape:24} simulated on 2 ranks   {simulated(measured[-1], 2):6.1f} s")
    if args.plot:
        draw(measured, args.plot)


class Timed(NamedTuple):
    """A run of one process, or the slowest of several."""

    seconds: float
    parts: Parts


def timed(way: Way, shape: str, training_tokens: int) -> Timed:
    """How long a run took."""
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
    seconds, parts = max(json.loads(text.splitlines()[-1]) for text in shown)
    return Timed(seconds, Parts(*parts))


def train(shape: str, training_tokens: int, folder: Path) -> Timed:
    """One run, in this process."""
    from sae_lens_groups.activations.store import GroupActivationsStore
    from sae_lens_groups.train.trainer import GroupSAETrainer

    is_pythia = shape == PYTHIA
    runner = pythia_runner(folder) if is_pythia else demo_runner(shape, training_tokens, folder)
    cfg = runner.cfg
    seconds_lm = counted(GroupActivationsStore, "capture")
    seconds_sae = counted(GroupSAETrainer, "step")
    start, worked = time.perf_counter(), time.process_time()
    runner.run()
    worked = time.process_time() - worked
    batch_bytes = cfg.store_batch_size_prompts * cfg.context_size * (cfg.sae.d_in * 4 + 4)
    parts = Parts(
        len(runner.groups),
        len(seconds_lm),
        batch_bytes,
        sum(seconds_lm) / worked,
        sum(seconds_sae) / worked,
    )
    return Timed(time.perf_counter() - start, parts)


def demo_runner(shape: str, training_tokens: int, folder: Path) -> "GroupSAETrainingRunner":
    """TopK SAEs for the demo's model."""
    from sae_lens import TopKTrainingSAEConfig

    from sae_lens_groups import GroupSAETrainingRunner
    from sae_lens_groups.demo import stdlib_tokens
    from sae_lens_groups.demo.model import D_IN
    from sae_lens_groups.demo.run import demo_config

    layer_groups, d_sae = DEMO_SHAPES[shape]
    sae = TopKTrainingSAEConfig(
        d_in=D_IN, d_sae=d_sae, k=16, normalize_activations="expected_average_only_in"
    )
    cfg = demo_config(layer_groups, folder / "suite", training_tokens, sae=sae)
    return GroupSAETrainingRunner(cfg, stdlib_tokens("train"))


def pythia_runner(folder: Path) -> "GroupSAETrainingRunner":
    """An SAE per layer of a random model, in as many steps as `tests.benchmarks.speed` takes."""
    import torch

    from sae_lens_groups import GroupSAETrainingRunner
    from tests.benchmarks.speed import jobs
    from tests.benchmarks.speed.models import make_dataset, make_model
    from tests.benchmarks.speed.ways import grouped_config

    name = "pythia-160m"
    shape = jobs.SHAPES[name]
    job = jobs.Job(
        way=jobs.EACH,
        shape_name=name,
        architecture="batchtopk",
        autocast=True,
        model_class=jobs.HOOKED_TRANSFORMER,
        lm_dtype=jobs.AUTOCAST,
        n_layers=shape.n_layers,
        layer_groups=jobs.EACH,
        single_layers=(),
        normalize_activations="none",
        tokens=shape.tokens,
        batch=shape.batch,
        device="cpu",
        threads=1,
        seed=0,
    )
    torch.manual_seed(job.seed)  # the same model and text on every rank
    cfg = grouped_config(job)
    cfg.output_path = str(folder / "suite")  # where several ranks write, each its part
    return GroupSAETrainingRunner(cfg, make_dataset(job), make_model(job))


def counted(owner: type, method: str) -> list[float]:
    """The seconds that the processor works in each call of a method, from now on."""
    real, seconds = getattr(owner, method), []

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return real(*args, **kwargs)
        finally:
            seconds.append(time.process_time() - start)

    setattr(owner, method, call)
    return seconds


if __name__ == "__main__":
    if sys.argv[1:2] == ["--"]:
        print(json.dumps(train(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
    else:
        main()
