"""The configuration of a grouped run: SAELens's own, plus a few flags."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from sae_lens import LanguageModelSAERunnerConfig, LoggingConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.constants import DTYPE_MAP
from sae_lens.saes.sae import TrainingSAEConfig

from sae_lens_groups.errors import ConfigError, quoted
from sae_lens_groups.field_values import (
    changed_fields,
    parse_every,
    require_device,
    require_field_values,
    require_k,
    require_known_fields,
    require_norm_multiple,
    require_one_of,
    require_threshold,
    underived,
)
from sae_lens_groups.files import expanded, refusing, require_kinds, without_run_id
from sae_lens_groups.layers import HookTemplate, layer_groups_text
from sae_lens_groups.scaling import NONE, estimate_batches

NEWEST = "auto"  # of resume_from_checkpoint
FAST_STEPS = ("auto", "always", "never")
INIT_DIRECTIONS = ("nearest", "forward", "backward")
INIT_FEATURES = (RANDOM, ROWS) = ("random", "rows")
INIT_PARAMETERS = ("all", "encoder", "decoder")
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
        layer_groups (str): Which layers share an SAE. `0-3,4-7,8-10,11` names the groups (only the layers named are trained), `each` is one SAE per layer, `even:4` is all layers but the last in 4 near-equal runs, plus the last alone. `auto` measures how far apart the layers are and merges neighbouring ones into the fewest groups whose AMAD is below `amad_threshold`, `auto:4` into 4; `optimal` and `optimal:4` do the same by another rule. A path such as `my_plan/plan.json` takes the groups of a plan. In Python also a `GroupPlan`, or a list such as `[(0, 3), (4, 7)]`.
        amad_threshold (float): For `auto` without a number: the mean over the groups of the largest distance in each stays below it.
        plan_tokens (int): How many tokens distances and alignments are measured on, where they are measured.
        layers_per_token (int): How many layers of each group are drawn for every token. More give more training rows per pass of the language model; a group with fewer layers gives some of its rows more than once.
        max_activation_norm_multiple (float): Leaves out tokens whose activation at any of the layers is larger than this many times the layer's median norm: the massive activations of real models, mostly at the first position, of which a mean norm, a loss or a distance would otherwise be made. 0 trains on every token, as SAELens does. For the first position whatever its norm, set SAELens's `seqpos_slice`.
        fast_step (str): Whether SAEs are trained with the sparse step, equal to SAELens's own up to rounding: `auto` (where it is faster), `always` (or an error where settings rule it out) or `never`, SAELens's own step and optimiser bit for bit.
        ranks_per_group (int): Of several processes, how many train each group's SAE together, each a shard of its features: for SAEs that are larger than one device, and for more processes than groups. For `topk`, `batchtopk` and `abstopk`.
        layer_alignment (str): How each layer of a group is mapped to the group's middle layer before the SAE: `none`, `orthogonal` (a rotation), `affine` (least squares) or `scale` (one factor). The maps are fitted before training and folded into each layer's SAE at the end.
        refit_tokens (int): After training, gives each layer a decoder of its own, refitted to this many tokens of the layer by ridge least squares, 20,000 say; latents stay the group's. 0 leaves all layers of a group the group's decoder.
        init_features (str): Where features of SAEs begin that start from nothing else: `random`, as SAELens draws them, or `rows`, each as a row of the data seen from their mean.
        init_from (str | None): Trained SAEs to start from: a suite's folder, the folder of a SAELens SAE (in training or inference form), a release that SAELens lists with one SAE per layer (`llama_scope_lxr_8x`), `release:sae_id` of a published SAE, or on the Hub `owner/repo` (a suite, or SAEs of several layers) or `owner/repo:sae_id`. With `*` in a folder's name or an id, one for each of several layers, as in `gemma-scope-2b-pt-res-canonical:layer_*/width_16k/canonical`.
        init_direction (str): Which layer of them each layer starts from: `nearest` (the layer itself where it is there), `forward` (the one below) or `backward` (the one above).
        init_parameters (str): What is taken: `all`, `encoder` or `decoder`.
        init_alignment (str): How the activations of two different layers are related for that: `none` (parameters are copied), `scale` (ratio of the mean norms), `orthogonal` (a rotation) or `affine` (least squares).
        init_keep_layers (bool): Also puts those layers of the `init_from` suite that are not trained into the new suite, so that one suite holds all.
        sweep (list[str | dict[str, Any]] | None): Several settings in one run, each to a suite of its own in a folder of `output_path`: fields with values, such as `k=16,32,64` and `lr=1e-4,3e-4`, of which every combination is trained, or in a file or in Python whole settings, such as `{"k": 16, "lr": 1e-4}` or SAELens's config of an SAE. Settings of several `hook_name`, `hook_head_index` or `layer_groups` share the language model's passes.
        checkpoint_every (str | None): How often a checkpoint is saved, beside SAELens's `n_checkpoints`: after a time such as `10m` (`s`, `m` and `h` are known) or a number of training tokens such as `5000000`.
        keep_checkpoints (int | None): Keeps only this many of the newest checkpoints, and the one with the highest explained variance; all where it is not given.
        n_batches_for_norm_estimate (int | None): How many training batches each layer's norm is estimated on. A number is taken as SAELens takes it; without one it is a tenth of the run's batches, at least 4,096 rows (with whitening 50 d_in) and at most SAELens's default of 1,000 batches.
        token_fraction (float | None): Trains on this fraction of the tokens that the SAEs of `init_from` were trained on, in place of `training_tokens`.

    Raises:
        GroupSAEError: `hook_name` has no layer number, or a setting has no meaning. What settings name (a rule, a plan, a checkpoint) is looked up when a run begins.
    """

    dataset_trust_remote_code: bool = False  # SAELens's default is to run a dataset's code
    layer_groups: str = field(metadata=NOT_IN_CACHE)
    amad_threshold: float = field(default=0.2, metadata=NOT_IN_CACHE)
    plan_tokens: int = field(default=200_000, metadata=NOT_IN_CACHE)
    layers_per_token: int = field(default=1, metadata=IN_CACHED_DRAWS)
    max_activation_norm_multiple: float = field(
        default=10.0, metadata={**IN_CACHED_DRAWS, "before": 0.0}
    )
    fast_step: str = field(default="auto", metadata=NOT_IN_CACHE)
    ranks_per_group: int = field(default=1, metadata=NOT_IN_CACHE)
    layer_alignment: str = field(default=NONE, metadata=NOT_IN_CACHE)
    refit_tokens: int = field(default=0, metadata=NOT_IN_CACHE)
    init_features: str = field(default=RANDOM, metadata=NOT_IN_CACHE)
    init_from: str | None = field(default=None, metadata=NOT_IN_CACHE)
    init_direction: str = field(default="nearest", metadata=NOT_IN_CACHE)
    init_parameters: str = field(default="all", metadata=NOT_IN_CACHE)
    init_alignment: str = field(default="scale", metadata=NOT_IN_CACHE)
    init_keep_layers: bool = field(default=False, metadata=NOT_IN_CACHE)
    # A command reads it itself, as it may be given more than once.
    sweep: list[str | dict[str, Any]] | None = field(
        default=None, metadata={**NOT_IN_CACHE, "cmd": False}
    )
    token_fraction: float | None = field(default=None, metadata=NOT_IN_CACHE)

    given_groups = None  # layer_groups before it became text, which a plan is more than
    recipe = cast("str | None", None)  # how the suite is made, where several runs make it
    checkpoint_every: str | None = field(default=None, metadata=NOT_IN_CACHE)
    keep_checkpoints: int | None = field(default=None, metadata=NOT_IN_CACHE)

    # SAELens's 1,000 would be longer than a short run.
    n_batches_for_norm_estimate: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        if isinstance(self.checkpoint_every, int):
            self.checkpoint_every = str(self.checkpoint_every)  # a number of tokens
        for name in ("output_path", "checkpoint_path", "resume_from_checkpoint"):
            if isinstance(path := getattr(self, name), str | Path):
                setattr(self, name, str(expanded(path)))
        self.given_groups = self.layer_groups
        self.layer_groups = cast("str", layer_groups_text(self.layer_groups))
        if isinstance(self.sweep, list | tuple):
            self.sweep = [changed_fields(entry, self.sae) for entry in self.sweep]
        self._require_field_values()
        HookTemplate.from_hook_name(self.hook_name)
        self._require_usable_flags()
        self._require_usable_init()
        self._require_usable_checkpoints()
        self._require_known_names()
        self._require_usable_sizes()
        if self.token_fraction is None:
            self._require_one_batch()
        if self.logger.run_name is None:
            self.logger.run_name = self._run_name()
        checkpoint_path = self.checkpoint_path
        super().__post_init__()
        if checkpoint_path is None:  # SAELens 6.44 makes a folder named None of it
            self.checkpoint_path = None

    def _run_name(self) -> str:
        return (
            f"{self.sae.architecture()}-{self.sae.d_sae}-groups-{self.layer_groups}"
            f"-LR-{self.lr}-Tokens-{self.training_tokens:3.3e}"
        )

    def with_training_tokens(self, n_tokens: int) -> Self:
        """The same run over another number of tokens, at least a batch."""
        cfg = copy.copy(self)
        cfg.training_tokens = n_tokens
        cfg._require_one_batch()
        if self.logger.run_name == self._run_name():
            cfg.logger = copy.copy(self.logger)
            cfg.logger.run_name = cfg._run_name()
        return cfg

    def _require_field_values(self) -> None:
        if not isinstance(self.sae, TrainingSAEConfig):
            takes = "it takes a config that trains, such as TopKTrainingSAEConfig"
            raise ConfigError(f"sae is {quoted(self.sae)}; {takes}")
        require_field_values(self)
        require_field_values(self.sae, "sae.")
        require_field_values(self.logger, "logger.")

    def _require_usable_flags(self) -> None:
        require_threshold(self.amad_threshold)
        require_norm_multiple(self.max_activation_norm_multiple)
        require_one_of("fast_step", self.fast_step, FAST_STEPS)
        if self.use_cached_activations and self.cached_activations_path is None:
            raise ConfigError(
                "use_cached_activations is True, but cached_activations_path is not given; name "
                "the folder that `sae-lens-groups cache` wrote"
            )

    def _require_usable_init(self) -> None:
        require_one_of("init_features", self.init_features, INIT_FEATURES)
        require_one_of("init_direction", self.init_direction, INIT_DIRECTIONS)
        require_one_of("init_parameters", self.init_parameters, INIT_PARAMETERS)
        fraction = self.token_fraction
        if self.init_from is None and fraction is not None:
            raise ConfigError(
                "token_fraction is a fraction of what the SAEs of init_from were trained on; "
                "name them there, or give training_tokens"
            )
        if fraction is not None and not fraction > 0:
            raise ConfigError(f"token_fraction is {fraction}; give a positive number such as 0.2")
        if self.init_from is None and self.init_keep_layers:
            raise ConfigError("init_keep_layers needs init_from; name a suite there")
        if self.init_from is not None and self.from_pretrained_path is not None:
            raise ConfigError(
                "init_from and from_pretrained_path both say what SAEs start from; leave one out"
            )

    def _require_usable_checkpoints(self) -> None:
        if self.checkpoint_every is not None:
            parse_every(self.checkpoint_every)
        if self.checkpoint_path is not None:
            return
        to_do = "needs checkpoint_path; name a folder there"
        if self.checkpoint_every is not None:
            raise ConfigError(f"checkpoint_every {to_do}")
        if self.resume_from_checkpoint == NEWEST:
            raise ConfigError(f"resume_from_checkpoint auto {to_do}")

    def _require_usable_sizes(self) -> None:
        given = self.seqpos_slice
        if not 1 <= len(given) <= 3 or (len(given) == 3 and given[2] is not None and given[2] < 1):
            raise ConfigError(
                f"seqpos_slice is {quoted(given)}; give the first position, the one after the last "
                "and, where it is not 1, the step, such as (1, None) or (0, 64, 2)"
            )
        if self.rows_per_prompt < min(2, self.context_size):
            raise ConfigError(
                f"seqpos_slice {quoted(given)} leaves {('none', 'one')[self.rows_per_prompt]} of the "
                f"{self.context_size} positions of a prompt (context_size); to leave out the first, "
                f"give (1, None), on the command line 1 {self.context_size}"
            )
        buffer_size = self.n_batches_in_buffer * self.rows_per_prompt
        if buffer_size < self.train_batch_size_tokens:
            raise ConfigError(
                f"the shuffle buffer holds n_batches_in_buffer * {self.rows_per_prompt} positions of a "
                f"prompt = {buffer_size} tokens, less than one batch of train_batch_size_tokens="
                f"{self.train_batch_size_tokens}; raise n_batches_in_buffer to "
                f"{-(-self.train_batch_size_tokens // self.rows_per_prompt)}"
            )

    def _require_one_batch(self) -> None:
        if self.training_tokens < self.train_batch_size_tokens:
            raise ConfigError(
                f"training_tokens is {self.training_tokens}, less than one batch of "
                f"train_batch_size_tokens={self.train_batch_size_tokens}; "
                "raise the first or lower the second"
            )

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
        require_k(self.sae)
        for name in ("device", "llm_device", "act_store_device"):
            require_device(name, getattr(self, name))

    @property
    def hook_template(self) -> HookTemplate:
        """`hook_name` with its layer number as the variable part."""
        return HookTemplate.from_hook_name(self.hook_name)

    @property
    def begins_with_rows(self) -> bool:
        """Whether it trains new SAEs, whose features begin as rows of the data."""
        is_new = self.init_from is None and self.from_pretrained_path is None
        return is_new and self.init_features == ROWS

    @property
    def rows_per_prompt(self) -> int:
        """Activations that one prompt gives each layer, before special tokens are excluded."""
        return len(range(self.context_size)[slice(*self.seqpos_slice)])

    @property
    def norm_estimate_batches(self) -> int:
        """`n_batches_for_norm_estimate`, or as many as are in proportion to the run."""
        if self.n_batches_for_norm_estimate is not None:
            return self.n_batches_for_norm_estimate
        return estimate_batches(
            self.sae.normalize_activations,
            int(self.sae.d_in),
            self.train_batch_size_tokens,
            self.total_training_steps,
        )

    def to_sae_trainer_config(self) -> SAETrainerConfig:
        """What SAELens's trainer is told of it."""
        of_trainer = super().to_sae_trainer_config()
        of_trainer.n_batches_for_norm_estimate = self.norm_estimate_batches
        return of_trainer

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
        require_known_fields(flags, [field.name for field in fields(cls)])
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
        of_logger = {field.name for field in fields(LoggingConfig)}
        logger = {name: values["logger"][name] for name in of_logger & values["logger"].keys()}
        values["logger"] = logger
        if "checkpoint_path" not in flags:
            saved_path = values.get("checkpoint_path")
            values["checkpoint_path"] = without_run_id(saved_path, logger.get("wandb_id"))
        # SAELens's from_dict takes checkpoint_path as final, so it is set before, with a run id.
        folder = values.pop("checkpoint_path")
        cfg = cls.from_dict(values)
        if folder is None or cfg.checkpoint_path is None:
            cfg.checkpoint_path = None
        else:
            cfg.checkpoint_path = f"{folder}/{Path(cfg.checkpoint_path).name}"
        assert isinstance(cfg, cls)
        return cfg


def _require_saved_form(values: Mapping[str, Any]) -> None:
    """Refuses what SAELens would trip over before it makes a config of saved settings."""
    whole = {"seqpos_slice": None, "checkpoint_path": None, **values}
    to_do = "name the runner_cfg.json that SAELens wrote beside a trained SAE"
    with refusing(ConfigError, "the saved settings cannot be used", to_do):
        require_kinds(whole, {"sae": dict, "logger": dict})
        require_kinds(whole, {"checkpoint_path": str | None, "seqpos_slice": list | tuple | None})
        sae = {"metadata": {}, **whole["sae"]}
        require_kinds(sae, {"metadata": dict, "d_in": int | float, "d_sae": int | float})
