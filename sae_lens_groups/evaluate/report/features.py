"""What the features of groups do, and which of the baseline's the suite lacks."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from sae_lens_groups.evaluate.features import FEWEST_FIRINGS, SPECIFIC_SHARE, FeatureLayers
from sae_lens_groups.evaluate.matching import FOUND_COSINE, FeatureMatch
from sae_lens_groups.evaluate.numbers import percent
from sae_lens_groups.evaluate.report.plots import (
    PURPLE,
    SUITE_COLOUR,
    WORSE,
    add_layer_line,
    empty_figure,
    over_layers,
)
from sae_lens_groups.evaluate.report.section import Section, drawings, parts
from sae_lens_groups.evaluate.result import SuiteEvaluation
from sae_lens_groups.layers import LayerGroup, in_words
from sae_lens_groups.plan import COLOUR_MAP, embedded, layer_step

_ROWS = 150
_TERMS = {
    "counted": f"Features with {FEWEST_FIRINGS} firings or more, over all layers of the group.",
    "specific": f"Share of the counted features with {SPECIFIC_SHARE:.0%} or more of their firings "
    "on one layer.",
    "entropy": "How evenly the firings spread over the group's layers, mean over the counted "
    "features: 0 for one layer alone, 1 for all alike.",
    "dead": "Share of all features that fire on no layer.",
}
_COSINE_BINS = np.linspace(0, 1, 26)


def feature_layers(features: Sequence[FeatureLayers]) -> Section | None:
    """Where the features of each group fire; None where no two layers share an SAE."""
    shared = [of_group for of_group in features if len(of_group.group) > 1]
    if not shared:
        return None
    highest = _highest(shared)
    maps = [
        (f"Layers {of.group}", embedded(_heat_map(of, highest), f"features_{of.group.first}"))
        for of in shared
        if of.is_counted_F.any()
    ]
    text = (
        "The layers of a group share their features. Each row of a drawing is a feature, or the "
        "mean of several alike, ordered by where it fires; its colours are the parts of its "
        "firings that fall on each layer, dark for none. A staircase means that features belong to "
        "layers, an even surface that all layers use the same features."
    )
    shown = [parts.maps(f"{highest:.0%}", maps), _group_table(shared), parts.terms(_TERMS)]
    return Section("feature_layers", "On which layers features fire", text, "\n".join(shown))


def missed_features(groups: Sequence[LayerGroup], evaluation: SuiteEvaluation) -> Section | None:
    """How much of the baseline's dictionary the suite has, layer by layer."""
    matches = {
        scores.layer: scores.baseline.match
        for scores in evaluation
        if scores.baseline is not None and scores.baseline.match is not None
    }
    if not matches:
        return None
    text = (
        "Two features are compared by the cosine of their decoder directions; features that never "
        "fire are left out. MMCS is the mean over one SAE's features of the largest cosine with a "
        f"feature of the other. A feature of the baseline is missed when its largest is below "
        f"{FOUND_COSINE}; missed firings count each feature as often as it fires. "
    )
    alone = evaluation.missed_alone
    if alone is None or evaluation.comparison is None:
        text += (
            "Two trainings of the same SAE with other seeds miss most of each other's features too."
        )
    else:
        layers = in_words(evaluation.comparison.layers_alone)
        text += (
            f"In {layers}, where both have an SAE of its own, {percent(alone)} are missed: so many "
        )
        text += "differ between two trainings of the same SAE."
    body = drawings(
        ("likeness (MMCS)", "mmcs", _mmcs(groups, matches)),
        ("features of the baseline that are missed", "missed", _missed(groups, matches)),
        ("how near the nearest feature is", "cosines", _cosines(matches)),
    )
    return Section(
        "missed_features", "Features that the baseline has and this suite lacks", text, body
    )


def _highest(shared: Sequence[FeatureLayers]) -> float:
    """The share with the brightest colour: few cells of any group have more."""
    cells = np.concatenate([of.heat_map_RL(_ROWS).ravel() for of in shared])
    return float(np.quantile(cells, 0.98)) if len(cells) else 1.0


def _heat_map(of_group: FeatureLayers, highest: float) -> go.Figure:
    share_RL = of_group.heat_map_RL(_ROWS)
    figure = empty_figure(height=270)
    figure.add_heatmap(
        z=share_RL.round(3).tolist(),
        x=list(of_group.group.layers),
        zmin=0,
        zmax=highest,
        colorscale=COLOUR_MAP,
        showscale=False,
        hovertemplate="layer %{x}: %{z:.0%} of the firings<extra></extra>",
    )
    figure.update_xaxes(title="layer", dtick=layer_step(len(of_group.group)))
    figure.update_yaxes(
        title=f"{of_group.is_counted_F.sum():,} features",
        autorange="reversed",
        showticklabels=False,
        ticks="",
    )
    return figure.update_layout(margin={"l": 28, "r": 8, "t": 6, "b": 42})


def _group_table(shared: Sequence[FeatureLayers]) -> str:
    rows = [
        [
            str(of.group),
            f"{len(of.is_counted_F):,}",
            f"{of.is_counted_F.sum():,}",
            percent(of.specific_share),
            f"{of.mean_entropy:.3f}",
            percent(of.dead_share),
        ]
        for of in shared
    ]
    head = ["layers", "features", "counted", "specific", "entropy", "dead"]
    return parts.table(head, rows)


def _mmcs(groups: Sequence[LayerGroup], matches: dict[int, FeatureMatch]) -> go.Figure:
    names = {
        "this suite's features in the baseline": ("mmcs", SUITE_COLOUR),
        "the baseline's in this suite": ("mmcs_of_baseline", PURPLE),
    }
    return _lines(groups, matches, names).update_yaxes(title="mean of largest cosine")


def _missed(groups: Sequence[LayerGroup], matches: dict[int, FeatureMatch]) -> go.Figure:
    names = {"features": ("missed_features", WORSE), "firings": ("missed_firings", PURPLE)}
    figure = _lines(groups, matches, names).update_traces(hovertemplate="layer %{x}: %{y:.1%}")
    highest = max(max(of.missed_features, of.missed_firings) for of in matches.values())
    return figure.update_yaxes(
        title="missed", tickformat="~%", range=[0, max(0.02, 1.08 * highest)]
    )


def _lines(
    groups: Sequence[LayerGroup],
    matches: dict[int, FeatureMatch],
    names: dict[str, tuple[str, str]],
) -> go.Figure:
    figure = over_layers(groups)
    for label, (name, colour) in names.items():
        line = {"color": colour, "width": 2, "dash": "dot" if colour == PURPLE else "solid"}
        values = {layer: getattr(match, name) for layer, match in matches.items()}
        add_layer_line(figure, label, values, colour, line=line)
    return figure


def _cosines(matches: dict[int, FeatureMatch]) -> go.Figure:
    counted = [np.histogram(of.cosine_G.float(), _COSINE_BINS)[0] for of in matches.values()]
    share_BL = np.stack([counts / max(1, counts.sum()) for counts in counted], axis=1)
    figure = empty_figure()
    figure.add_heatmap(
        z=share_BL.round(4).tolist(),
        x=list(matches),
        y=((_COSINE_BINS[:-1] + _COSINE_BINS[1:]) / 2).tolist(),
        zmin=0,
        colorscale=COLOUR_MAP,
        colorbar={"thickness": 12, "tickformat": ".0%"},
        hovertemplate="layer %{x}: %{z:.1%} of the baseline's features have a largest cosine near "
        "%{y:.2f}<extra></extra>",
    )
    figure.add_hline(
        y=FOUND_COSINE, opacity=1, line={"color": "white", "width": 1.5, "dash": "dot"}
    )
    figure.update_xaxes(title="layer", dtick=layer_step(max(matches) - min(matches) + 1))
    return figure.update_yaxes(title="largest cosine", range=[0, 1])
