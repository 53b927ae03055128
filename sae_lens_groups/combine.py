"""Puts the layers of two suites into one."""

from collections.abc import Iterable
from dataclasses import replace

from sae_lens_groups.errors import ConfigError
from sae_lens_groups.layers import LayerGroup, disjoint
from sae_lens_groups.manifest import SuiteManifest
from sae_lens_groups.suite import SAESuite


def kept_groups(
    trained: Iterable[LayerGroup], others: Iterable[LayerGroup]
) -> tuple[LayerGroup, ...]:
    """Those of the other groups that share no layer with the trained ones.

    Raises:
        ConfigError: a group is trained in part, so it can neither be kept nor left out.
    """
    trained_layers = {layer for group in trained for layer in group.layers}
    kept: list[LayerGroup] = []
    for group in others:
        n_trained = len(trained_layers.intersection(group.layers))
        if 0 < n_trained < len(group):
            raise ConfigError(
                f"init_keep_layers cannot keep a part of group {group} of init_from; train all of "
                "its layers or none, or leave init_keep_layers out"
            )
        if not n_trained:
            kept.append(group)
    return tuple(kept)


def require_combinable(
    groups: Iterable[LayerGroup], layer_alignment: str, other: SuiteManifest
) -> None:
    """Refuses, before training, a suite whose layers cannot stand beside these groups.

    Raises:
        ConfigError: says which group or setting is in the way.
    """
    kept_groups(groups, other.groups)
    if other.layer_alignment != layer_alignment:
        raise ConfigError(
            f"init_keep_layers puts layers of layer_alignment {other.layer_alignment!r} beside "
            f"those of {layer_alignment!r}; use the layer_alignment of the suite in init_from"
        )


def combined(trained: SAESuite, other: SAESuite) -> SAESuite:
    """A suite of all trained groups, and of the other suite's that share no layer with them."""
    kept = kept_groups(trained.manifest.groups, other.manifest.groups)
    source_of = dict.fromkeys(trained.manifest.layers, trained)
    source_of |= {layer: other for group in kept for layer in group.layers}
    manifest = replace(
        trained.manifest,
        groups=disjoint([*trained.manifest.groups, *kept]),
        scaling_factors={
            layer: suite.manifest.scaling_factors[layer] for layer, suite in source_of.items()
        },
    )
    return SAESuite(
        manifest,
        build_layer=lambda layer: source_of[layer].layer(layer),
        build_group=lambda group: source_of[group.first].group(group),
        build_scaler=lambda layer: source_of[layer].scaler(layer),
        build_sparsity=lambda layer: source_of[layer].log_sparsity(layer),
        runner_cfg=trained.runner_cfg,
    )
