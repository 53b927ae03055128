"""Caches that SAELens's CacheActivationsRunner wrote, each of one hook and of the same tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Array2D

from sae_lens_groups import files
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import CacheError
from sae_lens_groups.layers import HookTemplate
from sae_lens_groups.train.cache.identity import row_settings
from sae_lens_groups.train.cache.layout import ALL_ROWS, TOKEN_IDS, CacheLayout
from sae_lens_groups.train.cache.manifest import CacheManifest

_TO_DO = "name caches that it wrote of the same tokens at the hooks of this run"


def caches_of_saelens(folder: Path) -> list[Path]:
    """The folder, or those in it, where SAELens wrote them; empty for a cache of our own."""
    if (folder / files.CACHE).is_file():
        return []
    if (folder / "state.json").is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob("*/state.json"))


def as_one_cache(
    folders: Sequence[Path], cfg: GroupSAERunnerConfig[Any]
) -> tuple[CacheManifest, pa.Table]:
    """The caches as one of all their layers, and what it says of itself.

    They do not say what they were made of, so it is taken to be what the run asks for.
    """
    layers: dict[int, pa.ChunkedArray] = {}
    acts: list[Array2D] = []
    tokens: list[pa.ChunkedArray] = []
    for folder in folders:
        with files.refusing(CacheError, f"SAELens's cache {str(folder)!r} cannot be read", _TO_DO):
            cache: Any = datasets.load_from_disk(str(folder), keep_in_memory=False)
            hooks = {name: of for name, of in cache.features.items() if isinstance(of, Array2D)}
            if not hooks or TOKEN_IDS not in cache.features:
                raise ValueError(f"it lacks {TOKEN_IDS} or activations")
            tokens.append(cache.data.column(TOKEN_IDS))
            for name, of in hooks.items():
                layers[_layer_named(name, cfg.hook_template)] = cache.data.column(name)
                acts.append(of)
            if not tokens[-1].equals(tokens[0]) or acts[-1] != acts[0]:
                raise ValueError(f"it is of other tokens, width or dtype than {str(folders[0])!r}")
    manifest = _manifest(cfg, acts[0], sorted(layers), len(tokens[0]))
    columns = [tokens[0], *(layers[layer] for layer in sorted(layers))]
    return manifest, pa.Table.from_arrays(columns, [TOKEN_IDS, *manifest.layout.row_columns])


def _layer_named(hook_name: str, template: HookTemplate) -> int:
    theirs = HookTemplate.from_hook_name(hook_name)
    layer = theirs.layer_of(hook_name)
    if layer is None or not theirs.is_same_site(template):
        raise ValueError(f"it holds activations of {hook_name}, and this run trains at {template}")
    return layer


def _manifest(
    cfg: GroupSAERunnerConfig[Any], acts: Array2D, layers: Sequence[int], n_prompts: int
) -> CacheManifest:
    n_positions, d_in = acts.shape
    if n_positions != cfg.rows_per_prompt:
        raise CacheError(
            f"cached_activations_path {cfg.cached_activations_path!r} holds {n_positions} positions "
            f"of every prompt, and this run trains on {cfg.rows_per_prompt}; set context_size and "
            "seqpos_slice as they were when it was written"
        )
    layout: Any = {
        "row_columns": tuple(map(cfg.hook_template.hook_name, layers)),
        "position_columns": (),
        "tokens_per_prompt": n_positions,
        "rows_per_prompt": n_positions,
        "d_in": d_in,
        "dtype": acts.dtype,
    }
    return CacheManifest(
        format_version=CacheManifest.newest_format,
        cache_rows=ALL_ROWS,
        layer_groups=",".join(map(str, layers)),
        settings=row_settings(cfg),
        draw_settings={},
        layout=CacheLayout(**layout),
        activations_dtype=layout["dtype"],
        n_prompts=n_prompts,
        n_tokens=n_prompts * n_positions,
        dataset_rows_read=0,
        versions={},
    )
