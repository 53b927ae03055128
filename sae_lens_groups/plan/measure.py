"""Measures how far apart the layers of a model are, in one pass over some tokens."""

import copy
from collections.abc import Mapping
from typing import Any

from sae_lens import LanguageModelSAERunnerConfig
from sae_lens.config import HfDataset
from transformer_lens import HookedRootModule

from sae_lens_groups.activations import (
    GroupActivationsStore,
    as_stream,
    load_hooked_model,
    measure_norms,
    n_layers_of,
    open_dataset,
    require_hooks,
    require_usable_rows,
)
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.field_values import require_one_of
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan.distances import LayerDistances
from sae_lens_groups.plan.metrics import DistanceMetric
from sae_lens_groups.plan.running_distances import RunningDistances
from sae_lens_groups.plugins import distance_metrics

# An error is estimated from the differences between LM batches, so there have to be some.
MIN_BATCHES = 64


def measure_layer_distances(
    cfg: LanguageModelSAERunnerConfig[Any],
    *,
    metric: str = "angular",
    n_tokens: int | None = None,
    override_dataset: HfDataset | None = None,
    override_model: HookedRootModule | None = None,
) -> LayerDistances:
    """How far apart the layers of the model are, each with its standard error.

    Reads tokens as a training run of this config would, with all layers captured in one pass, without
    those that `exclude_special_tokens` leaves out, and those of massive activations, which would
    decide everything, whether they are trained on or not. Memory does not grow with tokens.

    The standard errors are jackknife estimates over up to 32 clusters of LM batches: tokens of one
    prompt are alike, and an error that took them for independent would be too small. The error of
    the layers' means, which `angular` takes off, is in them.

    Args:
        cfg: a SAELens config, or one with layer groups, whose groups play no part here.
        metric: `angular`, `cosine`, `cka`, or a name that another package registered.
        n_tokens: how many tokens to read; `cfg.plan_tokens` where the config has it, otherwise
            200,000. All there are, where the dataset ends before. They come in whole LM batches of
            `store_batch_size_prompts` prompts, or fewer prompts where there would be fewer than 64.
        override_dataset: measures on this dataset instead of `cfg.dataset_path`.
        override_model: measures this model, with hooks at all layers, instead of `cfg.model_name`.

    Raises:
        UnknownNameError: no plugin registered the metric.
        DatasetError: the dataset gives too few tokens for a standard error.
        NonFiniteActivationsError: a layer's activations are NaN or infinite.
        GroupSAEError: another mistake in the config, as in training.
    """
    if not isinstance(cfg, GroupSAERunnerConfig):
        cfg = GroupSAERunnerConfig.from_sae_lens(cfg, layer_groups="each")
    chosen = find_metric(metric)
    dataset = open_dataset(cfg) if override_dataset is None else as_stream(override_dataset)
    model = override_model or load_hooked_model(cfg, None)
    path = cfg.dataset_path if override_dataset is None else None
    require_usable_rows(path, dataset, model)
    n_tokens = cfg.plan_tokens if n_tokens is None else n_tokens
    norms = measure_norms(cfg, model, dataset, _every_layer(cfg, model), n_tokens)
    norms.warn_if_massive()
    limits = norms.ordinary_limits(cfg.hook_template)
    store = all_layers_store(cfg, model, dataset, _prompts_per_batch(cfg, n_tokens), limits)
    measurement = RunningDistances(chosen, n_tokens, cfg.hook_template.hook_names(store.groups))
    for rows_LBD in store.layer_rows(n_tokens, "Measuring layer distances"):
        measurement.add(rows_LBD)
    matrix_LL, standard_errors_LL = measurement.result()
    return LayerDistances(
        metric=metric,
        matrix=matrix_LL.numpy(),
        standard_errors=standard_errors_LL.numpy(),
        n_tokens=measurement.n_tokens,
        model_name=cfg.model_name,
        hook_template=cfg.hook_template,
        hook_head_index=cfg.hook_head_index,
    )


def find_metric(name: str) -> DistanceMetric:
    """The metric of this name among those that plugins registered."""
    known = distance_metrics()
    require_one_of("metric", name, known)
    return known[name]


def all_layers_store(
    cfg: GroupSAERunnerConfig[Any],
    model: HookedRootModule,
    dataset: HfDataset,
    prompts_per_batch: int | None = None,
    norm_limits: Mapping[str, float] | None = None,
) -> GroupActivationsStore:
    """A store of its own that captures every layer, from the dataset's first row on.

    `prompts_per_batch` replaces `store_batch_size_prompts`; tokens beyond the limits are left out.
    """
    groups = _every_layer(cfg, model)
    if prompts_per_batch is not None:
        cfg = copy.copy(cfg)  # not dataclasses.replace: a new config gets a checkpoint folder
        cfg.store_batch_size_prompts = prompts_per_batch
    return GroupActivationsStore.from_group_config(
        model, cfg, groups, as_stream(dataset), norm_limits
    )


def _every_layer(cfg: GroupSAERunnerConfig[Any], model: HookedRootModule) -> tuple[LayerGroup, ...]:
    every_layer = (LayerGroup(0, n_layers_of(model, cfg.hook_template) - 1),)
    require_hooks(model, cfg.hook_template, every_layer)
    return every_layer


def _prompts_per_batch(cfg: GroupSAERunnerConfig[Any], n_tokens: int) -> int:
    """As in training, or fewer where the tokens would be too few LM batches to tell an error by."""
    at_most = n_tokens // (MIN_BATCHES * cfg.rows_per_prompt)
    return min(cfg.store_batch_size_prompts, max(1, at_most))
