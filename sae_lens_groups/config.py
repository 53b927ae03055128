"""The configuration of a grouped run: SAELens's own, plus a few flags."""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from sae_lens import LanguageModelSAERunnerConfig
from sae_lens.saes.sae import TrainingSAEConfig

from sae_lens_groups.errors import ConfigError
from sae_lens_groups.layers import HookTemplate, LayerGroup
from sae_lens_groups.partitions import PartitionRule, find_partition, parse_layer_groups, resolve
from sae_lens_groups.plugins import partitions

T_TRAINING_SAE_CONFIG = TypeVar("T_TRAINING_SAE_CONFIG", bound=TrainingSAEConfig)


@dataclass(kw_only=True)
class GroupSAERunnerConfig(LanguageModelSAERunnerConfig[T_TRAINING_SAE_CONFIG]):
    """A SAELens training config that trains one SAE per group of neighbouring layers.

    Every field of `LanguageModelSAERunnerConfig` keeps its meaning, with three additions:
    `hook_name` may name any layer, `sae.normalize_activations` is estimated and applied per layer,
    and `seed` is honoured: the same config gives the same weights.

    Args:
        layer_groups (str): Which layers share an SAE. `0-3,4-7,8-10,11` names the groups (only the layers named are trained), `each` is one SAE per layer, `even:4` is all layers but the last in 4 near-equal runs, plus the last alone.

    Raises:
        GroupSAEError: `layer_groups` cannot be read, `hook_name` has no layer number, or a setting cannot be used with groups.
    """

    layer_groups: str

    def __post_init__(self) -> None:
        self._require_usable()
        if self.logger.run_name is None:
            self.logger.run_name = (
                f"{self.sae.architecture()}-{self.sae.d_sae}-groups-{self.layer_groups}"
                f"-LR-{self.lr}-Tokens-{self.training_tokens:3.3e}"
            )
        checkpoint_path = self.checkpoint_path
        super().__post_init__()
        if checkpoint_path is None:  # SAELens before 6.45 makes a folder named None of it
            self.checkpoint_path = None

    def _require_usable(self) -> None:
        """Catches what can be known to be wrong before a model is loaded."""
        HookTemplate.from_hook_name(self.hook_name)
        parsed = parse_layer_groups(self.layer_groups)
        if isinstance(parsed, PartitionRule):
            find_partition(parsed.name, partitions())
        if self.use_cached_activations:
            raise ConfigError(
                "use_cached_activations is True, but cached activations hold one hook and groups "
                "need every layer; set use_cached_activations to False"
            )
        if self.training_tokens < self.train_batch_size_tokens:
            raise ConfigError(
                f"training_tokens is {self.training_tokens}, less than one batch of "
                f"train_batch_size_tokens={self.train_batch_size_tokens}; "
                "raise the first or lower the second"
            )
        buffer_size = self.n_batches_in_buffer * self.rows_per_prompt
        if buffer_size < self.train_batch_size_tokens:
            raise ConfigError(
                f"the shuffle buffer holds n_batches_in_buffer * context_size = {buffer_size} "
                f"tokens, less than one batch of train_batch_size_tokens="
                f"{self.train_batch_size_tokens}; raise n_batches_in_buffer"
            )

    @property
    def hook_template(self) -> HookTemplate:
        """`hook_name` with its layer number as the variable part."""
        return HookTemplate.from_hook_name(self.hook_name)

    @property
    def rows_per_prompt(self) -> int:
        """Activations that one prompt gives each layer, before special tokens are excluded."""
        return len(range(self.context_size)[slice(*self.seqpos_slice)])

    def resolve_groups(self, n_layers: int) -> tuple[LayerGroup, ...]:
        """The groups that `layer_groups` means for a model of `n_layers` layers, lowest first."""
        return resolve(parse_layer_groups(self.layer_groups), n_layers, partitions())

    @classmethod
    def from_sae_lens(
        cls, cfg: LanguageModelSAERunnerConfig[T_TRAINING_SAE_CONFIG], **flags: Any
    ) -> "GroupSAERunnerConfig[T_TRAINING_SAE_CONFIG]":
        """An existing SAELens config with flags added: `from_sae_lens(cfg, layer_groups="0-3")`.

        The given config is left as it is; `flags` may also override its fields.
        """
        values = {field.name: getattr(cfg, field.name) for field in fields(cfg) if field.init}
        # Both configs fill in `sae.metadata` and `logger`, so they must not share them.
        values["sae"] = copy.deepcopy(cfg.sae)
        values["logger"] = copy.deepcopy(cfg.logger)
        values["checkpoint_path"] = without_run_id(cfg.checkpoint_path, cfg.logger.wandb_id)
        return cls(**{**values, **flags})

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any], **flags: Any) -> "GroupSAERunnerConfig[Any]":
        """A config from the `runner_cfg.json` of an earlier run, of SAELens or of this package.

        The new run gets a checkpoint folder of its own; `flags` override what was saved.
        """
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in {**saved, **flags}.items() if name in known}
        values["seqpos_slice"] = tuple(values.get("seqpos_slice") or (None,))
        if "checkpoint_path" not in flags:
            wandb_id = values.get("logger", {}).get("wandb_id")
            values["checkpoint_path"] = without_run_id(values.get("checkpoint_path"), wandb_id)
        # SAELens's from_dict takes checkpoint_path as final, so it is set before, with a run id.
        checkpoint_path = values.pop("checkpoint_path")
        cfg = cls.from_dict(values)
        cfg.checkpoint_path = with_run_id(checkpoint_path, cfg.checkpoint_path)
        assert isinstance(cfg, cls)
        return cfg


# SAELens appends the W&B id, or eight hexadecimal digits (eight letters and digits before 6.45).
_RUN_ID = re.compile(r"[0-9a-z]{8}")


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
