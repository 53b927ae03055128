"""`cached_activations.json`: what cached activations were made of, and which runs they can feed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sae_lens_groups import files
from sae_lens_groups.activations import LayerNorms
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import CacheError, quoted
from sae_lens_groups.layers import HookTemplate, LayerGroup, format_layer_groups, parse_ranges
from sae_lens_groups.train.cache.identity import default_of, draw_settings, row_settings
from sae_lens_groups.train.cache.layout import DRAWN_ROWS, CacheLayout, CacheRows, row_columns

WRITE_AGAIN = "write the activations again with `sae-lens-groups cache`"
_AGAIN = "or write other activations with `sae-lens-groups cache`"


class CacheManifest(files.FileEntries):
    """What a folder of cached activations holds."""

    cache_rows: CacheRows
    """`all`, every token's activations at every layer, or `drawn`, those that training draws."""
    layer_groups: str
    """The groups whose layers were cached or drawn from: `0-3,4-7`."""
    settings: dict[str, Any]
    """Of the config: what decides on the tokens, and on their activations."""
    draw_settings: dict[str, Any]
    """Of the config: what decides on the draws. Empty where nothing was drawn."""
    layout: CacheLayout
    activations_dtype: Literal["float64", "float32", "float16", "bfloat16"]
    """The language model's own, to which rows are brought back when they are read."""
    n_prompts: int
    n_tokens: int
    dataset_rows_read: int
    """From the dataset's first row on."""
    versions: dict[str, str]
    norms: dict[str, LayerNorms] = Field(default_factory=dict)
    """By layer; empty in caches of before 0.9."""

    @classmethod
    def load(cls, folder: Path | str) -> "CacheManifest":
        """Reads a folder's manifest."""
        folder = files.expanded(folder)
        path = folder / files.CACHE
        if not path.is_file():
            lacks = f"has no {files.CACHE}, so it holds no cached activations"
            raise CacheError(
                f"cached_activations_path {str(folder)!r} "
                f"{lacks if folder.exists() else 'does not exist'}; name a folder that "
                "`sae-lens-groups cache` or SAELens's CacheActivationsRunner wrote"
            )
        with files.refusing(CacheError, f"{str(path)!r} cannot be read", WRITE_AGAIN):
            manifest = files.read_entries(cls, path.read_text(encoding="utf-8"))
            template = HookTemplate.from_text(manifest.settings["hook_name"])
            columns = row_columns(template, manifest.groups, manifest.cache_rows)
            if manifest.layout.row_columns != columns:
                groups = quoted(manifest.layer_groups)
                raise ValueError(f"its columns are not those of layers {groups}")
        return manifest

    def save(self, folder: Path) -> None:
        """Writes `cached_activations.json`."""
        content = self.model_dump()
        content["format_version"] = content.pop("format_version")  # always written last
        files.write_text(folder / files.CACHE, files.json_text(content))

    @property
    def groups(self) -> tuple[LayerGroup, ...]:
        """The groups whose layers were cached or drawn from."""
        return parse_ranges(self.layer_groups)

    def require_fit(
        self, cfg: GroupSAERunnerConfig[Any], groups: tuple[LayerGroup, ...] | None
    ) -> None:
        """Refuses a run that these activations cannot feed.

        Args:
            cfg: the run's config.
            groups: its groups; None where the model has to be loaded first to know them.
        """
        path = cfg.cached_activations_path
        self._require_equal(path, self.settings, row_settings(cfg), "was made with")
        d_in = {"d_in": self.layout.d_in}
        self._require_equal(path, d_in, {"d_in": int(cfg.sae.d_in)}, "holds activations of")
        if self.cache_rows == DRAWN_ROWS:
            how = "holds rows that were drawn with"
            self._require_equal(path, self.draw_settings, draw_settings(cfg), how)
        self._require_enough_rows(cfg)
        if groups is not None:
            self._require_groups(path, groups)

    def _require_equal(
        self, path: str | None, found: Mapping[str, Any], wanted: Mapping[str, Any], how: str
    ) -> None:
        for name, value in wanted.items():
            made_with = found[name] if name in found else default_of(name)
            if made_with != value:
                raise CacheError(
                    f"cached_activations_path {path!r} {how} {name}={quoted(made_with)}, and "
                    f"this run asks for {value!r}; use the same, {_AGAIN}"
                )

    def _require_enough_rows(self, cfg: GroupSAERunnerConfig[Any]) -> None:
        n_batches = self.n_prompts // cfg.store_batch_size_prompts
        n_tokens = n_batches * cfg.store_batch_size_prompts * cfg.rows_per_prompt
        buffer_size = cfg.n_batches_in_buffer * cfg.rows_per_prompt
        if n_tokens * cfg.layers_per_token < buffer_size:
            raise CacheError(
                f"cached_activations_path {cfg.cached_activations_path!r} holds {n_tokens:,} tokens "
                f"in whole batches of {cfg.store_batch_size_prompts} prompts, less than the shuffle "
                f"buffer of n_batches_in_buffer * {cfg.rows_per_prompt} positions of a prompt = "
                f"{buffer_size:,} tokens; lower "
                f"n_batches_in_buffer or store_batch_size_prompts, {_AGAIN}"
            )

    def _require_groups(self, path: str | None, groups: tuple[LayerGroup, ...]) -> None:
        layers = {layer for group in self.groups for layer in group.layers}
        missing = sorted({layer for group in groups for layer in group.layers} - layers)
        if missing:
            raise CacheError(
                f"cached_activations_path {path!r} holds layers {self.layer_groups}, and this run "
                f"needs layer {', '.join(map(str, missing))} too; leave it out of layer_groups, "
                f"{_AGAIN}"
            )
        other = [group for group in groups if group not in self.groups]
        if self.cache_rows == DRAWN_ROWS and other:
            raise CacheError(
                f"cached_activations_path {path!r} holds rows drawn for the groups "
                f"{self.layer_groups}, and this run has the group {format_layer_groups(other)}; "
                f"train these groups or some of them, {_AGAIN}"
            )
