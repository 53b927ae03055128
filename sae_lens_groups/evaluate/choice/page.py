"""The page of a sweep: every setting's quality against its sparsity, and one chosen of them."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import ChoiceLoader, PackageLoader
from plotly.offline import get_plotlyjs

from sae_lens_groups import files
from sae_lens_groups.evaluate.bootstrap import Estimate
from sae_lens_groups.evaluate.choice.commands import commands_of
from sae_lens_groups.evaluate.choice.result import INTERVALS, SettingScores, SweepEvaluation
from sae_lens_groups.evaluate.metrics import BY_NAME
from sae_lens_groups.evaluate.numbers import as_given, flops
from sae_lens_groups.evaluate.report.plots import empty_figure
from sae_lens_groups.evaluate.report.templates import templates

_SHOWN = (*INTERVALS, "dead_features")
_DIGITS = 7  # of the numbers that drawings are made from

_templates = templates.overlay(
    loader=ChoiceLoader(
        [PackageLoader("sae_lens_groups.evaluate", folder) for folder in ("choice", "report")]
    )
)


def sweep_page(found: SweepEvaluation, sweep: str, commands: Sequence[str] = ()) -> str:
    """The text of `sweep.html`.

    Args:
        found: the scores of all settings.
        sweep: what the sweep's folder is called.
        commands: command lines that make this page again.
    """
    first = found[0].evaluation
    return _templates.get_template("choice.html").render(
        name=sweep,
        found=found,
        metrics=[BY_NAME[name] for name in _SHOWN],
        tokens=first.tokens,
        dataset_name=first.dataset_name,
        layers=_layers(found),
        rows=_rows(found),
        report=files.REPORT,
        commands=commands,
        data=_embedded(_data(found, sweep)),
        plotly=get_plotlyjs(),
    )


def _layers(found: SweepEvaluation) -> list[int]:
    return sorted({scores.layer for of in found for scores in of.evaluation})


_Cell = tuple[float | str, str]
"""What a table is sorted by, and what stands there."""


def _rows(found: SweepEvaluation) -> list[dict[str, Any]]:
    """What the table says of each setting beside its scores, which the page's script writes."""
    changed = [_changed(found, name) for name in found.changed]
    return [
        {
            "name": of.setting.name,
            "before": [(n, of.setting.name), *(cells[n] for cells in changed)],
            "after": [
                _cell(of.training_tokens, as_given),
                _cell(of.training_flops, flops),
                *([] if "d_sae" in found.changed else [_cell(of.d_sae, as_given)]),
                _cell(of.n_parameters, as_given),
            ],
        }
        for n, of in enumerate(found)
    ]


def _changed(found: SweepEvaluation, name: str) -> list[_Cell]:
    """A setting's values, which are sorted as numbers where all are, else as texts."""
    values = [of.setting.changes.get(name) for of in found]
    given = [value for value in values if value is not None]
    is_number = all(type(value) in (int, float) for value in given)
    order = sorted({*map(str, given)}, key=float if is_number else str)
    return [_cell(value, as_given, lambda v: order.index(str(v))) for value in values]


def _cell(
    value: Any, written: Callable[[Any], str], sorted_by: Callable[[Any], float] = float
) -> _Cell:
    return ("", "\N{EN DASH}") if value is None else (sorted_by(value), written(value))


def _data(found: SweepEvaluation, sweep: str) -> dict[str, Any]:
    """What the page's script draws from."""
    layers = _layers(found)
    return {
        "layers": layers,
        "changed": found.changed,
        "metrics": [{"name": name, "label": BY_NAME[name].label} for name in _SHOWN],
        "settings": [_setting(of, layers, sweep) for of in found],
        "baseline": _baseline(found, layers),
        "differences": {
            name: [[None if of is None else _numbers(of) for of in row] for row in rows]
            for name, rows in found.differences.items()
        },
        "layout": json.loads(str(empty_figure().layout.to_json())),
    }


def _setting(of: SettingScores, layers: Sequence[int], sweep: str) -> dict[str, Any]:
    at = {scores.layer: n for n, scores in enumerate(of.evaluation)}
    return {
        "name": of.setting.name,
        "site": of.site,
        "changes": {name: as_given(value) for name, value in of.setting.changes.items()},
        "means": {name: _estimated(of.means, of.evaluation.mean(name), name) for name in _SHOWN},
        "layers": {
            name: [None if n not in at else _at_layer(of, at[n], name) for n in layers]
            for name in _SHOWN
        },
        "commands": [{"title": title, "text": text} for title, text in commands_of(of, sweep)],
    }


def _baseline(found: SweepEvaluation, layers: Sequence[int]) -> dict[str, Any] | None:
    """What the settings were compared with, as a setting is written; None without a baseline."""
    of = {scores.layer: scores.baseline for scores in found[0].evaluation if scores.baseline}
    if not of:
        return None
    at = {name: {n: one.score(name) for n, one in of.items()} for name in _SHOWN}
    return {
        "name": next(iter(of.values())).name,
        "means": {name: [_number(sum(each.values()) / len(each))] for name, each in at.items()},
        "layers": {
            name: [[_number(each[n])] if n in each else None for n in layers]
            for name, each in at.items()
        },
    }


def _at_layer(of: SettingScores, n: int, name: str) -> list[float | None]:
    return _estimated(of.layers[n], of.evaluation[n].score(name), name)


def _estimated(known: Mapping[str, Estimate], value: float, name: str) -> list[float | None]:
    """A metric's value and, where they are known, the ends of its interval."""
    return _numbers(known[name]) if name in known else [_number(value)]


def _numbers(of: Estimate) -> list[float | None]:
    return [_number(of.value), _number(of.low), _number(of.high)]


def _number(value: float) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def _embedded(data: dict[str, Any]) -> str:
    """JSON that can stand inside a script element, whatever texts are in it."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
