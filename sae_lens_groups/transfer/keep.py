"""Puts the layers of two suites into one."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from typing_extensions import override

from sae_lens_groups import files
from sae_lens_groups.activations import EVERY_ROW, DatasetId
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError
from sae_lens_groups.layers import LayerGroup, disjoint
from sae_lens_groups.saved import SAESource, WrappedSource
from sae_lens_groups.suite import SAESuite


def kept_groups(
    trained: Iterable[LayerGroup], others: Iterable[LayerGroup]
) -> tuple[LayerGroup, ...]:
    """Those of the other groups that share no layer with the trained ones."""
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


def require_keepable(cfg: GroupSAERunnerConfig[Any], source: SAESource) -> None:
    """Refuses, before training, a source whose layers cannot stand in the run's suite."""
    manifest = source.manifest
    if source.folder is None or manifest.is_imported:
        raise ConfigError(
            f"init_keep_layers needs a suite, and init_from {cfg.init_from!r} is a single SAE; "
            "leave init_keep_layers out"
        )
    if manifest.hook_template != cfg.hook_template:
        raise ConfigError(
            f"init_keep_layers puts layers at {manifest.hook_template} beside those at "
            f"{cfg.hook_template}; use the hook names of the suite in init_from, or leave it out"
        )
    source.require_layers(None)
    if manifest.layer_alignment != cfg.layer_alignment:
        raise ConfigError(
            f"init_keep_layers puts layers of layer_alignment {manifest.layer_alignment!r} "
            f"beside those of {cfg.layer_alignment!r}; use the layer_alignment of the suite in "
            "init_from"
        )
    names = [
        *(f"{name}/{files.SAE_WEIGHTS}" for name in manifest.hook_names),
        *(f"{files.group_folder(group.name)}/{files.SAE_WEIGHTS}" for group in manifest.groups),
        *(f"{name}/{files.SPARSITY}" for name in manifest.hook_names),
    ]
    missing = [name for name in names if not (source.folder / name).exists()]
    if missing:
        raise ConfigError(
            f"init_keep_layers cannot keep the layers of init_from {cfg.init_from!r}, which lacks "
            f"{missing[0]}; leave init_keep_layers out"
        )


class _FilledIn(WrappedSource):
    """All trained groups, and those of another suite that share no layer with them."""

    def __init__(self, trained: SAESource, other: SAESource) -> None:
        super().__init__(trained)
        self.has_groups = self.has_scalers = True
        kept = kept_groups(trained.manifest.groups, other.manifest.groups)
        self._source_of = dict.fromkeys(trained.manifest.layers, trained)
        self._source_of |= {layer: other for group in kept for layer in group.layers}
        factors = {n: of.manifest.scaling_factors[n] for n, of in self._source_of.items()}
        groups = disjoint([*trained.manifest.groups, *kept])
        refit_tokens = trained.manifest.refit_tokens or other.manifest.refit_tokens
        self.manifest = replace(
            trained.manifest, groups=groups, scaling_factors=factors, refit_tokens=refit_tokens
        )

    @override
    def _of(self, layer: int) -> SAESource:
        return self._source_of[layer]


def with_kept_layers(trained: SAESuite, source: SAESource) -> SAESuite:
    """A suite of all trained groups, and of the source's that share no layer with them."""
    return SAESuite(_FilledIn(trained.source, source))


def rows_read_for(source: SAESource, dataset: DatasetId) -> int:
    """Rows of a dataset that the training of a source read, from the first one on."""
    if source.folder is None:
        return 0
    path = (source.runner_cfg or {}).get("dataset_path")
    if not dataset.is_same(DatasetId(path, source.manifest.dataset_fingerprint)):
        return 0
    n_read = source.manifest.rows_trained_on
    return EVERY_ROW if n_read is None else n_read
