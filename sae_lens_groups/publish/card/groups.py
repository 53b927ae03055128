"""The card's account of what was trained: the first lines, the groups drawn, the start."""

from collections.abc import Sequence

from sae_lens_groups.evaluate.numbers import counted, score
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.publish.card.facts import CardFacts
from sae_lens_groups.publish.card.text import cell, code, fenced, plain, table
from sae_lens_groups.saved.transfer_report import TransferReport
from sae_lens_groups.scaling.alignments import NONE

_GROUP_SAE = "[Group-SAE](https://arxiv.org/abs/2410.21508)"
# More single layers than these are drawn in one row.
_MANY_ALONE = 2
_ALONE = "one SAE each"
_PARAMETERS = {"encoder": "the encoder", "decoder": "the decoder"}


def first_lines(facts: CardFacts) -> str:
    """What this is: how many SAEs of what kind, for which model and hook, and how many trained."""
    manifest = facts.manifest
    n_layers = len(manifest.layers)
    what = (
        f"{n_layers} sparse autoencoders (SAEs)" if n_layers > 1 else "A sparse autoencoder (SAE)"
    )
    return (
        f"{what} for {layers_in_words(manifest.layers)} of {model(facts)}, "
        f"{'one per layer, ' if n_layers > 1 else ''}at the hook "
        f"{code(str(manifest.hook_template))}{_head(facts)}. "
        + " ".join(filter(None, [_kind(facts), _how_many(facts)]))
    )


def layers_in_words(layers: Sequence[int]) -> str:
    """`layers 0-3 and 11`."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    names = [str(LayerGroup(run[0], run[-1])) for run in runs]
    listed = ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]
    return "layer" + "s" * (len(layers) > 1) + f" {listed}"


def model(facts: CardFacts) -> str:
    """The model, with a link where it is on the Hub."""
    if facts.base_model is None:
        return f"{code(facts.manifest.model_name)} (a local model)"
    return f"[{code(facts.base_model)}](https://huggingface.co/{facts.base_model})"


def _head(facts: CardFacts) -> str:
    head = facts.metadata.get("hook_head_index")
    return "" if head is None else f", head {head}"


def _kind(facts: CardFacts) -> str:
    """`Architecture topk, d_in 96, d_sae 768, k 16.`"""
    exported = facts.cfg_values("architecture")
    sizes = [
        f"{name} {_span(found)}"
        for name in ("d_in", "d_sae", "k")
        if (found := facts.cfg_values(name))
    ]
    trained = facts.setting("sae", {}).get("architecture")
    behind = ""
    if trained is not None and exported and trained not in exported:
        behind = f" Trained as {code(trained)}, which SAELens turns into that for inference."
    if not exported:
        return f"{', '.join(sizes)}." if sizes else ""
    return f"Architecture {', '.join(map(code, exported))}: {', '.join(sizes)}.{behind}"


def _span(values: list[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{min(values)} to {max(values)}"


def _how_many(facts: CardFacts) -> str:
    if len(facts.manifest.layers) == 1:
        return "It was trained elsewhere." if facts.is_imported else ""
    if facts.is_imported:
        return "They were trained elsewhere, and are published here together."
    trained, kept = facts.manifest.trained_groups, _kept(facts)
    if not any(len(group) > 1 for group in trained):
        return f"One SAE was trained for each layer{kept}."
    number = f"**{counted(len(trained), 'SAE')} {'were' if len(trained) > 1 else 'was'} trained**"
    return f"{number}, each for a group of neighbouring layers or for one alone{kept}."


def _kept(facts: CardFacts) -> str:
    layers = facts.kept_layers
    if not layers:
        return ""
    was = "SAEs were taken over as they were" if len(layers) > 1 else "SAE was taken over as it was"
    return f", except {layers_in_words(layers)}, whose {was}"


def groups(facts: CardFacts) -> str | None:
    """What a group SAE is and which layers share one; None where no layers do."""
    if not facts.shared_groups:
        return None
    sections = [
        "## The groups",
        f"A group SAE ({_GROUP_SAE}) is one SAE trained on the activations of a run of "
        "neighbouring layers: for every token, one layer of the group is drawn at random, and its "
        "activation is the sample. A dot is a layer, and the layers of a row share one SAE:",
        fenced("", drawing(facts.manifest.groups)),
        _shared_weights(facts),
        _chosen(facts),
    ]
    return "\n\n".join(section for section in sections if section)


def drawing(groups: Sequence[LayerGroup]) -> str:
    """One line per group of several layers, dots at its layers; narrow cells for many layers."""
    first, last = groups[0].first, groups[-1].last
    width = 3 if last - first < 16 else 2 if last - first < 32 else 1
    alone = [group for group in groups if len(group) == 1]
    lines = [
        (group.name, list(group.layers))
        for group in groups
        if len(group) > 1 or len(alone) <= _MANY_ALONE
    ]
    if len(alone) > _MANY_ALONE:
        lines.append((_ALONE, [group.first for group in alone]))
    margin = max(len(name) for name, _ in lines) + 3
    every = {3: 1, 2: 5, 1: 10}[width]
    shown = [layer for layer in range(first, last + 1) if layer % every == 0]
    columns = [(margin + (layer - first) * width, str(layer)) for layer in shown]
    head = _row("layer", [(column - len(text) + 1, text) for column, text in columns])
    return "\n".join([head, *(_line(name, of, first, margin, width) for name, of in lines)])


def _line(name: str, layers: list[int], first: int, margin: int, width: int) -> str:
    columns = [margin + (layer - first) * width for layer in layers]
    if name == _ALONE:
        return _row(name, [(column, "●") for column in columns])
    return _row(name, [(columns[0], ("─" * (width - 1)).join("●" * len(layers)))])


def _row(name: str, parts: list[tuple[int, str]]) -> str:
    """A line with texts at columns."""
    line = name
    for column, text in parts:
        line = line.ljust(column) + text
    return line


def _shared_weights(facts: CardFacts) -> str:
    alignment = facts.manifest.layer_alignment
    if alignment != NONE:
        return (
            f"Before the SAE, every layer of a group was mapped to the group's middle layer "
            f"({code(alignment)} alignment). The map is folded into each layer's files, so `W_enc` "
            "and `W_dec` differ from layer to layer; feature *i* is still the same feature of the "
            "group's SAE on all of its layers."
        )
    if facts.is_whitened:
        return (
            "Every layer was whitened by its own statistics before the SAE. The whitening is "
            "folded into each layer's files, so `W_enc` and `W_dec` differ from layer to layer; "
            "feature *i* is still the same feature of the group's SAE on all of its layers."
        )
    differ = (
        "only the vectors (biases and thresholds) carry the layer's own scale"
        if facts.is_scaled
        else "and so are all other parameters"
    )
    return (
        "Every layer has its own folder here. `W_enc` and `W_dec` are bit-identical within a "
        f"group; {differ}. So feature *i* has one direction on all layers of a group."
    )


def _chosen(facts: CardFacts) -> str:
    plan = facts.manifest.plan
    if plan is not None:
        return (
            f"The groups were chosen by {plain(plan.chosen_by)}, from {plain(plan.distances.metric)} "
            f"distances between the layers on {plan.distances.n_tokens:,} tokens; AMAD "
            f"{plan.chosen.amad:.3f}."
        )
    flag = facts.setting("layer_groups")
    return f"The groups were set by `layer_groups` {code(str(flag))}." if flag else ""


def start(facts: CardFacts) -> str | None:
    """What the SAEs started from; None for random weights."""
    report = facts.manifest.transfer
    if report is None:
        return None
    template = facts.manifest.hook_template
    what = _PARAMETERS.get(report.init_parameters, "all parameters")
    rows = [
        [
            str(layer),
            cell(template.hook_name(source)),
            _variance(report, "zero_shot", layer),
            _variance(report, "final", layer),
        ]
        for layer, source in sorted(report.source_layers.items())
    ]
    heads = ["layer", "started from", "explained_variance before training", "after training"]
    return "\n\n".join(
        [
            "## What the SAEs started from",
            f"They started from the trained SAEs of {code(report.init_from)}, not from random "
            f"weights ({what}, alignment {code(report.init_alignment)}). Both scores are on the "
            "first few thousand tokens of the training text.",
            table(heads, rows),
        ]
    )


def _variance(report: TransferReport, when: str, layer: int) -> str:
    scores = report.zero_shot if when == "zero_shot" else report.final
    value = scores.get(layer, {}).get("explained_variance")
    return "\N{EN DASH}" if value is None else score(value)
