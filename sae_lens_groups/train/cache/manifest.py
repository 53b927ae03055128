"""`cached_activations.json`: what cached activations were made of, and which runs they can feed."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sae_lens_groups import files
from sae_lens_groups._version import __version__
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import CacheError, quoted
from sae_lens_groups.files.reading import MISREAD, require_kinds
from sae_lens_groups.layers import HookTemplate, LayerGroup, format_layer_groups, parse_ranges
from sae_lens_groups.train.cache.layout import CacheLayout

ALL = "all"
DRAWN = "drawn"
CACHE_ROWS = (ALL, DRAWN)
CACHE_DTYPES = ("float32", "float16")
"""What both Array2D and torch know; bfloat16 fits into either, into float16 up to 65,504."""
FORMAT_VERSION = 1

# What decides on the tokens, and on their activations.
_SETTINGS = (
    "model_name",
    "model_class_name",
    "model_from_pretrained_kwargs",
    "model_kwargs",
    "autocast_lm",
    "hook_name",
    "hook_head_index",
    "dataset_path",
    "context_size",
    "seqpos_slice",
    "prepend_bos",
    "disable_concat_sequences",
    "sequence_separator_token",
    "use_chat_formatting",
)
# What decides on the draws beside the groups.
_DRAW_SETTINGS = ("seed", "layers_per_token", "exclude_special_tokens")
# A local folder may lie elsewhere by now.
_PATHS = ("model_name", "dataset_path")

_LM_DTYPES = ("float64", "float32", "float16", "bfloat16")
_KINDS = {
    "cache_rows": str,
    "layer_groups": str,
    "settings": dict,
    "draw_settings": dict,
    "layout": dict,
    "activations_dtype": str,
    "n_prompts": int,
    "n_tokens": int,
    "dataset_rows_read": int,
    "versions": dict,
    "format_version": int,
}

_AGAIN = "or write other activations with `sae-lens-groups cache`"


@dataclass(frozen=True, kw_only=True)
class CacheManifest:
    """What a folder of cached activations holds."""

    cache_rows: str
    """`all`, every token's activations at every layer, or `drawn`, those that training draws."""
    layer_groups: str
    """The groups whose layers were cached or drawn from: `0-3,4-7`."""
    settings: Mapping[str, Any]
    """Of the config: what decides on the tokens, and on their activations."""
    draw_settings: Mapping[str, Any]
    """Of the config: what decides on the draws. Empty where nothing was drawn."""
    layout: CacheLayout
    activations_dtype: str
    """The language model's own, to which rows are brought back when they are read."""
    n_prompts: int
    n_tokens: int
    dataset_rows_read: int
    """From the dataset's first row on."""
    versions: Mapping[str, str]
    format_version: int = FORMAT_VERSION

    @classmethod
    def of_config(
        cls,
        cfg: GroupSAERunnerConfig[Any],
        groups: tuple[LayerGroup, ...],
        cache_rows: str,
        layout: CacheLayout,
        *,
        activations_dtype: str,
        n_prompts: int,
        dataset_rows_read: int,
    ) -> "CacheManifest":
        """Of activations that this config made."""
        return cls(
            cache_rows=cache_rows,
            layer_groups=format_layer_groups(groups),
            settings=_settings(cfg, _SETTINGS),
            draw_settings=_settings(cfg, _DRAW_SETTINGS) if cache_rows == DRAWN else {},
            layout=layout,
            versions={
                "sae-lens-groups": __version__,
                **{name: version(name) for name in ("sae-lens", "datasets", "torch")},
            },
            activations_dtype=activations_dtype,
            n_prompts=n_prompts,
            n_tokens=n_prompts * layout.tokens_per_prompt,
            dataset_rows_read=dataset_rows_read,
        )

    @classmethod
    def load(cls, folder: Path | str) -> "CacheManifest":
        """Reads a folder's manifest.

        Raises:
            CacheError: the folder is missing, holds no cached activations, or damaged ones.
        """
        path = files.expanded(folder) / files.CACHE
        if not path.is_file():
            raise CacheError(_not_a_cache(files.expanded(folder)))
        try:
            saved = files.parse_json(path.read_text(encoding="utf-8"))
            require_kinds(saved, {"format_version": int})
            _require_known_format(folder, saved["format_version"])
            return cls._from_dict(saved)
        except CacheError:
            raise
        except (OSError, *MISREAD) as error:
            raise CacheError(
                f"{str(path)!r} cannot be read: {quoted(error)}; write the activations again with "
                "`sae-lens-groups cache`"
            ) from error

    @classmethod
    def _from_dict(cls, saved: Mapping[str, Any]) -> "CacheManifest":
        require_kinds(saved, _KINDS)
        layout = CacheLayout.from_dict(saved["layout"])
        for name, known in (("cache_rows", CACHE_ROWS), ("activations_dtype", _LM_DTYPES)):
            if saved[name] not in known:
                raise ValueError(f"{name} is {quoted(saved[name])}")
        manifest = cls(**{**{name: saved[name] for name in _KINDS}, "layout": layout})
        if layout.row_columns != manifest._columns_of_groups():
            raise ValueError(f"its columns are not those of layers {quoted(manifest.layer_groups)}")
        return manifest

    def _columns_of_groups(self) -> tuple[str, ...]:
        if self.cache_rows == DRAWN:
            return tuple(group.name for group in self.groups)
        template = HookTemplate.from_text(self.settings["hook_name"])
        return tuple(template.hook_names(self.groups))

    def save(self, folder: Path) -> None:
        """Writes `cached_activations.json`."""
        files.write_text(folder / files.CACHE, json.dumps(asdict(self), indent=2) + "\n")

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

        Raises:
            CacheError: says what differs or is missing.
        """
        path = cfg.cached_activations_path
        self._require_equal(path, self.settings, _settings(cfg, _SETTINGS), "was made with")
        d_in = {"d_in": self.layout.d_in}
        self._require_equal(path, d_in, {"d_in": int(cfg.sae.d_in)}, "holds activations of")
        if self.cache_rows == DRAWN:
            wanted = _settings(cfg, _DRAW_SETTINGS)
            self._require_equal(path, self.draw_settings, wanted, "holds rows that were drawn with")
        self._require_enough_rows(cfg)
        if groups is not None:
            self._require_groups(path, groups)

    def _require_equal(
        self, path: str | None, found: Mapping[str, Any], wanted: Mapping[str, Any], how: str
    ) -> None:
        for name, value in wanted.items():
            if found.get(name) != value:
                raise CacheError(
                    f"cached_activations_path {path!r} {how} {name}={quoted(found.get(name))}, and "
                    f"this run asks for {value!r}; use the same, {_AGAIN}"
                )

    def _require_enough_rows(self, cfg: GroupSAERunnerConfig[Any]) -> None:
        n_batches = self.n_prompts // cfg.store_batch_size_prompts
        n_tokens = n_batches * cfg.store_batch_size_prompts * cfg.rows_per_prompt
        buffer_size = cfg.n_batches_in_buffer * cfg.rows_per_prompt
        if n_tokens < buffer_size:
            raise CacheError(
                f"cached_activations_path {cfg.cached_activations_path!r} holds {n_tokens:,} tokens "
                f"in whole batches of {cfg.store_batch_size_prompts} prompts, less than the shuffle "
                f"buffer of n_batches_in_buffer * context_size = {buffer_size:,} tokens; lower "
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
        if self.cache_rows == DRAWN and other:
            raise CacheError(
                f"cached_activations_path {path!r} holds rows drawn for the groups "
                f"{self.layer_groups}, and this run has the group {format_layer_groups(other)}; "
                f"train these groups or some of them, {_AGAIN}"
            )


def _settings(cfg: GroupSAERunnerConfig[Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Settings as JSON gives them back."""
    values = {name: getattr(cfg, name) for name in names}
    for name in _PATHS:
        if name in values:
            values[name] = Path(str(values[name])).name
    if "hook_name" in values:  # which may name any layer
        values["hook_name"] = str(cfg.hook_template)
    if "model_from_pretrained_kwargs" in values:
        values["model_from_pretrained_kwargs"] = values["model_from_pretrained_kwargs"] or {}
    return json.loads(json.dumps(values, default=str))


def _require_known_format(folder: Path | str, format_version: int) -> None:
    if format_version > FORMAT_VERSION:
        raise CacheError(
            f"cached_activations_path {str(folder)!r} was written by a newer sae-lens-groups: its "
            f"format is {format_version}, and this one reads {FORMAT_VERSION}; update it"
        )


def _not_a_cache(folder: Path) -> str:
    how = "name a folder that `sae-lens-groups cache` wrote"
    if not folder.exists():
        return f"cached_activations_path {str(folder)!r} does not exist; {how}"
    what = f"cached_activations_path {str(folder)!r} has no {files.CACHE}"
    if (folder / "state.json").is_file():
        return f"{what}; SAELens's own cache holds one layer and not what it was made of: {how}"
    return f"{what}, so it holds no cached activations; {how}"
