"""The recipe of a whole suite: groups first, then an SAE per layer that starts from its group's."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sae_lens_groups import files
from sae_lens_groups.activations import (
    load_hooked_model,
    n_layers_before_loading,
    open_dataset,
    require_usable_rows,
)
from sae_lens_groups.config import NEWEST, ROWS, GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError, counted
from sae_lens_groups.layers import LayerGroup, format_layer_groups
from sae_lens_groups.plan import SuiteCost
from sae_lens_groups.train.cache.layout import ALL_ROWS, CacheLayout
from sae_lens_groups.train.cost import count_flops, time_steps
from sae_lens_groups.train.prepare import settle
from sae_lens_groups.train.proportions import SPARSITY_WARM_UPS, require_schedules_that_fit
from sae_lens_groups.train.sweep import replace_flags

# Of the tokens that one SAE per layer would be trained on, as measured on the demo
# (tutorials/speed.md): those of the groups' run, of the layers' run, and cached for both.
_GROUPS, _LAYERS, _CACHED = 1.0, 0.3, 0.2
_LAYERS_PER_TOKEN, _GROUP_SIZE, _CACHE_DTYPE = 2, 4, "float16"
_LARGEST_SHARE_OF_DISK = 0.5
_PARTS = ("cache", "groups", "layers")


@dataclass(frozen=True)
class Budget:
    """What a suite may cost: a share of SAELens's FLOPs for an SAE per layer, or seconds."""

    amount: float
    is_seconds: bool

    def __str__(self) -> str:
        return _time(self.amount) if self.is_seconds else f"{self.amount:g} of SAELens's FLOPs"


class SuiteParts(files.Entries):
    """The content of `recipe.json`: what was decided before the first part, so that it stays so."""

    settings: dict[str, Any]
    """Those that the user gave."""
    budget: str | None
    groups: str
    cached_tokens: int
    """0 where nothing is cached."""
    group_tokens: int
    layer_tokens: int
    refit_tokens: int
    cache_dtype: str = _CACHE_DTYPE
    shares: dict[str, float]
    """Of each part, in what the whole costs."""
    text: str
    """What was printed."""

    def require_same(self, cfg: GroupSAERunnerConfig[Any], budget: Budget | None) -> None:
        """Refuses other settings than the parts were begun with."""
        given = {**_settings(cfg), "budget": None if budget is None else str(budget)}
        begun = {**self.settings, "budget": self.budget}
        other = [name for name, value in given.items() if begun.get(name) != value]
        if other:
            raise ConfigError(
                f"this suite was begun with another {' and '.join(other)}; give the same flags to "
                "go on, or name another output_path"
            )


@dataclass(frozen=True, kw_only=True)
class SuiteRecipe:
    """What one command does for a whole suite.

    Args:
        cfg: the settings that an SAE per layer would be trained with, `output_path` among them.
        budget: scales the tokens of all parts; without it, `training_tokens` does.
        has_groups: whether `layer_groups` is the user's; otherwise runs of four layers are taken.
    """

    cfg: GroupSAERunnerConfig[Any]
    budget: Budget | None = None
    has_groups: bool = False

    @property
    def folder(self) -> Path:
        """Where the parts lie until the suite is there: `<output_path>-parts`."""
        assert self.cfg.output_path is not None
        output = Path(self.cfg.output_path)
        return output.with_name(f"{output.name}-parts")

    def groups(self) -> tuple[LayerGroup, ...]:
        """The groups of the first run, known without the language model.

        Raises:
            ConfigError: they have to be measured, or hold one layer each.
        """
        if self.has_groups:
            groups = settle(self.cfg).groups_before_loading()
        else:
            n_layers = n_layers_before_loading(self.cfg)
            groups = None if n_layers is None else _in_fours(n_layers)
        if groups is None:
            raise ConfigError(
                "the groups have to be known before the model is loaded; name them with "
                "--layer_groups, or run sae-lens-groups plan and name its plan.json there"
            )
        if all(len(group) == 1 for group in groups):
            raise ConfigError(
                f"layer_groups is {self.cfg.layer_groups}, and each group has one layer; the recipe "
                "takes groups of several layers: name some with --layer_groups"
            )
        return groups

    def saved(self) -> SuiteParts | None:
        """What was decided when it was begun; None where it was not."""
        path = self.folder / files.RECIPE
        if not path.exists():
            return None
        with files.refusing(ConfigError, f"{path} cannot be read", "remove its folder"):
            parts = files.read_entries(SuiteParts, path.read_text(encoding="utf-8"))
        parts.require_same(self.cfg, self.budget)
        return parts

    def begin(self, parts: SuiteParts) -> None:
        """Writes down what was decided."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_text(self.folder / files.RECIPE, files.json_text(parts.model_dump()))

    def decided(self) -> SuiteParts:
        """Loads the language model, counts and times what a token costs, and decides on tokens."""
        groups = self.groups()
        model = load_hooked_model(self.cfg, None)
        dataset = open_dataset(self.cfg)
        require_usable_rows(self.cfg.dataset_path, dataset, model)
        plain = replace_flags(self.cfg, fast_step="never")
        ours, saelens = (
            {"flops": count_flops(cfg, model, dataset), "s": time_steps(cfg, model, dataset)}
            for cfg in (self.cfg, plain)
        )
        parts = decide(self, groups, ours, saelens)
        for part in _PARTS[1:]:
            require_schedules_that_fit(self.config(part, parts))
        return parts

    def config(self, part: str, parts: SuiteParts) -> GroupSAERunnerConfig[Any]:
        """The settings of `cache`, `groups` or `layers`."""
        cache = str(self.folder / "cache") if parts.cached_tokens else None
        layers = ",".join(str(n) for group in self.groups() for n in group.layers)
        reads = {"cached_activations_path": cache, "use_cached_activations": cache is not None}
        if part == "cache":
            tokens = parts.cached_tokens
            own = {"layer_groups": layers, "use_cached_activations": False, "refit_tokens": 0}
        elif part == "groups":
            tokens = parts.group_tokens
            own = {
                "layer_groups": parts.groups,
                "layers_per_token": max(self.cfg.layers_per_token, _LAYERS_PER_TOKEN),
                "init_features": ROWS,
                "output_path": str(self.folder / "groups"),
            }
        else:
            tokens = parts.layer_tokens
            own = {
                "layer_groups": layers,
                "init_from": str(self.folder / "groups"),
                "lr_decay_steps": tokens // self.cfg.train_batch_size_tokens,
                "lr_warm_up_steps": 0,
                "layers_per_token": 1,
                "refit_tokens": 0,
            }
        cfg = replace_flags(self.cfg, **{**reads, "training_tokens": tokens, **own})
        cfg.logger.run_name = f"{self.cfg.logger.run_name} ({part})"
        for name in SPARSITY_WARM_UPS:
            if part == "layers" and hasattr(cfg.sae, name):
                setattr(cfg.sae, name, 0)  # they are warm
        if part != "cache":
            # Not through the config, which would append a random name: the same files each time.
            cfg.checkpoint_path = str(self.folder / "checkpoints" / part / "run")
            cfg.resume_from_checkpoint = NEWEST
            cfg.checkpoint_every = self.cfg.checkpoint_every or "10m"
            cfg.keep_checkpoints = self.cfg.keep_checkpoints or 1
        if part == "layers":
            cfg.recipe = made_by(parts)
        return cfg

    def clean(self) -> None:
        """Removes what only an unfinished suite needs; the groups' suite stays."""
        for name in ("cache", "checkpoints"):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def decide(
    recipe: SuiteRecipe,
    groups: tuple[LayerGroup, ...],
    ours: Mapping[str, SuiteCost],
    saelens: Mapping[str, SuiteCost],
) -> SuiteParts:
    """How many tokens each part gets.

    Args:
        ours: what a token costs, in FLOPs (`flops`) and seconds (`s`).
        saelens: the same with SAELens's own training step.
    """
    cfg, n_layers = recipe.cfg, sum(map(len, groups))
    alone = {unit: cfg.training_tokens * of.grouped(n_layers) for unit, of in saelens.items()}
    unit = "s" if recipe.budget is not None and recipe.budget.is_seconds else "flops"
    for cached in (_CACHED, 0.0):
        shares = {"cache": cached, "groups": _GROUPS, "layers": _LAYERS}
        tokens = {part: share * cfg.training_tokens for part, share in shares.items()}
        if recipe.budget is not None:
            scaled, whole_cost = (
                sum(_costs(cfg, groups, tokens, ours[unit], n).values())
                for n in (0, cfg.refit_tokens)
            )
            allowed = recipe.budget.amount * (1 if unit == "s" else alone[unit])
            factor = (allowed - (whole_cost - scaled)) / scaled  # refitting takes what it takes
            tokens = {part: n * factor for part, n in tokens.items()}
        if _fits_on_disk(recipe, groups, tokens["cache"]):
            break
    n_tokens = {part: int(n) for part, n in tokens.items()}
    _require_batches(cfg, n_tokens["layers"], recipe.budget)
    costs = {unit: _costs(cfg, groups, n_tokens, of, cfg.refit_tokens) for unit, of in ours.items()}
    return SuiteParts(
        settings=_settings(cfg),
        budget=None if recipe.budget is None else str(recipe.budget),
        groups=format_layer_groups(groups),
        cached_tokens=n_tokens["cache"],
        group_tokens=n_tokens["groups"],
        layer_tokens=n_tokens["layers"],
        refit_tokens=cfg.refit_tokens,
        shares={part: n / sum(costs["s"].values()) for part, n in costs["s"].items()},
        text=_text(recipe, groups, n_tokens, costs, alone),
    )


def _costs(
    cfg: GroupSAERunnerConfig[Any],
    groups: tuple[LayerGroup, ...],
    tokens: Mapping[str, float],
    of: SuiteCost,
    refit_tokens: int,
) -> dict[str, float]:
    """What each part costs; refitting counts as a training step of every layer."""
    n_layers, lm_forward = sum(map(len, groups)), 0.0 if tokens["cache"] else of.lm_forward
    per_token = max(cfg.layers_per_token, _LAYERS_PER_TOKEN)
    return {
        "cache": tokens["cache"] * of.lm_forward,
        "groups": tokens["groups"] * (lm_forward / per_token + len(groups) * of.sae_step)
        + refit_tokens * (lm_forward + n_layers * of.sae_step),
        "layers": tokens["layers"] * (lm_forward + n_layers * of.sae_step),
    }


def _fits_on_disk(recipe: SuiteRecipe, groups: tuple[LayerGroup, ...], n_tokens: float) -> bool:
    """Whether a cache of so many tokens takes at most half of what is free."""
    cfg = recipe.cfg
    layout = CacheLayout.of_config(cfg, groups, ALL_ROWS, _CACHE_DTYPE)
    parent = next(path for path in recipe.folder.resolve().parents if path.exists())
    n_prompts = n_tokens / cfg.rows_per_prompt
    n_free = shutil.disk_usage(parent).free
    return n_prompts * layout.bytes_per_prompt <= _LARGEST_SHARE_OF_DISK * n_free


def _require_batches(cfg: GroupSAERunnerConfig[Any], n_tokens: int, budget: Budget | None) -> None:
    if n_tokens < cfg.train_batch_size_tokens:
        given = (
            f"budget {budget}" if budget is not None else f"training_tokens {cfg.training_tokens:,}"
        )
        raise ConfigError(
            f"{given} leaves {max(n_tokens, 0):,} tokens for the SAEs of single layers, less than one "
            f"batch of train_batch_size_tokens={cfg.train_batch_size_tokens:,}; raise it"
        )


def _in_fours(n_layers: int) -> tuple[LayerGroup, ...]:
    """All layers in near-equal runs of at most four."""
    n_groups = -(-n_layers // _GROUP_SIZE)
    ends = [n_layers * n // n_groups for n in range(n_groups + 1)]
    return tuple(LayerGroup(first, end - 1) for first, end in pairwise(ends))


def _settings(cfg: GroupSAERunnerConfig[Any]) -> dict[str, Any]:
    return json.loads(json.dumps({**cfg.to_dict(), "checkpoint_path": None}, default=str))


def made_by(parts: SuiteParts) -> str:
    """How the suite was made, in a sentence."""
    refit = f", their decoders refitted to {parts.refit_tokens:,}" * bool(parts.refit_tokens)
    cached = f", from one cache of {parts.cached_tokens:,} tokens" * bool(parts.cached_tokens)
    return (
        f"groups {parts.groups}, begun with rows as features, on {parts.group_tokens:,} tokens "
        f"each{refit}, then an SAE per layer, started from its group's, on "
        f"{parts.layer_tokens:,}{cached}"
    )


def _text(
    recipe: SuiteRecipe,
    groups: tuple[LayerGroup, ...],
    tokens: Mapping[str, int],
    costs: Mapping[str, Mapping[str, float]],
    alone: Mapping[str, float],
) -> str:
    """The plan: a line per part, with its tokens, FLOPs and time."""
    n_layers, refit_tokens = sum(map(len, groups)), recipe.cfg.refit_tokens
    refit = f", decoders refitted to {refit_tokens:,}" * bool(refit_tokens)
    what = {
        "cache": f"activations of {counted(n_layers, 'layer')}",
        "groups": f"{counted(len(groups), 'SAE')}: {format_layer_groups(groups)}{refit}",
        "layers": f"{counted(n_layers, 'SAE')}, each started from its group's",
    }
    lines = [
        f"{part:<9} {tokens[part]:>14,} tokens {_flops(costs['flops'][part])} "
        f"{_time(costs['s'][part]):>8}  {what[part]}"
        for part in _PARTS
        if tokens[part]
    ]
    flops, seconds = (sum(costs[unit].values()) for unit in ("flops", "s"))
    lines += [
        f"{'in all':<9} {'':>21} {_flops(flops)} {_time(seconds):>8}  by timed steps, without what else a run does",
        f"{'SAELens':<9} {recipe.cfg.training_tokens:>14,} tokens {_flops(alone['flops'])} "
        f"{_time(alone['s']):>8}  an SAE per layer from scratch, with its own training step: "
        f"{flops / alone['flops']:.2f} of its FLOPs, {seconds / alone['s']:.2f} of its time",
        "and an evaluation on text that was not read, which is in none of these figures",
    ]
    return "\n".join(lines)


def _flops(n: float) -> str:
    return f"{n:>9.2e} FLOPs"


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
