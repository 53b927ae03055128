"""Suites that all read one cache of activations for each seed, scored layer by layer."""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tests.benchmarks.demo_runs import Figures, Run, cache, in_turn, train
from tests.benchmarks.own_process import log
from tests.benchmarks.real_model import only
from tests.benchmarks.subjects import subject

METRICS = {"explained_variance": "explained variance", "ce_loss_score": "CE-loss score"}
_FLOAT32: Run = {"autocast_lm": False}
_COMMON: Run = {**_FLOAT32, "architecture": "batchtopk"}
Result = Mapping[str, Any]


class Rounds:
    """Trains and scores BatchTopK SAEs in this process; what the log has is not done again."""

    def __init__(
        self, args: argparse.Namespace, cached_tokens: int, layers: str, scored: Iterable[int]
    ) -> None:
        self._log, self._smollm2 = args.log, args.smollm2
        self._cached_tokens, self._layers, self._scored = cached_tokens, layers, list(scored)
        self._of = subject(args.smollm2)
        self._caches: dict[int, tuple[str, float]] = {}
        self._folders = ExitStack()
        self._model: Any = None
        lines = args.log.read_text().splitlines() if args.log and args.log.exists() else ()
        self._found = {_key(of["runs"], of["seed"]): of for of in map(json.loads, lines)}

    def __enter__(self) -> "Rounds":
        return self

    def __exit__(self, *_: object) -> None:
        self._folders.close()

    def results(self, each: Iterable[list[Run]], seed: int) -> list[Result]:
        """Of several lists of runs what `result` gives."""
        return [self.result(runs, seed) for runs in each]

    def result(self, runs: list[Run], seed: int) -> Result:
        """Seconds of runs that start from one another, and scores of the last one's layers.

        `lm_cpu_seconds` are those of the language model for a token of the cache.
        """
        if (key := _key(runs, seed)) not in self._found:
            path, lm_cpu_seconds = self._cache(seed)
            with tempfile.TemporaryDirectory() as folder:

                def do(**run: Any) -> Figures:
                    common = {**self._of.settings, **_COMMON, "smollm2": self._smollm2}
                    cached = {"use_cached_activations": True, "cached_activations_path": path}
                    own = {**run, "seed": seed, "is_scored": False}
                    return train(**{**common, **cached, **own})

                seconds = in_turn(runs, folder, do)
                layers = self._scores(Path(folder, str(len(runs) - 1)))
            own = {"lm_cpu_seconds": lm_cpu_seconds, "layers": layers}
            self._found[key] = {"runs": runs, "seed": seed, **seconds, **own}
            log(self._log, self._found[key])
        return self._found[key]

    def _cache(self, seed: int) -> tuple[str, float]:
        if seed not in self._caches:
            path = self._folders.enter_context(tempfile.TemporaryDirectory()) + "/cache"
            settings = {**self._of.settings, **_FLOAT32, "layer_groups": self._layers}
            found = cache(self._cached_tokens, seed, path, self._smollm2, **settings)
            self._caches[seed] = path, found["cpu_seconds"] / found["cached_tokens"]
        return self._caches[seed]

    def _scores(self, suite: Path) -> dict[str, Figures]:
        from sae_lens_groups import evaluate_suite
        from sae_lens_groups.activations import load_hooked_model

        cfg = self._of.config(self._layers, None, 4096)
        if self._model is None:
            self._model = load_hooked_model(cfg, None)
        text, size = self._of.dataset("held_out"), self._of.held_out
        names = map(cfg.hook_template.hook_name, self._scored)
        with only(suite, names) as folder:
            found = evaluate_suite(folder, self._model, text, **size)
        metrics = (*METRICS, "l0")
        return {str(of.layer): {name: of.metrics[name] for name in metrics} for of in found}


def _key(runs: list[Run], seed: int) -> str:
    return json.dumps([runs, seed], sort_keys=True)


def mean(result: Result, metric: str, layers: Iterable[str] | None = None) -> float:
    """A score's mean over all layers, or those given."""
    return statistics.fmean(result["layers"][of][metric] for of in layers or result["layers"])


class Curve(NamedTuple):
    """Results of several seeds at each point of a line."""

    label: str
    xs: Sequence[float]
    results: Sequence[Sequence[Result]]


def draw(path: Path, title: str, panels: Mapping[str, Sequence[Curve]]) -> None:
    """A column for each panel, a row for each metric: medians, with the lowest and the highest."""
    figure = Figure(figsize=(3.3 * len(panels), 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(METRICS), len(panels), squeeze=False)
    for row, (metric, name) in zip(grid, METRICS.items()):
        row[0].set_ylabel(name)
        for axes, (x_label, curves) in zip(row, panels.items()):
            for curve in curves:
                _line(axes, curve, [[mean(of, metric) for of in at] for at in curve.results])
            axes.set_xscale("log")
            axes.set_xlabel(x_label)
            if {x for curve in curves for x in curve.xs} <= {*curves[0].xs}:
                axes.set_xticks(curves[0].xs, [_short(x) for x in curves[0].xs], minor=False)
                axes.set_xticks([], minor=True)
            axes.grid(alpha=0.25)
    told: list[str] = []
    for axes, curves in zip(grid[0], panels.values()):
        labels = [curve.label for curve in curves]
        if len(labels) > 1 and labels != told:
            axes.legend(fontsize=7)
            told = labels
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=110)


def _short(x: float) -> str:
    return f"{x / 1000:g}k" if x >= 10_000 else f"{x:g}"


def _line(axes: Axes, curve: Curve, values: list[list[float]]) -> None:
    middle = [statistics.median(of) for of in values]
    below = [median - min(of) for median, of in zip(middle, values)]
    above = [max(of) - median for median, of in zip(middle, values)]
    axes.errorbar(curve.xs, middle, [below, above], marker="o", ms=4, capsize=3, label=curve.label)
