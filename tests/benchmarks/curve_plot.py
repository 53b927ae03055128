"""Plots of scores against what changes."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tests.benchmarks.from_cache import METRICS, Result, mean


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
