"""Puts what the sweep counted together: scores, comparison, features' layers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sae_lens import SAE

from sae_lens_groups.baseline import Baseline
from sae_lens_groups.evaluation.bootstrap import Difference, Resamplings
from sae_lens_groups.evaluation.features import FeatureLayers
from sae_lens_groups.evaluation.matching import match_features
from sae_lens_groups.evaluation.metrics import metrics_of
from sae_lens_groups.evaluation.result import BaselineScores, Comparison, LayerScores
from sae_lens_groups.evaluation.sweep import LayerResults
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.suite import SAESuite

_SIGNED = "abstopk"  # the one architecture of SAELens whose features may be negative
Results = Mapping[str, LayerResults]
"""By hook name."""


def layer_scores(
    suite: SAESuite, results: Results, of_baseline: Mapping[str, BaselineScores]
) -> tuple[LayerScores, ...]:
    """A row per layer, lowest first."""
    manifest = suite.manifest
    return tuple(
        LayerScores(
            layer=layer,
            hook_name=hook_name,
            group=manifest.group_of(layer).name,
            scaling_factor=manifest.scaling_factors[layer],
            metrics=metrics_of(results[hook_name].sums),
            dead_features=_dead_share(results[hook_name]),
            baseline=of_baseline.get(hook_name),
        )
        for layer, hook_name in zip(manifest.layers, manifest.hook_names)
    )


def compare(
    suite: SAESuite, results: Results, baseline: Baseline, baseline_results: Results
) -> tuple[dict[str, BaselineScores], Comparison]:
    """The baseline's scores by hook name, with the differences to them, and their means."""
    hook_names = [name for name in suite if name in baseline_results]
    pairs = [(results[name].sums, baseline_results[name].sums) for name in hook_names]
    resamplings = Resamplings(len(pairs[0][0]))
    differences, mean_differences = resamplings.differences(pairs)
    of_baseline = {
        name: _baseline_scores(
            baseline.name,
            *(suite[name], results[name], baseline.saes[name], baseline_results[name], difference),
        )
        for name, difference in zip(hook_names, differences)
    }
    return of_baseline, Comparison(
        name=baseline.name, n_layers=len(hook_names), mean_differences=mean_differences
    )


def feature_layers(suite: SAESuite, results: Results, n_tokens: int) -> tuple[FeatureLayers, ...]:
    """On which layers of its group each feature fires, a group each."""
    template = suite.manifest.hook_template

    def counted(group: LayerGroup) -> np.ndarray:
        of_layers = [results[template.hook_name(layer)].n_firings_F for layer in group.layers]
        return torch.stack(of_layers).numpy()

    return tuple(FeatureLayers(group, counted(group), n_tokens) for group in suite.manifest.groups)


def _baseline_scores(
    name: str,
    sae: SAE[Any],
    results: LayerResults,
    baseline_sae: SAE[Any],
    baseline_results: LayerResults,
    differences: Mapping[str, Difference],
) -> BaselineScores:
    return BaselineScores(
        name=name,
        metrics=metrics_of(baseline_results.sums),
        dead_features=_dead_share(baseline_results),
        differences=differences,
        match=match_features(
            sae.W_dec,
            results.n_firings_F,
            baseline_sae.W_dec.to(sae.W_dec.device),
            baseline_results.n_firings_F,
            is_signed=_SIGNED in (sae.cfg.architecture(), baseline_sae.cfg.architecture()),
        ),
    )


def _dead_share(results: LayerResults) -> float:
    return (results.n_firings_F == 0).float().mean().item()
