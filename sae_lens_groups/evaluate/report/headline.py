"""The top of the page: what was trained, how good it is, and what it saves."""

from typing import Any

from markupsafe import escape

from sae_lens_groups.evaluate.cost import TrainingCost
from sae_lens_groups.evaluate.metrics import compared_in, shown_in
from sae_lens_groups.evaluate.numbers import counted, flops, interval, signed
from sae_lens_groups.evaluate.report.names import public
from sae_lens_groups.evaluate.report.plots import gaps
from sae_lens_groups.evaluate.report.section import bar
from sae_lens_groups.evaluate.result import Comparison, SuiteEvaluation
from sae_lens_groups.layers import LayerGroup, format_layer_groups
from sae_lens_groups.suite import SAESuite


def title(suite: SAESuite) -> str:
    """`4 SAEs for 12 layers`."""
    groups, layers = suite.manifest.groups, suite.manifest.layers
    return f"{counted(len(groups), 'SAE')} for {counted(len(layers), 'layer')}"


def facts(suite: SAESuite, evaluation: SuiteEvaluation) -> str:
    """Hook, sizes, and the tokens that everything was measured on."""
    cfg = suite.layer(suite.manifest.layers[0]).cfg
    tokens = evaluation.tokens
    return (
        f"{suite.manifest.hook_template}; {cfg.architecture()} SAEs of {cfg.d_sae:,} features for "
        f"activations of width {cfg.d_in:,}. Measured on {tokens.n_tokens:,} tokens of "
        f"{public(evaluation.dataset_name)} ({tokens.n_prompts:,} prompts of {tokens.context_size} tokens)."
    )


def headline(suite: SAESuite, evaluation: SuiteEvaluation) -> str:
    """The groups as a bar of layers, the means of all layers, and what the saving costs."""
    groups = suite.manifest.groups
    parts = [
        bar(_boxes(groups)),
        _figures(evaluation),
        _saving(evaluation),
        f"<p><code>--layer_groups {format_layer_groups(groups)}</code></p>",
    ]
    return "\n".join(parts)


def _boxes(groups: tuple[LayerGroup, ...]) -> list[dict[str, Any]]:
    """The groups and, without a name, the layers left out between them."""
    boxes: list[dict[str, Any]] = [
        {"group": str(group), "width": len(group), "is_even": bool(n % 2)}
        for n, group in enumerate(groups)
    ]
    for position, n_layers in reversed(list(enumerate(gaps(groups), start=1))):
        if n_layers:
            boxes.insert(position, {"group": None, "width": n_layers, "is_even": False})
    return boxes


def _figures(evaluation: SuiteEvaluation) -> str:
    figures = {
        metric.label: metric.written(evaluation.mean(metric.name))
        for metric in shown_in("headline")
    }
    found = [f"<div><b>{value}</b>{name}</div>" for name, value in figures.items()]
    found += [f"<div><b>{value}</b>{name}</div>" for name, value in _cost_figures(evaluation)]
    return f'<div id="figures">{"".join(found)}</div>'


def _cost_figures(evaluation: SuiteEvaluation) -> list[tuple[str, str]]:
    if not evaluation.costs:
        return []
    return [("of training", flops(evaluation.costs[0].flops))]


def _saving(evaluation: SuiteEvaluation) -> str:
    comparison = evaluation.comparison
    if comparison is None:
        return ""
    found = {of.label: comparison.mean_differences[of.name] for of in compared_in("headline")}
    differences = "; ".join(
        f"{label} <b>{signed(of.value)}</b> {interval(of.low, of.high)}"
        for label, of in found.items()
    )
    return (
        f'<p id="saving">Against the baseline <b>{escape(public(comparison.name))}</b>, '
        f"{_cost_sentence(evaluation.costs, comparison)}mean differences over "
        f"{counted(comparison.n_layers, 'layer')} with 95% intervals: {differences}.</p>"
    )


def _cost_sentence(costs: tuple[TrainingCost, ...], comparison: Comparison) -> str:
    if len(costs) < 2:
        return ""
    ours, theirs = costs[:2]
    is_alike = ours.n_layers == theirs.n_layers == comparison.n_layers
    whole = "" if is_alike else f" ({ours.n_layers} layers against {theirs.n_layers})"
    return (
        f"this suite took <b>{ours.flops / theirs.flops:.0%}</b> of the training FLOPs{whole} "
        f"({flops(ours.flops)} of {flops(theirs.flops)}, {ours.n_saes} SAEs instead of "
        f"{theirs.n_saes}); "
    )
