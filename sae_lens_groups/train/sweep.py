"""Several settings of the SAEs of one run, which all train on the same rows."""

import copy
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from sae_lens.saes.sae import TrainingSAEConfig

from sae_lens_groups import files
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError, GroupSAEError, UnknownNameError, quoted
from sae_lens_groups.field_values import require_one_of, whole_number
from sae_lens_groups.layers import HookTemplate, LayerGroup, layer_groups_text
from sae_lens_groups.saved import SweepIndex, SweepSetting, TrainingPoint

MOST_SETTINGS = 64
_ARCHITECTURE = "architecture"
_OF_OPTIMISER = (
    *("lr", "lr_end", "lr_scheduler_name", "lr_warm_up_steps", "lr_decay_steps"),
    *("n_restart_cycles", "adam_beta1", "adam_beta2", "dead_feature_window"),
)
_OF_SITE = ("hook_name", "hook_head_index", "layer_groups")
_OF_RUN = (*_OF_OPTIMISER, *_OF_SITE)
# What the rows depend on, which all settings share, or what is not chosen but recorded.
_SHARED = {"d_in", "normalize_activations", "device", "metadata"}
_NOT_IN_FOLDER = re.compile(r"[^\w+=,.-]+")
_WORDS = {"true": True, "false": False}


@dataclass(frozen=True)
class Setting:
    """What some of a run's SAEs are trained with: all of them, or those of one setting of a sweep."""

    cfg: GroupSAERunnerConfig[Any]
    """As a run of this setting alone would have it."""
    name: str = ""
    """The folder of its suite; empty without a sweep."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """The fields in which it differs from the run's config."""

    def points(self, points: Iterable[TrainingPoint]) -> tuple[TrainingPoint, ...]:
        """Those of this setting, of all that a run's training curves have."""
        own = ((point, point.group.rpartition("/")) for point in points)
        return tuple(
            point.model_copy(update={"group": group})
            for point, (setting, _, group) in own
            if setting == self.name
        )


def sae_name(setting: str, group: LayerGroup) -> str:
    """What the SAE of a group is called: as the group, or in a sweep `<setting>/<group>`."""
    return f"{setting}/{group.name}" if setting else group.name


def index_of(settings: Sequence[Setting]) -> SweepIndex:
    """What `sweep.json` says of them."""
    return SweepIndex(
        settings=tuple(SweepSetting(name=one.name, changes=one.changes) for one in settings)
    )


def replace_flags(cfg: GroupSAERunnerConfig[Any], **flags: Any) -> GroupSAERunnerConfig[Any]:
    """The config with other flags, what depends on them derived anew, and no checkpoints."""
    own = {"checkpoint_path": None, "resume_from_checkpoint": None, "checkpoint_every": None}
    return GroupSAERunnerConfig.from_sae_lens(cfg, **{**own, **flags})


def swept(cfg: GroupSAERunnerConfig[Any]) -> tuple[GroupSAERunnerConfig[Any], tuple[Setting, ...]]:
    """The config with the first of the settings that its `sweep` means at one site, and all of them.

    Raises:
        ConfigError: one has no meaning, they are too many, or a flag cannot be swept with.
    """
    if cfg.sweep is None:
        return cfg, ()
    if reason := _why_not(cfg):
        raise ConfigError(f"with sweep, {reason}")
    changes = all_changes(cfg)
    if len({site_of(cfg, of) for of in changes.values()}) > 1:
        raise ConfigError("sweep names several sites, which only SweepTrainingRunner takes")
    settings = tuple(_setting(cfg, name, of_one) for name, of_one in changes.items())
    if cfg.begins_with_rows and len({one.cfg.sae.d_sae for one in settings}) > 1:
        # Each begins with as many rows as features, which others would not train on.
        raise ConfigError("with sweep, init_features rows needs one d_sae for all settings")
    with files.refusing(ConfigError, "sweep has a setting that cannot be named"):
        index_of(settings)
    first = copy.copy(cfg)
    first.sae = settings[0].cfg.sae
    for name in (*_OF_RUN, *(["given_groups"] if "layer_groups" in settings[0].changes else [])):
        setattr(first, name, getattr(settings[0].cfg, name))
    return first, settings


def site_of(cfg: GroupSAERunnerConfig[Any], changes: Mapping[str, Any]) -> tuple[str, Any, str]:
    """Which rows a setting trains on: the hook of any layer, its head, and the groups."""
    hook_name, head_index, groups = (changes.get(name, getattr(cfg, name)) for name in _OF_SITE)
    return str(HookTemplate.from_hook_name(str(hook_name))), head_index, groups


def site_name(changes: Mapping[str, Any]) -> str:
    """What a site is called: what settings at it are called, but for what differs within it."""
    return _name({field: value for field, value in changes.items() if field in _OF_SITE})


def _why_not(cfg: GroupSAERunnerConfig[Any]) -> str | None:
    if cfg.init_from is not None:
        return "init_from is not supported; start each setting's run from it, or leave one out"
    if cfg.refit_tokens:
        return (
            "refit_tokens is not supported; refit the suites that you keep with the command refit"
        )
    if cfg.ranks_per_group > 1:
        return "ranks_per_group is not supported; leave it out"
    return None


def all_changes(cfg: GroupSAERunnerConfig[Any]) -> dict[str, dict[str, Any]]:
    """In which fields each setting of a sweep differs from the config, by the setting's name."""
    changes = _listed(cfg)
    names = [_name(one) for one in changes]
    for name in names:
        if (n := names.count(name)) > 1:
            raise ConfigError(f"sweep has the setting {name} {n} times; give each once")
    return dict(zip(names, changes))


def _listed(cfg: GroupSAERunnerConfig[Any]) -> list[dict[str, Any]]:
    sweep = cfg.sweep or []
    axes = [_axis(entry) for entry in sweep if isinstance(entry, str)]
    listed = _filled_up([entry for entry in sweep if not isinstance(entry, str)], cfg)
    if axes and listed:
        raise ConfigError("sweep has both fields with values and whole settings; give one kind")
    names = [name for name, _ in axes]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"sweep names {name} twice; give all of its values at once")
    n_settings = math.prod(len(values) for _, values in axes) if axes else len(listed)
    if not 1 <= n_settings <= MOST_SETTINGS:
        raise ConfigError(
            f"sweep means {n_settings:,} settings; it takes 1 to {MOST_SETTINGS}, each of which "
            "trains an SAE per group at the same time"
        )
    products = itertools.product(*(values for _, values in axes))
    return listed or [dict(zip(names, values)) for values in products]


def _filled_up(
    entries: Sequence[Mapping[str, Any]], cfg: GroupSAERunnerConfig[Any]
) -> list[dict[str, Any]]:
    """Each with a value of every field that any of them has: where it has none, the config's own.

    Fields that its architecture lacks stay out, and those that are None as in the config.
    """
    names = dict.fromkeys(name for entry in entries for name in entry)
    own = {name: getattr(cfg if name in _OF_RUN else cfg.sae, name, None) for name in names}
    own[_ARCHITECTURE] = cfg.sae.architecture()

    def value_of(entry: Mapping[str, Any], name: str) -> Any:
        value = entry.get(name, own[name])
        if name == "layer_groups":
            return layer_groups_text(value)
        return list(value) if isinstance(value, tuple) else value

    def has(entry: Mapping[str, Any], name: str) -> bool:
        if name in entry:
            return entry[name] is not None or own[name] is not None
        known = _fields_of(entry.get(_ARCHITECTURE, own[_ARCHITECTURE]))
        return own[name] is not None and name in (*known, *_OF_RUN, _ARCHITECTURE)

    return [
        {name: value_of(entry, name) for name in names if has(entry, name)} for entry in entries
    ]


def _fields_of(architecture: str) -> list[str]:
    require_one_of(_ARCHITECTURE, architecture, SAE_TRAINING_CLASS_REGISTRY)
    config_class = SAE_TRAINING_CLASS_REGISTRY[architecture][1]
    return [field.name for field in fields(config_class) if field.init]


def _axis(text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    if not equals or not all(value.strip() for value in values.split(",")):
        raise ConfigError(
            f"sweep {quoted(text)} is not a field with its values, such as k=16,32,64 or lr=1e-4,3e-4"
        )
    name, texts = name.strip(), [value.strip() for value in values.split(",")]
    if name != "layer_groups":
        return name, [_value(text) for text in texts]
    if len(texts) > 1 and any(text[0].isdigit() for text in texts):
        raise ConfigError(
            f"sweep {quoted(text)} is split at its commas, which groups have too; list whole "
            'settings instead, such as {"layer_groups": "0-3,4-7"}'
        )
    return name, texts


def _value(text: str) -> Any:
    for read in (whole_number, float):
        try:
            return read(text)
        except ValueError:
            continue
    return _WORDS.get(text.lower(), text)


def _name(changes: Mapping[str, Any]) -> str:
    return "-".join(_in_name(field, value) for field, value in changes.items())


def _in_name(field: str, value: Any) -> str:
    if field == "hook_name":
        return _hook_in_name(value)
    if field == "layer_groups":
        return _NOT_IN_FOLDER.sub("_", str(value)).strip("._")
    if isinstance(value, str):
        return value
    return field + ("_".join(map(str, value)) if isinstance(value, list | tuple) else str(value))


def _hook_in_name(hook_name: Any) -> str:
    """The part that tells hooks of a layer apart: `hook_mlp_out`, `attn.hook_z`, `layers`."""
    template = HookTemplate.from_hook_name(str(hook_name))
    return template.after.strip(".") or template.before.strip(".").rpartition(".")[2]


def _setting(cfg: GroupSAERunnerConfig[Any], name: str, changes: Mapping[str, Any]) -> Setting:
    of_run = {field: value for field, value in changes.items() if field in _OF_RUN}
    of_sae = {field: value for field, value in changes.items() if field not in _OF_RUN}
    if of_sae and cfg.from_pretrained_path is not None:
        raise ConfigError(
            f"sweep changes {', '.join(of_sae)}, and the SAE at from_pretrained_path keeps its own; "
            "sweep over lr and its like, or leave from_pretrained_path out"
        )
    try:
        own = replace_flags(
            cfg,
            sweep=None,
            sae=_sae_config(cfg.sae, of_sae),
            output_path=None if cfg.output_path is None else str(Path(cfg.output_path) / name),
            **of_run,
        )
    except GroupSAEError as error:
        raise type(error)(f"in the setting {name} of sweep: {error}") from error
    except (TypeError, ValueError) as error:  # SAELens's own checks
        raise ConfigError(f"in the setting {name} of sweep: {error}") from error
    return Setting(own, name, dict(changes))


def _sae_config(base: TrainingSAEConfig, changes: Mapping[str, Any]) -> TrainingSAEConfig:
    architecture = changes.get(_ARCHITECTURE, base.architecture())
    names = _fields_of(architecture)
    config_class = SAE_TRAINING_CLASS_REGISTRY[architecture][1]
    kept = {name: getattr(base, name) for name in names if hasattr(base, name)}
    changed = {name: value for name, value in changes.items() if name != _ARCHITECTURE}
    for name in changed:
        if name == "d_in":
            raise ConfigError("d_in follows from the hook; leave it out of sweep")
        if name in _SHARED:
            raise ConfigError(
                f"{name} is the same for all settings, as they train on the same rows"
            )
        if name not in names:
            known = sorted({*names, *_OF_RUN, _ARCHITECTURE} - _SHARED)
            near = get_close_matches(name, known, n=1)
            meant = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}"
            raise UnknownNameError(f"{name} is no field that can be swept over; {meant}")
    return config_class(**{**copy.deepcopy(kept), **changed})
