"""The top of the page: what was trained, how good it is, and what it saves."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from sae_lens_groups.errors import counted
from sae_lens_groups.evaluate.cost import TrainingCost
from sae_lens_groups.evaluate.metrics import compared_in, shown_in
from sae_lens_groups.evaluate.numbers import as_given, flops, interval, signed
from sae_lens_groups.evaluate.report.names import public
from sae_lens_groups.evaluate.report.section import parts
from sae_lens_groups.evaluate.result import Comparison, SuiteEvaluation
from sae_lens_groups.layers import LayerGroup, format_layer_groups, saes_for_layers
from sae_lens_groups.suite import SAESuite


def title(suite: SAESuite) -> str:
    """`4 SAEs for 12 layers`."""
    return saes_for_layers(suite.manifest.groups)


def facts(suite: SAESuite, evaluation: SuiteEvaluation) -> str:
    """Hook, sizes, and the tokens that everything was measured on."""
    cfg = suite.layer(suite.manifest.layers[0]).cfg
    tokens = evaluation.tokens
    words = tokens.left_out_in_words
    return (
        f"{suite.manifest.hook_template}; {cfg.architecture()} SAEs of {cfg.d_sae:,} features for "
        f"activations of width {cfg.d_in:,}. Measured on {tokens.n_tokens:,} tokens of "
        f"{public(evaluation.dataset_name)} ({tokens.n_prompts:,} prompts of {tokens.context_size} tokens"
        f"{f'; left out: {words}' if words else ''})."
    )


def headline(suite: SAESuite, evaluation: SuiteEvaluation) -> str:
    """HTML: the groups as a bar of layers, the means of all layers, and what the saving costs."""
    groups = suite.manifest.groups
    figures = {of.label: of.written(evaluation.mean(of.name)) for of in shown_in("headline")}
    if evaluation.costs:
        figures["of training"] = flops(evaluation.costs[0].flops)
    return parts.headline(
        _boxes(groups),
        figures,
        evaluation.comparison and _compared(evaluation.comparison, evaluation.costs),
        format_layer_groups(groups),
        has_cost=bool(evaluation.costs),
    )


def _boxes(groups: Sequence[LayerGroup]) -> list[tuple[str, int]]:
    """The groups' names and widths and, without a name, the layers left out between them."""
    boxes = [(str(groups[0]), len(groups[0]))]
    for below, group in pairwise(groups):
        n_left_out = group.first - below.last - 1
        boxes += [("", n_left_out)] if n_left_out else []
        boxes.append((str(group), len(group)))
    return boxes


def _compared(comparison: Comparison, costs: Sequence[TrainingCost]) -> dict[str, Any]:
    found = {of.label: comparison.mean_differences[of.name] for of in compared_in("headline")}
    return {
        "name": public(comparison.name),
        "layers": counted(comparison.n_layers, "layer"),
        "differences": [
            (label, signed(of.value), interval(of.low, of.high)) for label, of in found.items()
        ],
        "trained": [[name, *map(as_given, both)] for name, both in comparison.trained.items()],
        "is_unequal": bool(comparison.unequal),
        "cost": _saved(costs, comparison.n_layers) if len(costs) == 2 else None,
    }


def _saved(costs: Sequence[TrainingCost], n_compared: int) -> dict[str, Any]:
    ours, theirs = costs
    is_alike = ours.n_layers == theirs.n_layers == n_compared
    return {
        "share": f"{ours.flops / theirs.flops:.0%}",
        "whole": "" if is_alike else f" ({ours.n_layers} layers against {theirs.n_layers})",
        "ours": flops(ours.flops),
        "theirs": flops(theirs.flops),
        "n_saes": ours.n_saes,
        "n_saes_of_baseline": theirs.n_saes,
    }
