"""The configuration of a grouped run: SAELens's own, plus a few flags."""

import copy
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from sae_lens import LanguageModelSAERunnerConfig, LoggingConfig
from sae_lens.constants import DTYPE_MAP
from sae_lens.saes.sae import TrainingSAEConfig

from sae_lens_groups.errors import ConfigError, UnknownNameError, quoted
from sae_lens_groups.files.reading import require_kinds
from sae_lens_groups.layers import HookTemplate, LayerGroup
from sae_lens_groups.plan.choose import require_plannable, require_threshold
from sae_lens_groups.plan.group_plan import GroupPlan
from sae_lens_groups.plan.rule import (
    PartitionRule,
    PlanFile,
    find_partition,
    parse_layer_groups,
    require_usable,
    resolve,
)
from sae_lens_groups.plugins import alignments, partitions
from sae_lens_groups.scaling.alignments import NONE, Alignment
from sae_lens_groups.scaling.group_scaling import ESTIMATED_MODES
from sae_lens_groups.train.fast_step import ALWAYS, MODES, why_not
from sae_lens_groups.train.fast_step import AUTO as FASTEST

AUTO = "auto"  # of resume_from_checkpoint

_SPARSITY_WARM_UPS = ("l1_warm_up_steps", "l0_warm_up_steps")
_INIT_DIRECTIONS = ("nearest", "forward", "backward")
_INIT_PARAMETERS = ("all", "encoder", "decoder")
_LR_SCHEDULERS = ("constant", "cosineannealing", "cosineannealingwarmrestarts")

# Whether cached activations depend on a flag: train/cache/identity.py reads it. Every flag says so.
NOT_IN_CACHE = {"cached": "neither"}
IN_CACHED_DRAWS = {"cached": "draws"}

T_TRAINING_SAE_CONFIG = TypeVar("T_TRAINING_SAE_CONFIG", bound=TrainingSAEConfig)


@dataclass(kw_only=True)
class GroupSAERunnerConfig(LanguageModelSAERunnerConfig[T_TRAINING_SAE_CONFIG]):
    """A SAELens training config that trains one SAE per group of neighbouring layers.

    Every field of `LanguageModelSAERunnerConfig` keeps its meaning, with three additions:
    `hook_name` may name any layer, `sae.normalize_activations` is estimated and applied per layer,
    and `seed` is honoured: the same config gives the same weights.

    Args:
        layer_groups (str): Which layers share an SAE. `0-3,4-7,8-10,11` names the groups (only the layers named are trained), `each` is one SAE per layer, `even:4` is all layers but the last in 4 near-equal runs, plus the last alone. `auto` measures how far apart the layers are and merges neighbouring ones into the fewest groups whose AMAD is below `amad_threshold`, `auto:4` into 4; `optimal` and `optimal:4` do the same by another rule. A path such as `my_plan/plan.json` takes the groups of a plan.
        amad_threshold (float): For `auto` without a number: the mean over the groups of the largest distance in each stays below it.
        plan_tokens (int): How many tokens distances and alignments are measured on, where they are.
        layers_per_token (int): How many layers of each group every token gives a row of. More make more rows of one language-model pass; a group of fewer layers gives some of its rows more than once.
        fast_step (str): Whether SAEs are trained with the sparse step, which gives the loss and the gradients of SAELens's own but for rounding: `auto` (where it is faster), `always` (or an error where the settings rule it out) or `never`, which is SAELens's own step and optimiser bit for bit.
        layer_alignment (str): How each layer of a group is mapped to the group's middle layer before the SAE: `none`, `orthogonal` (a rotation), `affine` (least squares) or `scale` (one factor). The maps are fitted before training and folded into each layer's SAE at the end.

        init_from (str | None): Trained SAEs to start from: a suite's folder, the folder of a SAELens SAE (in training or inference form), `release:sae_id` of a published SAE, or on the Hub `owner/repo` (a suite, or SAEs of several layers) or `owner/repo:sae_id`.
        init_direction (str): Which layer of them each layer starts from: `nearest` (the layer itself where it is there), `forward` (the one below) or `backward` (the one above).
        init_parameters (str): What is taken: `all`, `encoder` or `decoder`.
        init_alignment (str): How the activations of two different layers are related for that: `none` (parameters are copied), `scale` (ratio of the mean norms), `orthogonal` (a rotation) or `affine` (least squares).
        init_keep_layers (bool): Puts those layers of the suite that `init_from` names into the new suite too which are not trained, so that one suite holds all.
        checkpoint_every (str | None): How often a checkpoint is saved, beside SAELens's `n_checkpoints`: after a time such as `10m` (`s`, `m` and `h` are known) or a number of training tokens such as `5000000`.
        keep_checkpoints (int | None): Keeps only so many of the newest checkpoints, and the one with the highest explained variance; all where it is not given.
        token_fraction (float | None): Trains on this fraction of the tokens that the SAEs of `init_from` were trained on, in place of `training_tokens`.

    Raises:
        GroupSAEError: `layer_groups` cannot be read, `hook_name` has no layer number, or a setting cannot be used with groups.
    """

    # SAELens's default is to run code that comes with a dataset.
    dataset_trust_remote_code: bool = False

    layer_groups: str = field(metadata=NOT_IN_CACHE)
    amad_threshold: float = field(default=0.2, metadata=NOT_IN_CACHE)
    plan_tokens: int = field(default=200_000, metadata=NOT_IN_CACHE)
    layers_per_token: int = field(default=1, metadata=IN_CACHED_DRAWS)
    fast_step: str = field(default=FASTEST, metadata=NOT_IN_CACHE)
    layer_alignment: str = field(default=NONE, metadata=NOT_IN_CACHE)
    init_from: str | None = field(default=None, metadata=NOT_IN_CACHE)
    init_direction: str = field(default="nearest", metadata=NOT_IN_CACHE)
    init_parameters: str = field(default="all", metadata=NOT_IN_CACHE)
    init_alignment: str = field(default="scale", metadata=NOT_IN_CACHE)
    init_keep_layers: bool = field(default=False, metadata=NOT_IN_CACHE)
    token_fraction: float | None = field(default=None, metadata=NOT_IN_CACHE)

    checkpoint_every: str | None = field(default=None, metadata=NOT_IN_CACHE)
    keep_checkpoints: int | None = field(default=None, metadata=NOT_IN_CACHE)

    def __post_init__(self) -> None:
        if isinstance(self.checkpoint_every, int):
            self.checkpoint_every = str(self.checkpoint_every)  # a number of tokens
        self._require_field_values()
        if self.token_fraction is not None:
            self.training_tokens = self._tokens_of_fraction(self.token_fraction)
        self._require_usable()
        if self.logger.run_name is None:
            self.logger.run_name = (
                f"{self.sae.architecture()}-{self.sae.d_sae}-groups-{self.layer_groups}"
                f"-LR-{self.lr}-Tokens-{self.training_tokens:3.3e}"
            )
        checkpoint_path = self.checkpoint_path
        super().__post_init__()
        if checkpoint_path is None:  # SAELens 6.44 makes a folder named None of it
            self.checkpoint_path = None

    def _require_field_values(self) -> None:
        if not isinstance(self.sae, TrainingSAEConfig):
            raise ConfigError(
                f"sae is {quoted(self.sae)}; it takes a config that trains, such as "
                "TopKTrainingSAEConfig"
            )
        require_field_values(self)
        require_field_values(self.sae, "sae.")
        require_field_values(self.logger, "logger.")

    def _require_usable(self) -> None:
        """Catches what can be known to be wrong before a model is loaded."""
        HookTemplate.from_hook_name(self.hook_name)
        self._require_usable_groups()
        self._require_usable_step()
        self._require_usable_alignment()
        self._require_usable_init()
        self._require_usable_checkpoints()
        self._require_known_names()
        if self.use_cached_activations and self.cached_activations_path is None:
            raise ConfigError(
                "use_cached_activations is True, but cached_activations_path is not given; name "
                "the folder that `sae-lens-groups cache` wrote"
            )
        if self.training_tokens < self.train_batch_size_tokens:
            raise ConfigError(
                f"training_tokens is {self.training_tokens}, less than one batch of "
                f"train_batch_size_tokens={self.train_batch_size_tokens}; "
                "raise the first or lower the second"
            )
        self._require_usable_slice()
        buffer_size = self.n_batches_in_buffer * self.rows_per_prompt
        if buffer_size < self.train_batch_size_tokens:
            raise ConfigError(
                f"the shuffle buffer holds n_batches_in_buffer * context_size = {buffer_size} "
                f"tokens, less than one batch of train_batch_size_tokens="
                f"{self.train_batch_size_tokens}; raise n_batches_in_buffer"
            )

    def _require_usable_slice(self) -> None:
        given = self.seqpos_slice
        if not 1 <= len(given) <= 3 or (len(given) == 3 and given[2] is not None and given[2] < 1):
            raise ConfigError(
                f"seqpos_slice is {quoted(given)}; give the first position, the one after the last "
                "and, where it is not 1, the step, such as (1, None) or (0, 64, 2)"
            )
        if self.rows_per_prompt == 0:
            raise ConfigError(
                f"seqpos_slice {quoted(given)} leaves none of the positions of a context_size of "
                f"{self.context_size}; change one of the two"
            )

    def _require_usable_groups(self) -> None:
        rule = parse_layer_groups(self.layer_groups)
        if isinstance(rule, PlanFile):
            GroupPlan.load(rule.path)
        else:
            require_usable(rule, find_partition(rule.name, partitions()))
        require_threshold(self.amad_threshold)
        if self.plan_tokens < 1:
            raise ConfigError(f"plan_tokens is {self.plan_tokens}; measure at least some thousands")

    def _require_usable_step(self) -> None:
        if self.layers_per_token < 1:
            raise ConfigError(
                f"layers_per_token is {self.layers_per_token}; every token gives at least 1 row"
            )
        require_one_of("fast_step", self.fast_step, MODES)
        reason = why_not(self.sae, self.autocast, self.compile_sae)
        if self.fast_step == ALWAYS and reason is not None:
            raise ConfigError(
                f"fast_step is always, but {reason}; set fast_step to auto, which is SAELens's "
                "own step there"
            )

    def _require_usable_alignment(self) -> None:
        alignment = _find_alignment("layer_alignment", self.layer_alignment)
        if alignment is not None:
            self._require_foldable("layer_alignment", alignment, "orthogonal or none")

    def _require_usable_init(self) -> None:
        require_one_of("init_direction", self.init_direction, _INIT_DIRECTIONS)
        require_one_of("init_parameters", self.init_parameters, _INIT_PARAMETERS)
        alignment = _find_alignment("init_alignment", self.init_alignment)
        if self.init_from is None:
            if self.init_keep_layers:
                raise ConfigError("init_keep_layers needs init_from; name a suite there")
            return
        self._require_schedule_that_fits()
        if self.from_pretrained_path is not None:
            raise ConfigError(
                "init_from and from_pretrained_path both say what SAEs start from; leave one out"
            )
        if alignment is not None and not alignment.only_norms:
            self._require_foldable("init_alignment", alignment, "scale, orthogonal or none")

    def _require_usable_checkpoints(self) -> None:
        if self.checkpoint_every is not None:
            parse_every(self.checkpoint_every)
        wants_place = {
            "checkpoint_every": self.checkpoint_every is not None,
            "resume_from_checkpoint auto": self.resume_from_checkpoint == AUTO,
        }
        for name, is_asked_for in wants_place.items():
            if is_asked_for and self.checkpoint_path is None:
                raise ConfigError(f"{name} needs checkpoint_path; name a folder there")

    def _require_schedule_that_fits(self) -> None:
        """Catches the schedule of a long run that was taken over for a fraction of it."""
        n_steps = self.training_tokens // self.train_batch_size_tokens
        needed = {
            "lr_warm_up_steps and lr_decay_steps": self.lr_warm_up_steps + self.lr_decay_steps
        }
        needed |= {name: getattr(self.sae, name, 0) for name in _SPARSITY_WARM_UPS}
        for name, n in needed.items():
            if self.token_fraction is not None and n > n_steps:
                raise ConfigError(
                    f"token_fraction leaves {n_steps} training steps, and {name} "
                    f"take {n}; lower what is in the way"
                )

    def _require_foldable(self, field: str, alignment: Alignment, for_tied: str) -> None:
        name = getattr(self, field)
        if self.sae.normalize_activations not in ("none", *ESTIMATED_MODES):
            raise ConfigError(
                f"{field} {name!r} cannot be folded into an SAE with "
                f"normalize_activations={self.sae.normalize_activations!r}, which works on each row "
                "by itself; use none or expected_average_only_in"
            )
        if self.sae.architecture() == "matching_pursuit" and not alignment.keeps_lengths:
            raise ConfigError(
                f"{field} {name!r} cannot be folded into matching_pursuit, whose encoder is its "
                f"decoder; use {for_tied}"
            )

    def _tokens_of_fraction(self, fraction: float) -> int:
        from sae_lens_groups.saved.open import run_training_tokens, training_tokens_of

        if self.init_from is None:
            raise ConfigError(
                "token_fraction is a fraction of what the SAEs of init_from were trained on; "
                "name them there, or give training_tokens"
            )
        if not fraction > 0:
            raise ConfigError(f"token_fraction is {fraction}; give a positive number such as 0.2")
        if self.resume_from_checkpoint is not None:  # which may outlive the source
            saved = run_training_tokens(Path(self.resume_from_checkpoint))
            if saved is not None:
                return saved
        found = training_tokens_of(self.init_from)
        if found is None:
            raise ConfigError(
                f"init_from {self.init_from!r} does not say how many tokens it was trained on, so "
                "token_fraction cannot be used; give training_tokens"
            )
        if fraction * found >= 2**63:
            raise ConfigError(
                f"token_fraction is {fraction}, of {found:,} tokens; give a number such as 0.2"
            )
        return round(fraction * found)

    def _require_known_names(self) -> None:
        """Catches what SAELens itself would find only once the model is loaded."""
        if self.lr_scheduler_name.lower() not in _LR_SCHEDULERS:
            require_one_of("lr_scheduler_name", self.lr_scheduler_name, _LR_SCHEDULERS)
        require_one_of("dtype", self.dtype, tuple(DTYPE_MAP))
        if not 0 <= self.activations_mixing_fraction <= 1:
            raise ConfigError(
                f"activations_mixing_fraction is {self.activations_mixing_fraction}; "
                "it is a fraction of the shuffle buffer, so it lies between 0 and 1"
            )
        k = getattr(self.sae, "k", None)
        if k is not None and k <= 0:
            raise ConfigError(f"k is {k}; at least one feature has to be active")
        if k is not None and k > self.sae.d_sae:
            raise ConfigError(
                f"k is {k}, more than the d_sae={self.sae.d_sae} features; lower k or raise d_sae"
            )
        for name in ("device", "llm_device", "act_store_device"):
            _require_device(name, getattr(self, name))

    @property
    def hook_template(self) -> HookTemplate:
        """`hook_name` with its layer number as the variable part."""
        return HookTemplate.from_hook_name(self.hook_name)

    @property
    def rows_per_prompt(self) -> int:
        """Activations that one prompt gives each layer, before special tokens are excluded."""
        return len(range(self.context_size)[slice(*self.seqpos_slice)])

    @property
    def measures_distances(self) -> bool:
        """Whether the groups depend on distances, which take the loaded model to measure."""
        rule = parse_layer_groups(self.layer_groups)
        return (
            isinstance(rule, PartitionRule)
            and find_partition(rule.name, partitions()).needs_distances
        )

    def plan_from_file(self, n_layers: int) -> GroupPlan | None:
        """The plan that `layer_groups` names, checked to fit the model; None for other settings.

        Raises:
            PlanError: the plan is broken, or was made for another model or hook.
        """
        rule = parse_layer_groups(self.layer_groups)
        if not isinstance(rule, PlanFile):
            return None
        plan = GroupPlan.load(rule.path)
        plan.require_fit(self.model_name, self.hook_template, self.hook_head_index, n_layers)
        return plan

    def require_enough_layers(self, n_layers: int) -> None:
        """Refuses a model with too few layers for the groups that are to be measured.

        Raises:
            LayerGroupsError: there is but one layer, or `auto:G` asks for more groups than layers.
        """
        require_plannable(self.layer_groups, amad_threshold=self.amad_threshold, n_layers=n_layers)

    def resolve_groups(self, n_layers: int) -> tuple[LayerGroup, ...]:
        """The groups of a model of `n_layers` layers, lowest first; not for measured ones.

        Raises:
            LayerGroupsError: they do not fit the model.
            PlanError: the plan that `layer_groups` names does not.
        """
        assert not self.measures_distances
        plan = self.plan_from_file(n_layers)
        if plan is not None:
            return plan.groups
        rule = parse_layer_groups(self.layer_groups)
        assert isinstance(rule, PartitionRule)
        return resolve(rule, n_layers, partitions())

    @classmethod
    def from_sae_lens(
        cls, cfg: LanguageModelSAERunnerConfig[T_TRAINING_SAE_CONFIG], **flags: Any
    ) -> "GroupSAERunnerConfig[T_TRAINING_SAE_CONFIG]":
        """An existing SAELens config with flags added: `from_sae_lens(cfg, layer_groups="0-3")`.

        The given config is left as it is; `flags` may also override its fields.
        """
        if not isinstance(cfg, LanguageModelSAERunnerConfig):
            raise ConfigError(
                f"from_sae_lens takes a LanguageModelSAERunnerConfig of SAELens, not {quoted(cfg)}"
            )
        names = [field.name for field in fields(cls)]
        for name in flags:
            if name not in names:
                raise UnknownNameError(_unknown_flag(name, names))
        values = {field.name: getattr(cfg, field.name) for field in fields(cfg) if field.init}
        if "layer_groups" not in {**values, **flags}:
            raise ConfigError('layer_groups is not given; name the groups, such as "0-3,4-7"')
        # Both configs fill in `sae.metadata` and `logger`, so they must not share them.
        values["sae"] = copy.deepcopy(cfg.sae)
        values["logger"] = copy.deepcopy(cfg.logger)
        values["checkpoint_path"] = without_run_id(cfg.checkpoint_path, cfg.logger.wandb_id)
        return cls(**underived(values, flags))

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any], **flags: Any) -> "GroupSAERunnerConfig[Any]":
        """A config from the `runner_cfg.json` of an earlier run, of SAELens or of this package.

        The new run gets a checkpoint folder of its own; `flags` override what was saved.
        """
        known = {field.name for field in fields(cls)}
        merged = underived(saved, flags)
        values = {name: value for name, value in merged.items() if name in known}
        if "training_tokens" in flags and "token_fraction" not in flags:
            values["token_fraction"] = None
        if "resume_from_checkpoint" not in flags:  # the earlier run's own business
            values["resume_from_checkpoint"] = None
        _require_saved_form(values)
        values["seqpos_slice"] = tuple(values.get("seqpos_slice") or (None,))
        # Another version of SAELens may have saved what this one does not know.
        values["logger"] = _known_entries(values["logger"], LoggingConfig)
        if "checkpoint_path" not in flags:
            wandb_id = values["logger"].get("wandb_id")
            values["checkpoint_path"] = without_run_id(values.get("checkpoint_path"), wandb_id)
        # SAELens's from_dict takes checkpoint_path as final, so it is set before, with a run id.
        checkpoint_path = values.pop("checkpoint_path")
        cfg = cls.from_dict(values)
        cfg.checkpoint_path = with_run_id(checkpoint_path, cfg.checkpoint_path)
        assert isinstance(cfg, cls)
        return cfg


def _require_saved_form(values: Mapping[str, Any]) -> None:
    """Refuses what SAELens would trip over before it makes a config of saved settings."""
    whole = {"seqpos_slice": None, "checkpoint_path": None, **values}
    try:
        require_kinds(whole, {"sae": dict, "logger": dict, "checkpoint_path": str | None})
        require_kinds(whole, {"seqpos_slice": list | tuple | None})
        sae = {"metadata": {}, **whole["sae"]}
        require_kinds(sae, {"metadata": dict, "d_in": int | float, "d_sae": int | float})
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"the saved settings cannot be used: {quoted(error)}; name the runner_cfg.json that "
            "SAELens wrote beside a trained SAE"
        ) from error


def _known_entries(saved: Mapping[str, Any], config_class: type) -> dict[str, Any]:
    known = {field.name for field in fields(config_class)}
    return {name: value for name, value in saved.items() if name in known}


def _find_alignment(field: str, name: str) -> Alignment | None:
    """The registered alignment; None for `none`."""
    known = {NONE: None, **alignments()}
    require_one_of(field, name, known)
    return known[name]


def require_one_of(field: str, name: str, known: Collection[str]) -> None:
    """Refuses a name that is not known.

    Raises:
        UnknownNameError: lists those that are.
    """
    if not isinstance(name, str) or name not in known:
        listed = ", ".join(known if isinstance(known, tuple) else sorted(known))
        raise UnknownNameError(f"{field} {quoted(name)} is not known; known names: {listed}")


def _unknown_flag(name: str, names: list[str]) -> str:
    similar = get_close_matches(name, names, n=3)
    meant = (
        f"did you mean {' or '.join(similar)}?"
        if similar
        else "its fields are those of SAELens's config and of GroupSAERunnerConfig"
    )
    return f"the config has no field {name!r}; {meant}"


def _require_device(name: str, device: str | None) -> None:
    if device in (None, "with_model"):
        return
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"{name} is {quoted(device)}, which cannot be used here: {reason}; "
            "name a device such as cpu or cuda:0"
        ) from error


# Devices may be torch's own objects and are tried out; SAELens takes more normalisations than it
# declares, and more kinds of `sae` than one. Each has a check of its own.
_CHECKED_ELSEWHERE = frozenset(
    {"sae", "dtype", "device", "llm_device", "act_store_device", "normalize_activations"}
)
_LOWEST = {
    "context_size": 1,
    "train_batch_size_tokens": 1,
    "store_batch_size_prompts": 1,
    "n_batches_in_buffer": 1,
    "eval_batch_size_prompts": 1,
    "feature_sampling_window": 1,
    "n_restart_cycles": 1,
    "lr": 0,
    "lr_end": 0,
    "lr_warm_up_steps": 0,
    "lr_decay_steps": 0,
    "adam_beta1": 0,
    "adam_beta2": 0,
    "keep_checkpoints": 1,
    "seed": 0,  # numpy's generators take no negative one
    "d_in": 1,
    "d_sae": 1,
    "wandb_log_frequency": 1,
    "eval_every_n_wandb_logs": 1,
}
_BELOW = {
    "context_size": 100_000_000,  # SAELens lists the positions
    "adam_beta1": 1,
    "adam_beta2": 1,
}
# What torch takes for a seed; every other whole number is far smaller.
_WHOLE_NUMBERS = range(-(2**63), 2**64)
_NAMES = {
    str: "text",
    int: "a whole number of up to 64 bits",
    float: "a number",
    bool: "True or False",
    NoneType: "None",
}


def require_field_values(config: Any, section: str = "") -> None:
    """Requires what can be required of each field of a dataclass by itself.

    A path may be a `Path`, and a whole number a float such as 1e9 or one of numpy's; the fields
    then get what they declare.

    Args:
        config: SAELens's config or ours, or a part of them.
        section: what a part's fields begin with, such as `sae.`.

    Raises:
        ConfigError: says which field, what it was given, and what it takes.
    """
    kinds = get_type_hints(type(config))
    for name in (f.name for f in fields(config)):
        if name in _CHECKED_ELSEWHERE:
            continue
        given = getattr(config, name)
        value = _as_declared(given, _parts(kinds[name]))
        if not _fits(value, kinds[name]):
            raise ConfigError(f"{section}{name} is {quoted(given)}; it takes {_named(kinds[name])}")
        if value is not given:
            setattr(config, name, value)
        _require_range(section, name, value)


def _require_range(section: str, name: str, value: Any) -> None:
    lowest, below = _LOWEST.get(name), _BELOW.get(name)
    if value is None or (lowest is None and below is None):
        return
    if lowest is not None and value < lowest:
        raise ConfigError(f"{section}{name} is {value}; it has to be at least {lowest}")
    if below is not None and value >= below:
        raise ConfigError(f"{section}{name} is {value}; it has to be below {below:,}")


def _as_declared(value: Any, kinds: Iterable[Any]) -> Any:
    if isinstance(value, os.PathLike) and str in kinds:
        return os.fspath(value)
    if isinstance(value, int) or not isinstance(value, Real):
        return value
    if isinstance(value, Integral):
        return int(value)
    number = float(value)
    return int(number) if float not in kinds and number.is_integer() else number


def _fits(value: Any, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in arguments)
    if origin is Literal:
        return isinstance(value, str | int | None) and value in arguments
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(_fits(v, arguments[0]) for v in value)
    if origin is dict:
        return isinstance(value, Mapping)
    if kind is bool:
        return isinstance(value, int)
    if kind is int:
        return isinstance(value, int) and value in _WHOLE_NUMBERS
    if kind is float:
        return isinstance(value, int | float) and -math.inf < value < math.inf
    return not isinstance(kind, type) or isinstance(value, kind)


def _parts(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _named(kind: Any) -> str:
    """What a type is called in a message."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(map(_named, arguments))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin in (list, tuple):
        return f"a list, each item {_named(arguments[0])}"
    if origin is dict:
        return "a dict"
    return _NAMES.get(kind, f"a {getattr(kind, '__name__', kind)}")


# SAELens appends the W&B id, or eight hexadecimal digits (in 6.44, eight letters and digits).
_RUN_ID = re.compile(r"[0-9a-z]{8}")


def underived(values: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `flags` over them, and None for what SAELens is to derive from those anew.

    SAELens fills in `llm_device` from `device`, `lr_end` from `lr` and so on. Taken over as they
    are, a new `device` would leave the language model on the old one.
    """
    merged = {**values, **flags}
    derived = {
        "llm_device": ("device", values.get("device")),
        "act_store_device": ("device", values.get("device")),
        "lr_end": ("lr", _tenth(values.get("lr"))),
        "model_from_pretrained_kwargs": (
            "model_class_name",
            {"center_writing_weights": False}
            if values.get("model_class_name") == "HookedTransformer"
            else {},
        ),
    }
    for name, (source, value) in derived.items():
        if source in flags and name not in flags and values.get(name) == value:
            merged[name] = None
    return merged


def _tenth(lr: object) -> float | None:
    return lr / 10 if isinstance(lr, int | float) else None


def without_run_id(checkpoint_path: str | None, wandb_id: str | None) -> str | None:
    """The checkpoint path as the user gave it, without the id that SAELens appended."""
    if checkpoint_path is None:
        return None
    path = Path(checkpoint_path)
    if path.name == wandb_id or _RUN_ID.fullmatch(path.name):
        return str(path.parent)
    return checkpoint_path


def with_run_id(checkpoint_path: str | None, default_with_id: str | None) -> str | None:
    """`checkpoint_path` with the run id that the config generated for its default path."""
    if checkpoint_path is None or default_with_id is None:
        return None
    return f"{checkpoint_path}/{Path(default_with_id).name}"


_SECONDS = {"s": 1, "m": 60, "h": 3600}
_EVERY = re.compile(r"(?P<number>\d+(\.\d+)?) ?(?P<unit>[smh]?)", re.ASCII)


@dataclass(frozen=True)
class Every:
    """How far apart checkpoints are: in seconds, or in training tokens per SAE."""

    seconds: float | None = None
    tokens: int | None = None


def parse_every(text: str) -> Every:
    """What `checkpoint_every` means: `10m`, `30s`, `2h`, or a number of training tokens.

    Raises:
        ConfigError: it is neither.
    """
    match = _EVERY.fullmatch(text.strip().replace("_", ""))
    if match is not None and float(match["number"]) > 0:
        if match["unit"]:
            return Every(seconds=float(match["number"]) * _SECONDS[match["unit"]])
        if match["number"].isdigit():
            return Every(tokens=int(match["number"]))
    raise ConfigError(
        f"checkpoint_every is {text!r}; give a time such as 10m (s, m and h are known), or a whole "
        "number of training tokens"
    )
