"""The card's table of all layers: what to load, how each layer was scaled, what it scores."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sae_lens_groups.evaluate.numbers import count, counted, percent, score, signed
from sae_lens_groups.publish.card.facts import CardFacts
from sae_lens_groups.publish.card.text import MISSING, cell, code, fenced, shell, table

# Longer tables are folded, so that what comes after them is found.
_MANY_LAYERS = 24
_METRICS: Mapping[str, tuple[Callable[[float], str], str]] = {
    "explained_variance": (
        score,
        "the part of the activations' variance that the reconstruction keeps; 1 is perfect",
    ),
    "ce_loss_score": (
        score,
        "with the reconstruction in the activation's place, 1 where the language model's loss does "
        "not rise, 0 where it rises as much as with zeros there",
    ),
    "l0": (count, "features active per token"),
    "dead_features": (percent, "features that fired on none of the evaluated tokens"),
    "mse": (score, "squared error per token, in the squared units of the layer's activations"),
}
_COMPARED = ("explained_variance", "ce_loss_score")
_DIFFERENCE = "\N{GREEK CAPITAL LETTER DELTA}"


@dataclass(frozen=True)
class _Column:
    head: str
    cells: list[str]
    mean: str = ""


def layer_table(facts: CardFacts) -> str:
    """A row per layer, and what the columns mean; without scores, how to measure them."""
    if not facts.scores:
        columns = [*_layer_columns(facts), *_training_columns(facts), *_scaling_columns(facts)]
        return "\n\n".join(["## The layers", _not_evaluated(facts), _shown(columns)])
    rows = _rows(facts, facts.scores)
    columns = [*_layer_columns(facts), *_score_columns(rows), *_scaling_columns(facts)]
    means = ["**mean**", *(column.mean for column in columns[1:])]
    return "\n\n".join(["## The layers", _measured_on(facts), _shown(columns, means), _terms(rows)])


def _shown(columns: list[_Column], means: list[str] | None = None) -> str:
    rows = [list(row) for row in zip(*(column.cells for column in columns), strict=True)]
    shown = table([column.head for column in columns], rows + ([means] if means else []))
    if len(rows) <= _MANY_LAYERS:
        return shown
    return f"<details open>\n<summary>{len(rows)} layers</summary>\n\n{shown}\n\n</details>"


def _layer_columns(facts: CardFacts) -> list[_Column]:
    manifest = facts.manifest
    columns = [
        _Column("layer", [str(layer) for layer in manifest.layers]),
        _Column("hook_name", [cell(name) for name in manifest.hook_names]),
    ]
    if facts.shared_groups:
        group = [str(manifest.group_of(layer)) for layer in manifest.layers]
        columns.append(_Column("group", group))
    return columns


def _scaling_columns(facts: CardFacts) -> list[_Column]:
    if not facts.is_scaled:
        return []
    factors = [facts.manifest.scaling_factors[layer] for layer in facts.manifest.layers]
    return [_Column("scaling_factor", [_number(factor, score) for factor in factors])]


def _rows(facts: CardFacts, scores: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The scores in the order of the layers, empty where a layer has none."""
    by_name = {row.get("hook_name"): row for row in scores}
    return [by_name.get(name, {}) for name in facts.manifest.hook_names]


def _score_columns(rows: list[Mapping[str, str]]) -> list[_Column]:
    columns = []
    for name, (written, _) in _METRICS.items():
        values = [value_of(row, name) for row in rows]
        if any(value is not None for value in values):
            columns.append(_values(name, values, written))
        if name in _COMPARED and _is_compared(rows):
            columns.append(_differences(name, rows))
    return columns


def _values(head: str, values: Sequence[float | None], written: Callable[[float], str]) -> _Column:
    return _Column(head, [_number(value, written) for value in values], _mean(values, written))


def _differences(name: str, rows: list[Mapping[str, str]]) -> _Column:
    values = [value_of(row, f"{name}_diff") for row in rows]
    cells = [
        _number(value, signed) + "\\*" * _is_clear(row, name) for value, row in zip(values, rows)
    ]
    return _Column(_DIFFERENCE, cells, _mean(values, signed))


def _is_compared(rows: list[Mapping[str, str]]) -> bool:
    return any(value_of(row, "explained_variance_diff") is not None for row in rows)


def _is_clear(row: Mapping[str, str], name: str) -> bool:
    """Whether the interval of a difference leaves out zero."""
    low, high = (value_of(row, f"{name}_diff_{end}") for end in ("low", "high"))
    return low is not None and high is not None and (low > 0 or high < 0)


def value_of(row: Mapping[str, str], name: str) -> float | None:
    """A number from `evaluation.csv`; None where there is none."""
    try:
        return float(row.get(name) or "")
    except ValueError:
        return None


def _number(value: float | None, written: Callable[[float], str]) -> str:
    return MISSING if value is None else written(value)


def _mean(values: Sequence[float | None], written: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return f"**{written(sum(known) / len(known))}**" if known else MISSING


def _terms(rows: list[Mapping[str, str]]) -> str:
    lines = [
        f"- `{name}`: {meaning}."
        for name, (_, meaning) in _METRICS.items()
        if any(value_of(row, name) is not None for row in rows)
    ]
    if _is_compared(rows):
        named = {name for row in rows if (name := row.get("baseline"))}
        baseline = f"the baseline {', '.join(map(code, sorted(named)))}" if named else "a baseline"
        lines.append(
            f"- {_DIFFERENCE}: the score before it, of these SAEs minus that of {baseline} on the same "
            "text, with \\* where the 95% interval over prompts leaves out zero."
        )
    return "\n".join([*lines, "", "`evaluation.csv` has all of SAELens's metrics."])


def _measured_on(facts: CardFacts) -> str:
    lead = "The hook name is what `SAE.from_pretrained` takes, and the layer's folder here."
    cfg: Mapping[str, Any] = facts.eval_cfg or {}
    batches, size = cfg.get("n_eval_reconstruction_batches"), cfg.get("batch_size_prompts")
    how_much = f" on {counted(batches * size, 'prompt')}" if batches and size else ""
    if how_much and (length := cfg.get("context_size")):
        how_much += f" of {length} tokens"
    text = cfg.get("dataset")
    of_text = f"{' of' if how_much else ' on'} {code(str(text))}" if text else ""
    measured = f", measured{how_much}{of_text}" if how_much or of_text else ""
    return f"{lead} Scores are SAELens's metrics{measured}."


def _training_columns(facts: CardFacts) -> list[_Column]:
    """What training itself knew of each layer."""
    cfgs = [facts.sae_cfgs.get(name, {}) for name in facts.manifest.hook_names]
    l0s = [(cfg.get("metadata") or {}).get("l0") for cfg in cfgs]
    if facts.is_imported or not any(isinstance(l0, int | float) for l0 in l0s):
        return []
    return [_values("l0 in training", l0s, count)]


def _not_evaluated(facts: CardFacts) -> str:
    branch = "" if facts.branch is None else f" --revision {shell(facts.branch)}"
    folder = shell(facts.name)
    flags = "" if facts.base_model else " --model_name path/to/the/model"
    if facts.dataset_name is None or facts.manifest.dataset_rows_read is None:
        flags += " --dataset_path path/to/text"
    commands = (
        f"hf download {shell(facts.repo_id)}{branch} --local-dir {folder}\n"
        f"sae-lens-groups evaluate {folder}{flags}"
    )
    return (
        "**These SAEs were not evaluated before they were published**, so nothing is said here of "
        "how well they reconstruct. To measure it, with `sae-lens-groups`:\n\n"
        f"{fenced('', commands)}\n\n"
        "The hook name is what `SAE.from_pretrained` takes, and the layer's folder here."
    )
