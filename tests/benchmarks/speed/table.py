"""What the runs found, as a Markdown table per shape."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.speed.jobs import GROUPS, LIMIT, MULTI, SINGLE, WAYS

Runs = Sequence[Mapping[str, Any]]
SecondsOfRound = dict[int, float]


@dataclass(frozen=True)
class _Row:
    name: str
    n_saes: int
    seconds: SecondsOfRound
    peak_mib: list[float]
    limit: SecondsOfRound
    """Of as many SAEs, with as many passes of the language model as the way made."""


def print_table(runs: Runs) -> None:
    """One shape's ways, and below them what the limit is made of and what `single` measured."""
    rows = _rows(runs)
    seconds = {row.name: row.seconds for row in rows}
    tokens = runs[0]["tokens"]
    print(
        "| way | SAEs | seconds | tokens/s per SAE | times multi's speed | times single's speed "
        "| share of the limit | peak memory |\n|---|---|---|---|---|---|---|---|"
    )
    for row in rows:
        speeds = [tokens / of_round for of_round in row.seconds.values()]
        cells = [
            row.name,
            str(row.n_saes),
            _spread(row.seconds.values(), ".2f"),
            f"{statistics.median(speeds):,.0f}",
            _ratio(seconds.get(MULTI), row.seconds, ".2f"),
            _ratio(seconds.get(SINGLE), row.seconds, ".2f"),
            _ratio(row.limit, row.seconds, ".0%"),
            f"{statistics.median(row.peak_mib):,.0f} MiB",
        ]
        print(f"| {' | '.join(cells)} |")
    print()
    print("\n".join(_notes(runs)), flush=True)
    _print_parts([run for run in runs if "parts" in run])


def _print_parts(runs: Runs) -> None:
    """Median seconds of each part of each way, and its share of the whole."""
    if not runs:
        return
    print("\n| way | part | seconds | share |\n|---|---|---|---|")
    for label in dict.fromkeys(map(_label, runs)):
        of_way = [run for run in runs if _label(run) == label]
        for part in of_way[0]["parts"]:
            seconds = statistics.median(run["parts"][part] for run in of_way)
            share = statistics.median(run["parts"][part] / run["seconds"] for run in of_way)
            print(f"| {label} | {part} | {seconds:.2f} | {share:.1%} |")


def _rows(runs: Runs) -> list[_Row]:
    limits = _of_way(runs, LIMIT)
    rows = [
        _Row(
            _label(of_way[0]),
            of_way[0]["n_saes"],
            {run["round"]: run["seconds"] for run in of_way},
            [run["peak_mib"] for run in of_way],
            _limit_seconds(
                limits, of_way[0]["n_saes"], of_way[0]["tokens_read"] / of_way[0]["tokens"]
            ),
        )
        for way in WAYS
        if way != LIMIT and (of_way := _of_way(runs, way))
    ]
    if not limits:
        return rows
    n_saes_of_rows = {row.n_saes for row in rows} or {limits[0]["n_layers"]}
    return rows + [_limit_row(limits, n_saes) for n_saes in sorted(n_saes_of_rows, reverse=True)]


def _limit_row(limits: Runs, n_saes: int) -> _Row:
    seconds = _limit_seconds(limits, n_saes, 1.0)
    return _Row(_limit_name(n_saes), n_saes, seconds, [run["peak_mib"] for run in limits], seconds)


def _limit_seconds(limits: Runs, n_saes: int, passes: float) -> SecondsOfRound:
    return {
        run["round"]: passes * run["lm_seconds"] + n_saes * run["step_seconds"] * run["n_steps"]
        for run in limits
    }


def _limit_name(n_saes: int) -> str:
    return f"{LIMIT} of {n_saes}"


def _label(run: Mapping[str, Any]) -> str:
    if run["way"] != GROUPS:
        return run["way"]
    more = f", layers_per_token {n}" if (n := run["layers_per_token"]) > 1 else ""
    return f"{GROUPS} ({run['layer_groups']}{more})"


def _of_way(runs: Runs, way: str) -> Runs:
    return [run for run in runs if run["way"] == way]


def _ratio(numerator: SecondsOfRound | None, denominator: SecondsOfRound, form: str) -> str:
    """Of the same round each: what slows the machine down for a while slows both."""
    shared = [number for number in denominator if number in (numerator or {})]
    if numerator is None or not shared:
        return "-"
    return _spread([numerator[number] / denominator[number] for number in shared], form)


def _spread(values: Iterable[float], form: str) -> str:
    values = list(values)
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _notes(runs: Runs) -> list[str]:
    first = runs[0]
    notes = [
        f"{first['architecture']}{' under autocast' if first['autocast'] else ''}, "
        f"{first['shape_name']}, {first['model_class']} of {first['n_layers']} layers in "
        f"{first['lm_dtype']}: {first['tokens']:,} tokens per SAE in batches of "
        f"{first['batch']:,}, {len({run['round'] for run in runs})} round(s); median (lowest to "
        "highest), ratios within a round."
    ]
    read = {run["tokens_read"] for run in runs if "tokens_read" in run}
    if read:
        notes.append(
            f"Filling the shuffle buffer included, the runners read {_numbers(read)} tokens."
        )
    if single := _of_way(runs, SINGLE):
        measured = single[0]["single_layers"]
        how = (
            "all layers measured"
            if len(measured) == first["n_layers"]
            else (f"layers {_numbers(measured)} measured, the others interpolated between them")
        )
        notes.append(f"single: {how}; seconds are the sum over {first['n_layers']} layers.")
    if limits := _of_way(runs, LIMIT):
        notes.append(
            "share of the limit: with as many passes of the language model as the way made, the "
            "filling included; the rows of the limit count the tokens trained on alone."
        )
        lm = _spread([run["lm_seconds"] for run in limits], ".2f")
        step = _spread([run["step_seconds"] for run in limits], ".4f")
        notes.append(f"limit: language model {lm} s, one step of one SAE {step} s.")
    notes.append(
        f"{first['clock']} clock; {first['device_name']}, {first['threads']} thread(s), torch {first['torch']}, "
        f"sae-lens {first['sae_lens']}."
    )
    return notes


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(f"{value:,}" for value in sorted(values))
