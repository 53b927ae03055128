"""What the features of groups do, and which of the baseline's the suite lacks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from sae_lens_groups.evaluate.features import FEWEST_FIRINGS, SPECIFIC_SHARE, FeatureLayers
from sae_lens_groups.evaluate.matching import FOUND_COSINE, FeatureMatch
from sae_lens_groups.evaluate.report.plots import (
    PURPLE,
    SUITE_COLOUR,
    WORSE,
    add_layer_line,
    drawn,
    empty_figure,
    over_layers,
)
from sae_lens_groups.evaluate.result import SuiteEvaluation
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan import COLOUR_MAP, layer_step

_ROWS = 150
_COSINE_BINS = np.linspace(0, 1, 26)


def feature_layers(features: Sequence[FeatureLayers]) -> dict[str, Any] | None:
    """Where the features of each group fire; None where no two layers share an SAE."""
    shared = [of_group for of_group in features if len(of_group.group) > 1]
    if not shared:
        return None
    highest = _highest(shared)
    return {
        "highest": f"{highest:.0%}",
        "maps": [
            drawn(f"Layers {of.group}", f"features_{of.group.first}", _heat_map(of, highest))
            for of in shared
            if of.is_counted_F.any()
        ],
        "shared": shared,
        "fewest_firings": FEWEST_FIRINGS,
        "specific_share": f"{SPECIFIC_SHARE:.0%}",
    }


def missed_features(
    groups: Sequence[LayerGroup], evaluation: SuiteEvaluation
) -> dict[str, Any] | None:
    """How much of the baseline's dictionary the suite has, layer by layer."""
    matches = {
        scores.layer: scores.baseline.match
        for scores in evaluation
        if scores.baseline is not None and scores.baseline.match is not None
    }
    if not matches:
        return None
    return {
        "found_cosine": FOUND_COSINE,
        "alone": evaluation.missed_alone,
        "comparison": evaluation.comparison,
        "drawings": [
            drawn("likeness (MMCS)", "mmcs", _mmcs(groups, matches)),
            drawn("features of the baseline that are missed", "missed", _missed(groups, matches)),
            drawn("how near the nearest feature is", "cosines", _cosines(matches)),
        ],
    }


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
