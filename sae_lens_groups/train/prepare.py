"""What a run's settings name, found and checked once: before the language model is loaded, but for
groups that have to be measured in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets import IterableDataset
from sae_lens import TrainingSAE
from sae_lens.config import HfDataset
from transformer_lens import HookedRootModule

from sae_lens_groups import files
from sae_lens_groups.activations import (
    CountedRows,
    as_stream,
    n_layers_before_loading,
    n_layers_of,
    open_dataset,
    require_as_pretokenized,
    require_chat_template,
    require_usable_first_row,
)
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError
from sae_lens_groups.field_values import require_one_of
from sae_lens_groups.files import only_writer
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan import (
    GroupPlan,
    PartitionRule,
    measure_layer_distances,
    plan_groups,
    require_plannable,
    resolve,
    rule_or_plan,
)
from sae_lens_groups.plugins import alignments, partitions
from sae_lens_groups.saved import SAESource, training_tokens_of
from sae_lens_groups.scaling import ESTIMATED_MODES, NONE, Alignment
from sae_lens_groups.train.cache.manifest import CacheManifest
from sae_lens_groups.train.cache.read import CachedActivations
from sae_lens_groups.train.checkpoints.checkpoint import Checkpoint, require_unfinished, resumed
from sae_lens_groups.train.cost import count_flops
from sae_lens_groups.train.fast_step import require_usable_step
from sae_lens_groups.train.initial import pretrained_sae
from sae_lens_groups.train.proportions import require_schedules_that_fit, warn_of_long_estimate
from sae_lens_groups.train.refit.decoder import require_refittable
from sae_lens_groups.train.sweep import Setting, swept
from sae_lens_groups.train.wandb_run import require_wandb_key
from sae_lens_groups.transfer import Transfer, kept_groups, usable_source


@dataclass(frozen=True, kw_only=True)
class SettledConfig:
    """A config, and what its settings mean that name something."""

    cfg: GroupSAERunnerConfig[Any]
    """With the checkpoint that `auto` means, and the tokens that `token_fraction` means."""
    rule: PartitionRule | GroupPlan
    """What `layer_groups` means."""
    checkpoint: Checkpoint | None
    """The one to go on from."""
    sweep: tuple[Setting, ...]
    """What `cfg.sweep` means; none without one."""
    _groups_of: dict[int, tuple[LayerGroup, ...] | None] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Those of the sweep; without one the config's own."""
        return self.sweep or (Setting(self.cfg),)

    @property
    def measures_distances(self) -> bool:
        """Whether the groups depend on distances, which take the loaded model to measure."""
        return isinstance(self.rule, PartitionRule) and partitions()[self.rule.name].needs_distances

    def groups_of(self, n_layers: int) -> tuple[LayerGroup, ...] | None:
        """The groups of a model of `n_layers` layers, lowest first; None for measured ones."""
        if n_layers not in self._groups_of:
            self._groups_of[n_layers] = self._resolved(n_layers)
        return self._groups_of[n_layers]

    def _resolved(self, n_layers: int) -> tuple[LayerGroup, ...] | None:
        cfg, rule = self.cfg, self.rule
        if isinstance(rule, GroupPlan):
            rule.require_fit(cfg.model_name, cfg.hook_template, cfg.hook_head_index, n_layers)
            return rule.groups
        if self.measures_distances:
            require_plannable(rule, amad_threshold=cfg.amad_threshold, n_layers=n_layers)
            return None
        return resolve(rule, n_layers, partitions())

    def groups_before_loading(self) -> tuple[LayerGroup, ...] | None:
        """The groups, read from the model's configuration alone; None where they have to be
        measured, or where the configuration does not tell.

        So that a group beyond the model is refused before gigabytes of weights are loaded.
        """
        n_layers = n_layers_before_loading(self.cfg)
        return None if n_layers is None else self.groups_of(n_layers)

    def choose_groups(
        self, model: HookedRootModule, dataset: HfDataset
    ) -> tuple[tuple[LayerGroup, ...], GroupPlan | None]:
        """The groups to train, and the plan they come from; None where they are named or follow a
        rule.

        Measures distances only where `layer_groups` asks for it and no checkpoint has the plan.
        Leaves the dataset and all random generators as they are.
        """
        cfg, rule = self.cfg, self.rule
        groups = self.groups_of(n_layers_of(model, cfg.hook_template))
        if groups is not None:
            return groups, rule if isinstance(rule, GroupPlan) else None
        plan = None if self.checkpoint is None else self.checkpoint.plan(cfg)
        if plan is None:
            assert isinstance(rule, PartitionRule)
            flops = count_flops(cfg, model, dataset)  # first: what is too large for memory shows
            distances = measure_layer_distances(cfg, override_model=model, override_dataset=dataset)
            plan = plan_groups(distances, rule, amad_threshold=cfg.amad_threshold, flops=flops)
        return plan.groups, plan


def settle(cfg: GroupSAERunnerConfig[Any], *, is_first: bool = True) -> SettledConfig:
    """Looks up what a config names: rules and alignments, a plan, a checkpoint, a source's tokens.

    A checkpoint's files are read to see whether they are whole where it is the first to look.
    """
    if not isinstance(cfg, GroupSAERunnerConfig):
        how = 'GroupSAERunnerConfig.from_sae_lens(cfg, layer_groups="0-3,4-7")'
        raise ConfigError(f"the config is {type(cfg).__name__}; add layer groups with {how}")
    cfg, sweep = swept(cfg)
    rule = rule_or_plan(cfg.layer_groups, cfg.given_groups)
    for setting in sweep or (Setting(cfg),):
        _require_usable_sae(setting.cfg)
    init_alignment = _find_alignment(cfg, "init_alignment")
    cfg, checkpoint = resumed(cfg, is_known_whole=not is_first)
    if cfg.token_fraction is not None:
        tokens = (
            _tokens_of_fraction(cfg, cfg.token_fraction)
            if checkpoint is None
            else checkpoint.settings["training_tokens"]
        )
        cfg = cfg.with_training_tokens(tokens)
    for setting in sweep or (Setting(cfg),):
        require_schedules_that_fit(setting.cfg)
    if cfg.init_from is not None and init_alignment is not None and not init_alignment.only_norms:
        _require_foldable(cfg, "init_alignment", init_alignment, "scale, orthogonal or none")
    return SettledConfig(cfg=cfg, rule=rule, checkpoint=checkpoint, sweep=sweep)


def _require_usable_sae(cfg: GroupSAERunnerConfig[Any]) -> None:
    require_usable_step(cfg)
    if cfg.refit_tokens:
        require_refittable(cfg.sae.architecture())
    layer_alignment = _find_alignment(cfg, "layer_alignment")
    if layer_alignment is not None:
        _require_foldable(cfg, "layer_alignment", layer_alignment, "orthogonal or none")


def _find_alignment(cfg: GroupSAERunnerConfig[Any], setting: str) -> Alignment | None:
    """The registered alignment; None for `none`."""
    known = {NONE: None, **alignments()}
    name = getattr(cfg, setting)
    require_one_of(setting, name, known)
    return known[name]


def _require_foldable(
    cfg: GroupSAERunnerConfig[Any], setting: str, alignment: Alignment, for_tied: str
) -> None:
    name, mode = getattr(cfg, setting), cfg.sae.normalize_activations
    if mode not in ("none", *ESTIMATED_MODES):
        raise ConfigError(
            f"{setting} {name!r} cannot be folded into an SAE with normalize_activations={mode!r}, "
            "which works on each row by itself; use none or expected_average_only_in"
        )
    if cfg.sae.architecture() == "matching_pursuit" and not alignment.keeps_lengths:
        raise ConfigError(
            f"{setting} {name!r} cannot be folded into matching_pursuit, whose encoder is its "
            f"decoder; use {for_tied}"
        )


def _tokens_of_fraction(cfg: GroupSAERunnerConfig[Any], fraction: float) -> int:
    assert cfg.init_from is not None  # the config refuses a fraction without it
    found = training_tokens_of(cfg.init_from)
    if found is None:
        raise ConfigError(
            f"init_from {cfg.init_from!r} does not say how many tokens it was trained on, so "
            "token_fraction cannot be used; give training_tokens"
        )
    if fraction * found >= 2**63:
        raise ConfigError(
            f"token_fraction is {fraction}, of {found:,} tokens; give a number such as 0.2"
        )
    return round(fraction * found)


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """All that a run needs but the language model, found and checked."""

    settled: SettledConfig
    dataset: IterableDataset
    rows: CountedRows
    """The same, for all that becomes a part of the SAEs."""
    dataset_path: str | None
    """Where it was opened; None for one that was passed in."""
    groups: tuple[LayerGroup, ...] | None
    """None where they are known only once the model is loaded."""
    cache: CacheManifest | None
    """Of the cached activations to train from."""
    source: SAESource | None
    """What `init_from` names."""
    transfer: Transfer | None
    """Where each group starts from; None without a source, or before the groups are known."""

    @property
    def cfg(self) -> GroupSAERunnerConfig[Any]:
        """The settled config."""
        return self.settled.cfg

    @property
    def loaded_groups(self) -> tuple[LayerGroup, ...] | None:
        """Whose layers the model is loaded with hooks at; None for all layers."""
        return self.groups if self.transfer is None else self.transfer.loaded_groups


def prepare(
    cfg: GroupSAERunnerConfig[Any],
    override_dataset: HfDataset | None = None,
    override_model: HookedRootModule | None = None,
    override_saes: Mapping[str, TrainingSAE[Any]] | None = None,
    *,
    is_first: bool = True,
) -> PreparedRun:
    """Finds and checks all that `GroupSAETrainingRunner` needs before it loads the model.

    Args: as the runner's.
        is_first: whether it is one that writes to folders and W&B, as all but one of several
            processes are not.
    """
    settled = settle(cfg, is_first=is_first)
    cfg = settled.cfg
    warn_of_long_estimate(cfg)
    if is_first:
        _require_usable_places(cfg)
    dataset = open_dataset(cfg) if override_dataset is None else as_stream(override_dataset)
    dataset_path = cfg.dataset_path if override_dataset is None else None
    require_usable_first_row(cfg, dataset, dataset_path)
    require_as_pretokenized(cfg, dataset_path, override_model)
    require_chat_template(cfg, override_model)
    groups = None if override_model is not None else settled.groups_before_loading()
    if settled.checkpoint is not None:
        settled.checkpoint.require_fit(cfg, groups)
    cache = _usable_cache(cfg, groups)
    for setting in settled.settings:
        pretrained_sae(setting.cfg)  # refuses one that does not fit; each group gets its own later
    starts = {
        "init_from": cfg.init_from is not None,
        "init_features rows": cfg.begins_with_rows,
        "sweep": cfg.sweep is not None,
    }
    if override_saes is not None and any(starts.values()):
        given = next(name for name, is_given in starts.items() if is_given)
        raise ConfigError(f"{given} and override_saes both say what SAEs start from; leave one out")
    source = usable_source(cfg, groups)
    return PreparedRun(
        settled=settled,
        dataset=dataset,
        rows=CountedRows(dataset),
        dataset_path=dataset_path,
        groups=groups,
        cache=cache,
        source=source,
        transfer=transfer_of(cfg, source, groups),
    )


def _require_usable_places(cfg: GroupSAERunnerConfig[Any]) -> None:
    require_wandb_key(cfg.logger)
    if cfg.output_path is not None:
        require_unfinished(cfg)
        files.require_free(cfg.output_path)
        with only_writer(cfg.output_path):
            pass  # before the work that comes first; `run` holds it
    if cfg.checkpoint_path is not None:
        files.require_writable(cfg.checkpoint_path, "checkpoint_path")


def _usable_cache(
    cfg: GroupSAERunnerConfig[Any], groups: tuple[LayerGroup, ...] | None
) -> CacheManifest | None:
    if not cfg.use_cached_activations:
        return None
    assert cfg.cached_activations_path is not None  # the config asks for it
    cache = CachedActivations(cfg.cached_activations_path, cfg).manifest
    cache.require_fit(cfg, groups)
    return cache


def transfer_of(
    cfg: GroupSAERunnerConfig[Any],
    source: SAESource | None,
    groups: tuple[LayerGroup, ...] | None,
) -> Transfer | None:
    """Where each group starts from; None without a source, or before the groups are known."""
    if source is None or groups is None:
        return None
    if cfg.init_keep_layers:
        kept_groups(groups, source.manifest.groups)  # refuses a part of a group
    return Transfer(cfg, source, groups)
