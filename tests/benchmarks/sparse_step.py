"""Where the sparse step is faster than SAELens's: `python -m tests.benchmarks.sparse_step`.

The measurement behind the rule of `fast_step/topk_like.py`. Times SAELens's `training_forward_pass`
and `backward` against `SparseStep`, on the same SAE and the same random rows, in turns within one
process. Left out is what surrounds them in training and what the sparse step makes cheaper too:
SAELens's count of what fired, clipping and the optimiser. On one processor thread the time is the
process's own, which is the wall-clock of a core with nothing else to do. Prints a Markdown table of
medians, then where the rule and the stopwatch disagree. The default takes about eight minutes.
"""

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from sae_lens import TopKTrainingSAE, TrainingSAE, TrainingSAEConfig
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from sae_lens.saes.sae import TrainStepInput

from sae_lens_groups.train.fast_step import ALWAYS, AUTO, Scratch, step_of_config, step_of_sae
from tests.benchmarks.speed.clocks import is_cuda, seconds_of
from tests.benchmarks.speed.jobs import CPU, WALL

TOPK, BATCHTOPK, ABSTOPK = "topk", "batchtopk", "abstopk"
MATRYOSHKA = "matryoshka_batchtopk"
BATCHES = (512, 2048)
FEATURES_PER_ACTIVE = (512, 128, 64, 32, 16, 8, 4)
NEAR_THE_RULE = (64, 32, 16, 8, 4)
NEAREST = (32, 16, 8)
WITH_DEAD = (64, 16, 8)
DEAD = (0.02, 0.5)
DEAD_FEATURE_WINDOW = 1000
HEADER = (
    "| architecture | rows | d_in x d_sae | dead | k | d_sae/k | SAELens, ms | sparse, ms "
    "| times faster | rule | gradients differ by |\n|---|---|---|---|---|---|---|---|---|---|---|"
)
AT_LEAST_SECONDS = 0.2
"""Measured of each case: more rounds of small shapes, which take milliseconds."""
EVEN = 1.05
"""Times as fast, up to which two steps count as equally fast."""


@dataclass(frozen=True)
class Shape:
    """Widths of an SAE."""

    d_in: int
    d_sae: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`64x512`."""
        d_in, d_sae = text.split("x")
        return cls(int(d_in), int(d_sae))

    def __str__(self) -> str:
        return f"{self.d_in}x{self.d_sae}"


# The first two are for the rule's fewest features.
SHAPES = (
    Shape(32, 128),
    Shape(64, 256),
    Shape(64, 512),
    Shape(128, 2048),
    Shape(512, 4096),
    Shape(768, 12_288),
    Shape(2048, 16_384),
)
LARGE = SHAPES[-2:]
"""Measured near the rule alone where a step takes seconds, and in half as many rounds."""
VARIED = (Shape(128, 2048), Shape(512, 4096))
"""Measured with every architecture, and with dead features."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the table."""

    shape: Shape
    n_rows: int
    k: int
    architecture: str = TOPK
    dead: float = 0.0
    """The part of the features that is dead."""

    @property
    def features_per_active(self) -> float:
        """What the rule looks at."""
        return self.shape.d_sae / self.k

    @property
    def is_sparse_by_rule(self) -> bool:
        """Whether `fast_step: auto` trains this SAE with the sparse step."""
        return step_of_config(_sae_config(self, "cpu"), AUTO).step is not None


@dataclass(frozen=True, kw_only=True)
class Times:
    """What was measured of a case."""

    saelens_ms: float
    sparse_ms: float
    difference: float
    """The gradients' largest, over parameters: norm of the difference to norm of SAELens's."""

    @property
    def ratio(self) -> float:
        """How many times as fast the sparse step is."""
        return self.saelens_ms / self.sparse_ms


def main() -> None:
    """Measures every case and prints the table."""
    args = _parser().parse_args()
    torch.set_num_threads(args.threads)
    print(HEADER)
    found: dict[Case, Times] = {}
    for case in cases(args.shapes):
        n_rounds = args.rounds if case.shape not in LARGE else -(-args.rounds // 2)
        found[case] = measure(case, n_rounds, args.device)
        print(_row(case, found[case]), flush=True)
    print(f"\n{_device_name(args.device)}, {args.threads} thread(s), torch {torch.__version__}.")
    print("\n".join(_summary(found)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.sparse_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--shapes", nargs="+", type=Shape.parse, default=SHAPES, help="such as 64x512 128x2048"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of the two largest shapes: half")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def cases(shapes: tuple[Shape, ...]) -> Iterator[Case]:
    """TopK on the whole grid, other architectures and dead features on a part of it."""
    for shape in shapes:
        for n_rows in BATCHES if shape != LARGE[1] else BATCHES[:1]:
            is_slow = shape == LARGE[1] or (shape == LARGE[0] and n_rows == BATCHES[1])
            for ratio in NEAREST if is_slow else FEATURES_PER_ACTIVE:
                if shape.d_sae >= ratio:
                    yield Case(shape=shape, n_rows=n_rows, k=shape.d_sae // ratio)
    for shape in shapes:
        if shape in VARIED:
            yield from _varied(shape)


def _varied(shape: Shape) -> Iterator[Case]:
    topk = Case(shape=shape, n_rows=BATCHES[-1], k=1)
    for architecture in (BATCHTOPK, ABSTOPK, MATRYOSHKA):
        for ratio in NEAR_THE_RULE:
            yield replace(topk, architecture=architecture, k=shape.d_sae // ratio)
    for architecture in (TOPK, BATCHTOPK, ABSTOPK, MATRYOSHKA) if shape == VARIED[0] else (TOPK,):
        for dead in DEAD:
            for ratio in WITH_DEAD:
                yield replace(topk, architecture=architecture, dead=dead, k=shape.d_sae // ratio)


def measure(case: Case, n_rounds: int, device: str) -> Times:
    """Times both steps in turns, after a turn that warms up and whose gradients are compared."""
    torch.manual_seed(0)
    sae = _make_sae(case, device)
    rows_BD = torch.randn(case.n_rows, case.shape.d_in, device=device)
    n_steps_F = torch.zeros(case.shape.d_sae, device=device)
    n_steps_F[: round(case.dead * case.shape.d_sae)] = 2 * DEAD_FEATURE_WINDOW
    steps = {
        "saelens": _saelens_step(sae, rows_BD, n_steps_F),
        "sparse": _sparse_step(sae, rows_BD, n_steps_F),
    }
    gradients = {name: _gradients(sae, step) for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    start = time.perf_counter()
    for round_number in itertools.count():
        if round_number >= n_rounds and time.perf_counter() > start + AT_LEAST_SECONDS:
            break
        order = list(steps)
        random.Random(round_number).shuffle(order)
        for name in order:
            seconds[name].append(_seconds_of(steps[name], device))
    return Times(
        saelens_ms=1000 * statistics.median(seconds["saelens"]),
        sparse_ms=1000 * statistics.median(seconds["sparse"]),
        difference=max(map(_difference, gradients["sparse"], gradients["saelens"])),
    )


def _seconds_of(step: Callable[[], object], device: str) -> float:
    """Wall-clock, or of a single processor thread the same without what others take from it."""
    is_alone = torch.get_num_threads() == 1 and not is_cuda(device)
    return seconds_of(step, device, CPU if is_alone else WALL)


def _make_sae(case: Case, device: str) -> TopKTrainingSAE:
    sae = TrainingSAE.from_dict(_sae_config(case, device).to_dict())
    assert isinstance(sae, TopKTrainingSAE)
    return sae


def _sae_config(case: Case, device: str) -> TrainingSAEConfig:
    config_class: Any = SAE_TRAINING_CLASS_REGISTRY[case.architecture][1]
    d_sae = case.shape.d_sae
    levels = {"matryoshka_widths": [d_sae // 16, d_sae // 4, d_sae]}
    return config_class(
        d_in=case.shape.d_in,
        d_sae=d_sae,
        k=case.k,
        device=device,
        **(levels if case.architecture == MATRYOSHKA else {}),
    )


def _saelens_step(
    sae: TopKTrainingSAE, rows_BD: torch.Tensor, n_steps_F: torch.Tensor
) -> Callable[[], None]:
    """SAELens's forward and backward pass, as its trainer calls them."""

    def step() -> None:
        sae.zero_grad()
        step_input = TrainStepInput(
            sae_in=rows_BD,
            dead_neuron_mask=n_steps_F > DEAD_FEATURE_WINDOW,
            coefficients={},
            n_training_steps=0,
            is_logging_step=False,
        )
        sae.training_forward_pass(step_input).loss.backward()

    return step


def _sparse_step(
    sae: TopKTrainingSAE, rows_BD: torch.Tensor, n_steps_F: torch.Tensor
) -> Callable[[], object]:
    step = step_of_sae(sae, ALWAYS).step
    assert step is not None
    sparse = step(sae, DEAD_FEATURE_WINDOW, Scratch())
    return lambda: sparse(rows_BD, n_steps_F, {})


def _gradients(sae: TopKTrainingSAE, step: Callable[[], object]) -> list[torch.Tensor]:
    """A copy of every parameter's gradient after a step."""
    step()
    gradients = [parameter.grad for parameter in sae.parameters()]
    return [gradient.clone() for gradient in gradients if gradient is not None]


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def _row(case: Case, times: Times) -> str:
    cells = [
        case.architecture,
        f"{case.n_rows:,}",
        str(case.shape),
        f"{case.dead:.0%}",
        str(case.k),
        f"{case.features_per_active:g}",
        f"{times.saelens_ms:,.1f}",
        f"{times.sparse_ms:,.1f}",
        f"{times.ratio:.2f}",
        "sparse" if case.is_sparse_by_rule else "SAELens",
        f"{times.difference:.0e}",
    ]
    return f"| {' | '.join(cells)} |"


def _summary(found: dict[Case, Times]) -> Iterator[str]:
    """What the rule gives up, and the worst speed ratio at every d_sae/k."""
    wrong = {
        case: times
        for case, times in found.items()
        if (times.ratio if not case.is_sparse_by_rule else 1 / times.ratio) > EVEN
    }
    yield (
        f"\nThe rule names the slower step, by more than {EVEN - 1:.0%}, in {len(wrong)} of "
        f"{len(found)} cases.\n"
    )
    if wrong:
        yield HEADER
    yield from (_row(case, times) for case, times in wrong.items())
    yield "\n| d_sae/k | times faster: lowest | median | highest |\n|---|---|---|---|"
    for ratio in sorted({case.features_per_active for case in found}, reverse=True):
        speeds = [t.ratio for case, t in found.items() if case.features_per_active == ratio]
        yield f"| {ratio:g} | {min(speeds):.2f} | {statistics.median(speeds):.2f} | {max(speeds):.2f} |"


def _device_name(device: str) -> str:
    if is_cuda(device):
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    main()
