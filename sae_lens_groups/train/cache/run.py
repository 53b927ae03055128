"""Caches activations: one pass of the language model, which training then need not repeat."""

import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from sae_lens.config import HfDataset
from tqdm.auto import tqdm
from transformer_lens import HookedRootModule

from sae_lens_groups import files
from sae_lens_groups.activations import (
    CountedRows,
    GroupActivationsStore,
    as_stream,
    compile_if_asked,
    load_hooked_model,
    measure_norms,
    n_layers_of,
    open_dataset,
    require_hooks,
    require_usable_rows,
)
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import CacheError, ConfigError
from sae_lens_groups.field_values import require_one_of
from sae_lens_groups.layers import LayerGroup, format_layer_groups
from sae_lens_groups.train.cache.demand import n_lm_batches
from sae_lens_groups.train.cache.identity import draw_settings, row_settings
from sae_lens_groups.train.cache.layout import (
    ALL_ROWS,
    CACHE_DTYPES,
    CACHE_ROWS,
    DRAWN_ROWS,
    CacheDtype,
    CacheLayout,
    CacheRows,
)
from sae_lens_groups.train.cache.manifest import CacheManifest
from sae_lens_groups.train.cache.rows import pieces
from sae_lens_groups.train.cache.shards import write_dataset
from sae_lens_groups.train.prepare import settle
from sae_lens_groups.train.progress import tell_share

_SETTING = "cached_activations_path"
_PACKAGES = ("sae-lens-groups", "sae-lens", "datasets", "torch")


def cache_activations(
    cfg: GroupSAERunnerConfig[Any],
    *,
    cache_rows: str = ALL_ROWS,
    cache_dtype: str = "float32",
    override_dataset: HfDataset | None = None,
    override_model: HookedRootModule | None = None,
) -> Path:
    """Writes the activations that training with this config reads to `cached_activations_path`.

    Training reads them back with `use_cached_activations=True`, and SAELens itself can train from
    any layer of them. As many tokens are cached as the shuffle buffer, the norm estimate and
    `training_tokens` take, or as the dataset has.

    Args:
        cfg: the config of the training runs; what is the SAE's own plays no part.
        cache_rows: `all` keeps every token's activations at every layer of the groups, for any
            groups of these layers and any seed. `drawn` keeps the rows that training draws, as many
            for a group as for a layer, for runs with these groups, `seed`, `layers_per_token` and
            `exclude_special_tokens`.
        cache_dtype: `float32`, exact for every model, or `float16`, half as large.
        override_dataset: reads this dataset instead of `cfg.dataset_path`.
        override_model: uses this model instead of loading `cfg.model_name`.

    Returns:
        The folder, which appears once it is complete.

    Raises:
        GroupSAEError: a mistake in the config, found before the model is loaded where possible.
    """
    caching = CacheRun(cfg, cache_rows, cache_dtype, override_dataset, override_model)
    caching.run()
    return caching.folder


class CacheRun:
    """`cache_activations` in two steps, between which the size is known."""

    groups: tuple[LayerGroup, ...]
    layout: CacheLayout

    def __init__(
        self,
        cfg: GroupSAERunnerConfig[Any],
        cache_rows: str = ALL_ROWS,
        cache_dtype: str = "float32",
        override_dataset: HfDataset | None = None,
        override_model: HookedRootModule | None = None,
    ) -> None:
        require_one_of("cache_rows", cache_rows, CACHE_ROWS)
        require_one_of("cache_dtype", cache_dtype, CACHE_DTYPES)
        settled = settle(cfg)
        cfg = self.cfg = settled.cfg
        self.cache_rows: CacheRows = cast("CacheRows", cache_rows)
        self.cache_dtype: CacheDtype = cast("CacheDtype", cache_dtype)
        self.folder = _free_folder(cfg)
        self.n_prompts = n_lm_batches(cfg) * cfg.store_batch_size_prompts
        dataset = open_dataset(cfg) if override_dataset is None else as_stream(override_dataset)
        groups = None if override_model is not None else settled.groups_before_loading()
        if groups is not None:
            self._plan(groups)
        self.model = override_model or load_hooked_model(cfg, groups)
        path = cfg.dataset_path if override_dataset is None else None
        require_usable_rows(path, dataset, self.model)
        self._dataset = dataset
        if settled.measures_distances and cache_rows == ALL_ROWS:  # whatever they will be
            groups = (LayerGroup(0, n_layers_of(self.model, cfg.hook_template) - 1),)
        else:
            groups, _ = settled.choose_groups(self.model, dataset)
        self._plan(groups)
        require_hooks(self.model, cfg.hook_template, self.groups)
        compile_if_asked(cfg, self.model)

    @property
    def n_tokens(self) -> int:
        """Some more are read where special tokens are left out, fewer where the dataset ends."""
        return self.n_prompts * self.layout.tokens_per_prompt

    @property
    def n_bytes(self) -> int:
        """What these tokens take on disk."""
        return self.n_prompts * self.layout.bytes_per_prompt

    def run(self) -> CacheManifest:
        """Writes the folder, and returns what it says of itself."""
        cfg = self.cfg
        rows = CountedRows(self._dataset)
        norms = measure_norms(cfg, self.model, rows, self.groups, cfg.training_tokens)
        norms.warn_if_massive()
        # A store of its own, which starts at the dataset's first row.
        store = GroupActivationsStore.from_group_config(
            self.model, cfg, self.groups, rows, norms.limits(cfg.hook_template)
        )
        with (
            files.only_writer(self.folder, _SETTING),
            files.new_folder(self.folder, _SETTING) as partial,
        ):
            n_prompts, dtype = self._write(store, partial)
            manifest = CacheManifest(
                format_version=CacheManifest.newest_format,
                cache_rows=self.cache_rows,
                layer_groups=format_layer_groups(self.groups),
                settings=row_settings(cfg),
                draw_settings=draw_settings(cfg) if self.cache_rows == DRAWN_ROWS else {},
                layout=self.layout,
                versions={name: version(name) for name in _PACKAGES},
                activations_dtype=cast("Any", dtype),
                n_prompts=n_prompts,
                n_tokens=n_prompts * self.layout.tokens_per_prompt,
                dataset_rows_read=rows.n_read,
                norms={str(layer): of for layer, of in norms.layers.items()},
            )
            manifest.save(partial)
        return manifest

    def _write(self, store: GroupActivationsStore, folder: Path) -> tuple[int, str]:
        """Writes the table; returns its prompts, and the dtype of the model's activations."""
        dtype, n_tokens = "", 0

        def encoded() -> Iterator[pa.RecordBatch]:
            nonlocal dtype, n_tokens
            for piece in pieces(store, self.cfg, self.layout):
                dtype = piece.activations_dtype
                yield self.layout.encode(piece.columns)
                n_tokens += piece.n_tokens
                bar.update(piece.n_tokens)
                tell_share(n_tokens / self.n_tokens)

        with tqdm(
            total=self.n_tokens,
            desc=f"Caching {self.n_bytes / 1e9:,.1f} GB of activations",
            unit="tok",
            unit_scale=True,
            leave=False,
        ) as bar:
            return write_dataset(folder, self.layout.features, encoded()), dtype

    def _plan(self, groups: tuple[LayerGroup, ...]) -> None:
        """Decides on the columns, which have to fit on the disk."""
        self.groups = groups
        self.layout = CacheLayout.of_config(self.cfg, groups, self.cache_rows, self.cache_dtype)
        parent = next(path for path in self.folder.resolve().parents if path.exists())
        n_free = shutil.disk_usage(parent).free
        if self.n_bytes > n_free:
            raise CacheError(
                f"{_SETTING} {str(self.folder)!r} would take {self.n_bytes / 1e9:,.1f} GB for "
                f"{self.n_tokens:,} tokens, and its disk has {n_free / 1e9:,.1f} GB left; lower "
                "training_tokens or name fewer layers in layer_groups, or set cache_rows to drawn "
                "or cache_dtype to float16"
            )


def _free_folder(cfg: GroupSAERunnerConfig[Any]) -> Path:
    if cfg.cached_activations_path is None:
        raise ConfigError(f"{_SETTING} is not given; name the folder to write")
    folder = files.expanded(cfg.cached_activations_path)
    files.require_free(folder, _SETTING)
    files.require_writable(folder, _SETTING)
    return folder
