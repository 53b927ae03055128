"""Puts the layers of two suites into one."""

from collections.abc import Iterable
from dataclasses import replace

from sae_lens_groups.activations.dataset import is_same_dataset
from sae_lens_groups.errors import ConfigError
from sae_lens_groups.files.folder import CheckedFolder
from sae_lens_groups.layers import LayerGroup, disjoint
from sae_lens_groups.saved.open import InitSource
from sae_lens_groups.saved.suite import SavedSuite
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


def require_keepable(source: InitSource, layer_alignment: str) -> None:
    """Refuses, before training, a source whose layers cannot stand in the run's suite.

    Raises:
        ConfigError: it is no suite, was aligned otherwise, or lacks files.
    """
    if source.suite_folder is None:
        raise ConfigError(
            f"init_keep_layers needs a suite, and init_from {source.name!r} is a single SAE; "
            "leave init_keep_layers out"
        )
    suite = SAESuite.load(source.suite_folder)
    if suite.manifest.layer_alignment != layer_alignment:
        raise ConfigError(
            f"init_keep_layers puts layers of layer_alignment {suite.manifest.layer_alignment!r} "
            f"beside those of {layer_alignment!r}; use the layer_alignment of the suite in init_from"
        )
    missing = [path for path in suite.expected_files() if not path.exists()]
    if missing:
        raise ConfigError(
            f"init_keep_layers cannot keep the layers of init_from {source.name!r}, which lacks "
            f"{missing[0].relative_to(source.suite_folder)}; leave init_keep_layers out"
        )


def with_kept_layers(trained: SAESuite, source: InitSource) -> SAESuite:
    """A suite of all trained groups, and of the source's that share no layer with them.

    Raises:
        SuiteError: the source is no suite any more.
    """
    assert source.suite_folder is not None
    other = SAESuite.load(source.suite_folder)
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
        training_curves=trained.training_curves,
    )


def rows_read_with_source(
    rows_read: int, dataset_path: str, source: InitSource | None
) -> int | None:
    """Rows of its dataset that a run or what it started from read.

    None where the source read of the same dataset and does not say how much.
    """
    if source is None or source.suite_folder is None:
        return rows_read
    of_run = SavedSuite(CheckedFolder(source.suite_folder))
    if not is_same_dataset((of_run.runner_cfg or {}).get("dataset_path"), dataset_path):
        return rows_read
    of_source = of_run.manifest.dataset_rows_read
    return None if of_source is None else max(rows_read, of_source)
