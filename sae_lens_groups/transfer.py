"""Starts a run's SAEs from trained ones of the same or of neighbouring layers.

Layer-wise transfer (Ghilardi et al., BlackboxNLP 2024, section 3) copies a neighbour's parameters.
Here each group's SAE becomes x -> T'(f(T(x))): f is the source's SAE, and T leads from the scaled
activations of the group's middle layer to those that f works on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import TrainingSAE
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups.alignment import (
    NONE,
    AlignedScaler,
    Alignment,
    LayerPair,
    PairMoments,
    layer_map_of,
    scaling_map,
)
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.direction import DIRECTIONS
from sae_lens_groups.errors import ConfigError, InitSourceError
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.normalization import ESTIMATED_MODES, GroupScaling, whitening_of
from sae_lens_groups.plugins import alignments
from sae_lens_groups.source import InitSource, SourceSAE, open_source
from sae_lens_groups.take_parameters import ENCODER, take_parameters
from sae_lens_groups.training_form import require_convertible
from sae_lens_groups.transfer_report import Scores, TransferReport


@dataclass(frozen=True)
class Start:
    """Where one group's SAE starts."""

    group: LayerGroup
    source_layer: int

    @property
    def layer(self) -> int:
        """The layer of the group that the source's layer is mapped to."""
        return self.group.middle

    @property
    def pair(self) -> LayerPair:
        """The two layers that have to be related to one another."""
        return self.layer, self.source_layer


class Transfer:
    """Where each group of a run starts from.

    Raises:
        InitSourceError: the source does not fit the run, or has no layer on the side asked for.
    """

    starts: tuple[Start, ...]

    def __init__(
        self, cfg: GroupSAERunnerConfig[Any], source: InitSource, groups: Iterable[LayerGroup]
    ) -> None:
        self.cfg = cfg
        self.source = source
        self.groups = tuple(groups)
        choose = DIRECTIONS[cfg.init_direction]
        self.starts = tuple(
            Start(group, _chosen(cfg, source, group, choose(source.layers, group)))
            for group in self.groups
        )

    @property
    def pairs(self) -> set[LayerPair]:
        """The pairs of layers whose relation has to be measured."""
        return {start.pair for start in self.starts if self._needs_moments(start)}

    @property
    def hooked_groups(self) -> tuple[LayerGroup, ...]:
        """The run's groups, and each further layer whose activations have to be captured."""
        own = {layer for group in self.groups for layer in group.layers}
        others = {layer for pair in self.pairs for layer in pair} - own
        return tuple(sorted([*self.groups, *(LayerGroup(layer, layer) for layer in others)]))

    def report(self, zero_shot: Scores) -> TransferReport:
        """What each layer started from, and its scores before any step."""
        return TransferReport(
            init_from=self.source.name,
            init_direction=self.cfg.init_direction,
            init_parameters=self.cfg.init_parameters,
            init_alignment=self.cfg.init_alignment,
            source_layers=self.source_layers,
            zero_shot=zero_shot,
        )

    @property
    def source_layers(self) -> dict[int, int]:
        """Layer -> the source's layer whose SAE it starts from."""
        return {layer: start.source_layer for start in self.starts for layer in start.group.layers}

    @torch.no_grad()
    def apply(
        self,
        saes: Mapping[str, TrainingSAE[Any]],
        scalings: Mapping[str, GroupScaling],
        moments: Mapping[LayerPair, PairMoments],
    ) -> None:
        """Gives every group's SAE its first parameters, in place.

        Args:
            saes: group name -> the SAE to train.
            scalings: group name -> how its layers' activations are scaled.
            moments: those of all `pairs`, of raw activations.
        """
        for start in self.starts:
            target = scalings[start.group.name].of_layer[start.layer]
            source = self.source.sae_for(start.source_layer)
            scaler = self._scaler(start, source, target, moments)
            take_parameters(
                saes[start.group.name], source.sae, scaler, which=self.cfg.init_parameters
            )

    def _needs_moments(self, start: Start) -> bool:
        alignment = self._alignment
        if alignment is None or start.layer == start.source_layer or self._works_on_rows:
            return False
        return not (alignment.only_norms and self._has_equal_norms)

    @property
    def _alignment(self) -> Alignment | None:
        name = self.cfg.init_alignment
        return None if name == NONE else alignments()[name]

    @property
    def _works_on_rows(self) -> bool:
        """Whether the SAE normalises each row itself, so that a factor means nothing to it."""
        return self.cfg.sae.normalize_activations not in (NONE, *ESTIMATED_MODES)

    @property
    def _has_equal_norms(self) -> bool:
        """Whether source and run both scale activations to a mean norm of sqrt(d_in)."""
        scaler = self.source.first.scaler
        is_scaled = scaler is None or scaler.scaling_factor is not None or whitening_of(scaler)
        return bool(is_scaled) and self.cfg.sae.normalize_activations in ESTIMATED_MODES

    def _scaler(
        self,
        start: Start,
        source: SourceSAE,
        target: ActivationScaler,
        moments: Mapping[LayerPair, PairMoments],
    ) -> AlignedScaler:
        """From the target layer's scaled activations to what the source's SAE takes."""
        own_map = None if source.scaler is None else layer_map_of(source.scaler)
        if start.layer == start.source_layer and source.scaler is not None:
            return _rescaled(target, source.scaler, int(self.cfg.sae.d_in))
        alignment = self._alignment
        if alignment is None or start.pair not in moments:
            return AlignedScaler.of(ActivationScaler(), own_map)
        raw = moments[start.pair]
        source_scaler = source.scaler or _to_root_d_in(raw)
        scaled = raw.scaled(target, source_scaler)
        to_equal_norms = ActivationScaler(scaling_factor=scaled.norm_ratio)
        if alignment.only_norms:
            return AlignedScaler.of(to_equal_norms, own_map)
        fitted = alignment.fit(scaled.scaled(to_equal_norms, ActivationScaler()))
        return AlignedScaler.of(to_equal_norms, fitted.then(own_map))


def usable_source(cfg: GroupSAERunnerConfig[Any]) -> InitSource | None:
    """The source that `init_from` names, checked; None where nothing is to start from it.

    Raises:
        InitSourceError: there is no such source, or its SAEs cannot become those of the run.
        ConfigError: its layers are to be kept, and it is no suite.
    """
    is_resumed = cfg.resume_from_checkpoint is not None
    if cfg.init_from is None or (is_resumed and not cfg.init_keep_layers):
        return None
    source = open_source(cfg.init_from, whole=cfg.init_keep_layers)
    _require_fit(cfg, source)
    if cfg.init_keep_layers and source.suite_folder is None:
        raise ConfigError(
            f"init_keep_layers needs a suite, and init_from {cfg.init_from!r} is a single SAE; "
            "leave init_keep_layers out"
        )
    return source


def _require_fit(cfg: GroupSAERunnerConfig[Any], source: InitSource) -> None:
    which = f"the SAE of init_from {cfg.init_from!r}"
    if source.hook_template != cfg.hook_template:
        raise InitSourceError(
            f"{which} is for {source.hook_template}, and this run trains on {cfg.hook_template}; "
            "name an SAE of the same hook"
        )
    sae, scaler = source.first.sae, source.first.scaler
    head = sae.cfg.metadata.hook_head_index if "hook_head_index" in sae.cfg.metadata else None
    if head != cfg.hook_head_index:
        raise InitSourceError(
            f"{which} has hook_head_index={head!r}, and the config asks for "
            f"{cfg.hook_head_index!r}; make them equal"
        )
    require_convertible(sae, cfg.sae, which)
    if scaler is None and cfg.sae.normalize_activations not in ESTIMATED_MODES:
        raise InitSourceError(
            f"{which} takes activations scaled to a mean norm of sqrt(d_in), by a factor that it "
            "does not hold; set normalize_activations to expected_average_only_in"
        )
    if cfg.init_parameters == ENCODER and "W_enc" not in sae.state_dict():
        raise InitSourceError(
            f"{which} has no encoder of its own; set init_parameters to all or decoder"
        )


def _chosen(
    cfg: GroupSAERunnerConfig[Any], source: InitSource, group: LayerGroup, found: int | None
) -> int:
    if found is not None:
        return found
    side = "below" if cfg.init_direction == "forward" else "above"
    has = ", ".join(map(str, source.groups))
    raise InitSourceError(
        f"init_direction is {cfg.init_direction!r}, and init_from {source.name!r} has no layer "
        f"{side} group {group} (it has {has}); use nearest, or leave the group out of layer_groups"
    )


def _rescaled(target: ActivationScaler, source: ActivationScaler, d_in: int) -> AlignedScaler:
    """From one scaling of a layer to another of the same layer, exactly."""
    own_map = layer_map_of(source)
    if whitening_of(target) is None and whitening_of(source) is None:
        factor = (source.scaling_factor or 1.0) / (target.scaling_factor or 1.0)
        return AlignedScaler.of(
            ActivationScaler(scaling_factor=None if factor == 1 else factor), own_map
        )
    back_and_forth = scaling_map(target, d_in).reversed().then(scaling_map(source, d_in))
    return AlignedScaler.of(ActivationScaler(), back_and_forth.then(own_map))


def _to_root_d_in(raw: PairMoments) -> ActivationScaler:
    mean_norm = float(raw.sum_norm_y) / raw.n_tokens
    return ActivationScaler(scaling_factor=len(raw.sum_y_D) ** 0.5 / mean_norm)
