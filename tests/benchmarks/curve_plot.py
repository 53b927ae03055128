"""Plots of scores against what changes."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from tests.benchmarks.from_cache import METRICS, Result, mean


class Curve(NamedTuple):
    """Results of several seeds at each point of a line."""

    label: str
    xs: Sequence[float]
    results: Sequence[Sequence[Result]]


def draw(path: Path, title: str, panels: Mapping[str, Sequence[Curve]]) -> None:
    """A column for each panel, a row for each metric: medians, with the lowest and the highest."""
    figure = Figure(figsize=(3.3 * max(len(panels), 3), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(METRICS), len(panels), squeeze=False)
    for row, (metric, name) in zip(grid, METRICS.items()):
        row[0].set_ylabel(name)
        for axes, (x_label, curves) in zip(row, panels.items()):
            for curve in curves:
                _line(axes, curve, [[mean(of, metric) for of in at] for at in curve.results])
            _name_points(axes, curves)
            axes.set_xlabel(x_label)
            axes.grid(alpha=0.25)
    labels = [[curve.label for curve in curves] for curves in panels.values()]
    if len(labels[0]) > 1 and all(one == labels[0] for one in labels):
        lines, _ = grid[0][0].get_legend_handles_labels()
        figure.legend(lines, labels[0], loc="outside lower center", ncols=2, fontsize=9)
    else:
        for axes, of_panel in zip(grid[0], labels):
            if len(of_panel) > 1:
                axes.legend(fontsize=7)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=110)


def _name_points(axes: Axes, curves: Sequence[Curve]) -> None:
    """The points' own values along the axis, where all curves have them."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _short(x)))
    if {x for curve in curves for x in curve.xs} <= {*curves[0].xs}:
        axes.set_xticks(curves[0].xs)
    else:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))


def _short(x: float) -> str:
    return f"{x / 1000:g}k" if x >= 10_000 else f"{x:g}"


def _line(axes: Axes, curve: Curve, values: list[list[float]]) -> None:
    middle = [statistics.median(of) for of in values]
    below = [median - min(of) for median, of in zip(middle, values)]
    above = [max(of) - median for median, of in zip(middle, values)]
    axes.errorbar(curve.xs, middle, [below, above], marker="o", ms=4, capsize=3, label=curve.label)
