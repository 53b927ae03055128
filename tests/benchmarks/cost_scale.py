"""What training costs as it grows: `python -m tests.benchmarks.cost_scale --figure speed_scale.png`.

Seconds per million tokens (tokens per SAE) against layers of the language model, groups, d_sae and
k, each varied alone around one shape: this package with groups of layers, this package with an SAE
per layer, and SAELens's multi-SAE runner, which trains an SAE per layer too.

Every run has a process of its own and trains on random tokens through a random language model, for
speed depends on shapes alone. Measured is the steady state: from the second step on, whole turns of
one pass of the language model and the two steps that it feeds, until some seconds are over. What a
run does once (filling the buffer, first use of memory) is left out. On one processor thread the time
is the process's own, which is the wall-clock of a core with nothing else to do. Two rounds of all
points, each in an order of its own; medians. Prints a Markdown table, and draws the figure where
asked to.
"""

import argparse
import contextlib
import itertools
import multiprocessing
import os
import random
import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from torch.optim.optimizer import register_optimizer_step_post_hook

from sae_lens_groups.plan.picture import CHOSEN, LEVEL_CURVES
from tests.benchmarks.speed import models, ways
from tests.benchmarks.speed.clocks import CLOCKS, is_cuda
from tests.benchmarks.speed.jobs import (
    CPU,
    EACH,
    FLOAT32,
    GROUPS,
    HOOKED_TRANSFORMER,
    MULTI,
    SHAPES,
    TOKENS_PER_LM_BATCH,
    WALL,
    Job,
    Shape,
)

D_MODEL = 256
BATCH = 1024
BATCHES_IN_BUFFER = 4
STEPS_PER_TURN = TOKENS_PER_LM_BATCH // BATCH
MOST_STEPS = 64
MOST_FEATURES = {GROUPS: 2**20, EACH: 2**20, MULTI: 2**18}
"""Of all SAEs that a run trains; with more, it is left out: it takes more than a minute."""

LINES = {
    MULTI: ("SAELens, an SAE per layer", LEVEL_CURVES[3], "^"),
    EACH: ("sae_lens_groups, an SAE per layer", LEVEL_CURVES[0], "s"),
    GROUPS: ("sae_lens_groups, groups of layers", CHOSEN, "o"),
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """What is trained."""

    n_layers: int = 12
    n_groups: int = 4
    d_sae: int = 8192
    k: int = 32

    @property
    def layer_groups(self) -> str:
        """Groups of equal size, or nearly so: `0-2,3-5`."""
        starts = [n * self.n_layers // self.n_groups for n in range(self.n_groups + 1)]
        return ",".join(
            str(first) if end == first + 1 else f"{first}-{end - 1}"
            for first, end in itertools.pairwise(starts)
        )


@dataclass(frozen=True)
class Axis:
    """One number of a point, varied alone."""

    name: str
    label: str
    values: tuple[int, ...]

    def points(self) -> list[Point]:
        """One for every value."""
        return [replace(Point(), **{self.name: value}) for value in self.values]


AXES = (
    Axis("n_layers", "layers of the language model", (6, 12, 24, 48)),
    Axis("n_groups", "groups of the 12 layers", (1, 2, 3, 4, 6, 12)),
    Axis("d_sae", "d_sae", (2048, 4096, 8192, 16_384, 32_768, 65_536)),
    Axis("k", "k", (16, 32, 64, 128, 256)),
)


@dataclass(frozen=True)
class Run:
    """One way of training a point, to be measured in a process of its own."""

    way: str
    point: Point

    @property
    def n_saes(self) -> int:
        """Trained at once."""
        return self.point.n_groups if self.way == GROUPS else self.point.n_layers

    @property
    def is_measured(self) -> bool:
        """Whether it takes bearable time."""
        return self.n_saes * self.point.d_sae <= MOST_FEATURES[self.way]


@dataclass(frozen=True)
class Settings:
    """What all runs have in common."""

    device: str
    threads: int
    seconds: float
    """At least so long is measured."""


Found = dict[Run, float]
"""Seconds per million tokens."""


def main() -> None:
    """Measures every point, prints the table and draws the figure."""
    args = _parser().parse_args()
    settings = Settings(args.device, args.threads, args.seconds)
    found = measure_all(args.repeats, args.seed, settings)
    print_table(found)
    print(f"\n{caption(settings)}")
    if args.figure:
        save_figure(found, args.figure, settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.cost_scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--figure", type=Path, help="draw it here (png, pdf, svg)")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2, help="measured of each run, at least")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the order of the runs")
    return parser


# --- measuring ---


def measure_all(repeats: int, seed: int, settings: Settings) -> Found:
    """Medians over the repeats."""
    os.environ |= {"OMP_NUM_THREADS": str(settings.threads), "TQDM_DISABLE": "1"}
    # The server imports torch once; the processes that it forks only train.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([ways.__name__])
    seconds: dict[Run, list[float]] = {run: [] for run in all_runs()}
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for repeat in range(repeats):
            order = list(seconds)
            random.Random(f"{seed} {repeat}").shuffle(order)
            for run in order:
                seconds[run].append(pool.submit(measure, run, settings).result())
                print(repeat, run, f"{seconds[run][-1]:.1f}", file=sys.stderr, flush=True)
    return {run: statistics.median(times) for run, times in seconds.items()}


def all_runs() -> list[Run]:
    """Every run that is measured, once."""
    runs = [Run(way, point) for axis in AXES for point in axis.points() for way in LINES]
    return list(dict.fromkeys(run for run in map(_as_measured, runs) if run.is_measured))


def _as_measured(run: Run) -> Run:
    """The run that stands for it: with an SAE per layer, any number of groups is the same."""
    if run.way == GROUPS and run.point.n_groups < run.point.n_layers:
        return run
    if run.way == GROUPS:  # of one layer each
        run = replace(run, way=EACH)
    return replace(run, point=replace(run.point, n_groups=Point().n_groups))


def measure(run: Run, settings: Settings) -> float:
    """Seconds per million tokens of a run in this process."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    job = _job(run, settings)
    models.K = run.point.k
    (runner,) = ways.RUNNERS[run.way](job, models.make_model(job), models.make_dataset(job))
    watch = Watch(settings, run.n_saes)
    with watch.over_all_optimizers(), contextlib.suppress(Enough):
        runner.run()
    return watch.seconds_per_token * 1e6


def _job(run: Run, settings: Settings) -> Job:
    SHAPES["scaled"] = Shape(
        d_model=D_MODEL,
        n_heads=4,
        d_vocab=1000,
        d_sae=run.point.d_sae,
        batch=BATCH,
        tokens=BATCH,
        single_layers=0,
    )
    return Job(
        way=run.way,
        shape_name="scaled",
        model_class=HOOKED_TRANSFORMER,
        n_layers=run.point.n_layers,
        lm_dtype=FLOAT32,
        layer_groups=run.point.layer_groups if run.way == GROUPS else EACH,
        single_layers=(),
        normalize_activations="none",
        tokens=(MOST_STEPS + 2) * BATCH,
        batch=BATCH,
        batches_in_buffer=BATCHES_IN_BUFFER,
        device=settings.device,
        threads=settings.threads,
        seed=0,
    )


class Enough(BaseException):  # nothing went wrong, and a run makes errors of its own of others
    """Ends a run that was measured for long enough."""


class Watch:
    """Times a run by the steps of its optimisers, of which every SAE has one."""

    def __init__(self, settings: Settings, n_saes: int) -> None:
        self.settings = settings
        self.n_saes = n_saes
        self.seconds_per_token = float("nan")
        self._n_calls = 0
        self._start = float("nan")

    @contextlib.contextmanager
    def over_all_optimizers(self) -> Iterator[None]:
        """Watches every optimiser that takes a step in the meantime.

        Raises:
            Enough: from their `step`, when enough is measured.
        """
        hook = register_optimizer_step_post_hook(lambda *_: self._after_one())
        try:
            yield
        finally:
            hook.remove()

    def _after_one(self) -> None:
        self._n_calls += 1
        if self._n_calls % self.n_saes:
            return
        n_measured = self._n_calls // self.n_saes - 1
        if n_measured == 0:
            self._start = self._now()
        elif n_measured % STEPS_PER_TURN == 0:
            seconds = self._now() - self._start
            if seconds >= self.settings.seconds or n_measured == MOST_STEPS:
                self.seconds_per_token = seconds / (n_measured * BATCH)
                raise Enough

    def _now(self) -> float:
        """Wall-clock, or of a single processor thread the same without what others take from it."""
        if is_cuda(self.settings.device):
            torch.cuda.synchronize(self.settings.device)
        is_alone = self.settings.threads == 1 and not is_cuda(self.settings.device)
        return CLOCKS[CPU if is_alone else WALL]()


# --- showing ---


def print_table(found: Found) -> None:
    """Every point: seconds per million tokens, and how many times SAELens's speed."""
    print("| varied | value | SAELens | each | groups | each, times as fast | groups |")
    print("|---|---|---|---|---|---|---|")
    for axis in AXES:
        for value, point in zip(axis.values, axis.points()):
            seconds = {way: found.get(_as_measured(Run(way, point))) for way in LINES}
            theirs = seconds[MULTI]
            cells = [axis.label, f"{value:,}", *(_cell(s, ",.0f") for s in seconds.values())]
            cells += [
                _cell(theirs / ours if theirs and ours else None, ".1f")
                for ours in (seconds[EACH], seconds[GROUPS])
            ]
            print(f"| {' | '.join(cells)} |")


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def save_figure(found: Found, path: Path, settings: Settings) -> None:
    """Writes the figure under this path, which decides its format."""
    figure = Figure(figsize=(8.4, 6.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharey=True)
    for axes, axis in zip(panels.flat, AXES):
        draw_axis(axes, axis, found)
    for axes in panels[:, 0]:
        axes.set_ylabel("seconds per million tokens")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.supxlabel(caption(settings), fontsize=9, color="#444444", linespacing=1.4)
    figure.savefig(path, dpi=130)


def draw_axis(axes: Axes, axis: Axis, found: Found) -> None:
    """One panel: a line for each way."""
    for way, (label, colour, marker) in LINES.items():
        runs = {v: _as_measured(Run(way, p)) for v, p in zip(axis.values, axis.points())}
        measured = {value: found[run] for value, run in runs.items() if run in found}
        is_varied = len(set(runs.values())) > 1
        style = f"-{marker}" if is_varied else "--"
        axes.plot(
            *zip(*measured.items()), style, color=colour, label=label, markersize=5, clip_on=False
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(axis.values, [_tick(value) for value in axis.values])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel(axis.label)
    axes.grid(alpha=0.25)


def _tick(value: int) -> str:
    return f"{value // 1024}k" if value >= 1024 else str(value)


def caption(settings: Settings) -> str:
    """What the points have in common, and which are missing."""
    base = Point()
    device = "CPU"
    if is_cuda(settings.device):
        device = torch.cuda.get_device_name(settings.device)
    return (
        f"{base.n_layers} layers, {base.n_groups} groups, d_model {D_MODEL}, d_sae {base.d_sae:,}, "
        f"k {base.k}, batches of {BATCH:,}; one number varied alone. {device}, "
        f"{settings.threads} thread{'s' * (settings.threads > 1)}.\n"
        "SAELens: its MultiSAETrainingRunner; left out where three steps take over a minute. "
        "Dashed: no groups to vary."
    )


if __name__ == "__main__":
    main()
