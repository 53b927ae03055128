"""Starts a run's SAEs from trained ones of the same or of neighbouring layers.

Layer-wise transfer (Ghilardi et al., BlackboxNLP 2024, section 3) copies a neighbour's parameters.
Here each group's SAE becomes x -> T'(f(T(x))): f is the source's SAE, and T leads from the scaled
activations of the group's middle layer to those that f works on.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from sae_lens import TrainingSAE
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import InitSourceError
from sae_lens_groups.layers import LayerGroup, in_words
from sae_lens_groups.plugins import alignments
from sae_lens_groups.saved import (
    FeaturesBy,
    LayerTransfer,
    SAESource,
    Scores,
    TransferReport,
    named_by,
)
from sae_lens_groups.scaling import (
    ESTIMATED_MODES,
    MEAN_NORM,
    NONE,
    SCALE,
    WHITENING,
    Alignment,
    GroupScaling,
    LayerPair,
    LayerScaler,
    PairMoments,
    layer_map_of,
    scaling_map,
    whitening_of,
)
from sae_lens_groups.transfer.keep import kept_groups
from sae_lens_groups.transfer.resize import like, most_used, take_features
from sae_lens_groups.transfer.take import ALL_PARAMETERS, take_decoder, take_parameters


@dataclass(frozen=True)
class Start:
    """Where one group's SAE starts."""

    group: LayerGroup
    source_layer: int
    source_scaler: ActivationScaler | None
    """What the source's layer is scaled by; None where only its mean norm is known."""

    @property
    def layer(self) -> int:
        """The layer of the group that the source's layer is mapped to."""
        return self.group.middle

    @property
    def is_same_layer(self) -> bool:
        """Whether the source has an SAE for that very layer."""
        return self.layer == self.source_layer

    @property
    def pair(self) -> LayerPair:
        """The two layers that have to be related to one another."""
        return self.layer, self.source_layer


class Resized(NamedTuple):
    """A start from an SAE of more or fewer features."""

    layer: int
    """The group's middle one."""
    source_d_sae: int
    features_by: FeaturesBy | None


FiringFrequency = Callable[[TrainingSAE[Any], int, ActivationScaler], torch.Tensor]
"""How often each feature of an SAE fires on a layer that is scaled so. Shape (d_sae,)."""


class Transfer:
    """Where each group of a run starts from.

    Raises:
        InitSourceError: the source has no layer on the side asked for, or one that this
            `init_alignment` cannot relate to the run's.
    """

    starts: tuple[Start, ...]

    def __init__(
        self, cfg: GroupSAERunnerConfig[Any], source: SAESource, groups: Iterable[LayerGroup]
    ) -> None:
        self.cfg = cfg
        self.source = source
        self.groups = tuple(groups)
        self._held = source.manifest
        require_own_layers(cfg, source, self.groups)
        self.starts = tuple(self._start(group) for group in self.groups)
        self.scaled_only: set[LayerPair] = set()
        """Related by a factor, where what was asked for would have been worse."""
        self.resized: set[Resized] = set()
        """What started from an SAE of more or fewer features."""

    @property
    def pairs(self) -> set[LayerPair]:
        """The pairs of layers whose relation has to be measured."""
        return {start.pair for start in self.starts if self._needs_moments(start)}

    @property
    def hooked_groups(self) -> tuple[LayerGroup, ...]:
        """The run's groups, and each further layer whose activations have to be captured."""
        return self._groups_and({layer for pair in self.pairs for layer in pair})

    @property
    def loaded_groups(self) -> tuple[LayerGroup, ...]:
        """Those, and the layers that are kept: the run's model is what evaluates the whole suite."""
        kept = kept_groups(self.groups, self._held.groups) if self.cfg.init_keep_layers else ()
        return self._groups_and(
            {layer for group in (*self.hooked_groups, *kept) for layer in group.layers}
        )

    def _groups_and(self, layers: set[int]) -> tuple[LayerGroup, ...]:
        others = layers - {layer for group in self.groups for layer in group.layers}
        return tuple(sorted([*self.groups, *(LayerGroup(layer, layer) for layer in others)]))

    def report(self, zero_shot: Scores) -> TransferReport:
        """What each layer started from, and its scores before any step."""
        hook_name = self.cfg.hook_template.hook_name
        resized = {one.layer: one for one in self.resized}
        return TransferReport(
            init_from=str(self.cfg.init_from),
            init_direction=self.cfg.init_direction,
            init_parameters=self.cfg.init_parameters,
            init_alignment=self.cfg.init_alignment,
            layers={
                hook_name(layer): LayerTransfer(
                    source_hook_name=hook_name(start.source_layer),
                    init_alignment=SCALE if start.pair in self.scaled_only else None,
                    source_d_sae=found.source_d_sae if found else None,
                    features_by=found.features_by if found else None,
                    zero_shot=zero_shot[layer],
                )
                for start in self.starts
                for found in [resized.get(start.layer)]
                for layer in start.group.layers
            },
        )

    def apply(
        self,
        saes: Mapping[str, TrainingSAE[Any]],
        scalings: Mapping[str, GroupScaling],
        moments: Mapping[LayerPair, PairMoments],
        firing_frequency: FiringFrequency,
    ) -> None:
        """Gives every group's SAE its first parameters, in place.

        Args:
            saes: group name -> the SAE to train; of some groups, where others train the rest.
            scalings: group name -> how its layers' activations are scaled.
            moments: those of all `pairs`, of raw activations.
            firing_frequency: asked where the source has more features and does not say.
        """
        for start in self.starts:
            if start.group.name not in saes:
                continue
            target = scalings[start.group.name].of_layer[start.layer]
            with named_by("init_from", InitSourceError):
                source = self.source.group(self._held.group_of(start.source_layer))
            own, which = saes[start.group.name], self.cfg.init_parameters
            is_resized = source.cfg.d_sae != own.cfg.d_sae
            sae = like(own, source.cfg.d_sae) if is_resized else own
            scaler = self._scaler(start, target, moments.get(start.pair))
            take_parameters(sae, source, scaler, which=which)
            is_refitted = self._held.refit_tokens is not None and len(start.group) == 1
            if is_refitted and start.is_same_layer and which == ALL_PARAMETERS:
                from_raw = _rescaled(target, ActivationScaler(), int(self.cfg.sae.d_in))
                take_decoder(sae, source, self.source.layer(start.source_layer), from_raw)
            if is_resized:
                self._resize(own, sae, start, partial(firing_frequency, sae, start.layer, target))

    def _resize(
        self,
        own: TrainingSAE[Any],
        taken: TrainingSAE[Any],
        start: Start,
        counted: Callable[[], torch.Tensor],
    ) -> None:
        by: FeaturesBy | None = None
        kept_N = None
        if taken.cfg.d_sae > own.cfg.d_sae:
            saved_F = self.source.log_sparsity(start.source_layer)
            by = "tokens" if saved_F is None else "sparsity.safetensors"
            frequency_F = counted() if saved_F is None else saved_F
            kept_N = most_used(frequency_F, own.cfg.d_sae)
        take_features(own, taken, kept_N)
        self.resized.add(Resized(start.layer, taken.cfg.d_sae, by))

    def _start(self, group: LayerGroup) -> Start:
        layer = DIRECTIONS[self.cfg.init_direction](self._held.layers, group)
        if layer is None:
            side = "below" if self.cfg.init_direction == "forward" else "above"
            has = ", ".join(map(str, self._held.groups))
            raise InitSourceError(
                f"init_direction is {self.cfg.init_direction!r}, and init_from "
                f"{self.cfg.init_from!r} has no layer {side} group {group} (it has {has}); "
                "use nearest, or leave the group out of layer_groups"
            )
        with named_by("init_from", InitSourceError):
            start = Start(group, layer, self.source.scaler(layer))
        self._require_common_coordinates(start)
        return start

    def _require_common_coordinates(self, start: Start) -> None:
        """Refuses to copy between layers of which one is whitened, each in directions of its own."""
        scaler = start.source_scaler
        whitens = self.cfg.sae.normalize_activations == WHITENING or (
            scaler is not None and whitening_of(scaler) is not None
        )
        fits_a_map = self._alignment is not None and not self._alignment.only_norms
        if whitens and not start.is_same_layer and not fits_a_map:
            raise InitSourceError(
                f"init_alignment {self.cfg.init_alignment!r} cannot relate layer {start.layer} to "
                f"layer {start.source_layer} of init_from, because whitened activations of two "
                "layers have different directions; use orthogonal or affine"
            )

    def _needs_moments(self, start: Start) -> bool:
        alignment, mode = self._alignment, self.cfg.sae.normalize_activations
        works_on_rows = mode not in (NONE, *ESTIMATED_MODES)  # a factor means nothing to such SAEs
        if alignment is None or start.is_same_layer or works_on_rows:
            return False
        scaler = start.source_scaler
        both_scaled = mode == MEAN_NORM and (scaler is None or scaler.scaling_factor is not None)
        return not (alignment.only_norms and both_scaled)  # to the same mean norm

    @property
    def _alignment(self) -> Alignment | None:
        name = self.cfg.init_alignment
        return None if name == NONE else alignments()[name]

    def _scaler(
        self, start: Start, target: ActivationScaler, raw: PairMoments | None
    ) -> LayerScaler:
        """From the target layer's scaled activations to what the source's SAE takes."""
        source, alignment = start.source_scaler, self._alignment
        own_map = None if source is None else layer_map_of(source)
        if start.is_same_layer and source is not None:
            return _rescaled(target, source, int(self.cfg.sae.d_in))
        if alignment is None or raw is None:
            return LayerScaler.of(ActivationScaler(), own_map)
        scaled = raw.scaled(target, source or _to_root_d_in(raw))
        to_equal_norms = ActivationScaler(scaling_factor=scaled.norm_ratio)
        if alignment.only_norms:
            return LayerScaler.of(to_equal_norms, own_map)
        of_equal_norms = scaled.scaled(to_equal_norms, ActivationScaler())
        fitted, as_asked = alignment.fit_or_scale(of_equal_norms, start.pair)
        if not as_asked:
            self.scaled_only.add(start.pair)
        return LayerScaler.of(to_equal_norms, fitted.then(own_map))


def require_own_layers(
    cfg: GroupSAERunnerConfig[Any], source: SAESource, groups: Iterable[LayerGroup]
) -> None:
    """Refuses a release named as a whole that lacks layers, unless neighbours were asked for."""
    held = source.manifest.layers
    missing = [group.middle for group in groups if group.middle not in held]
    if source.is_whole_release and missing and cfg.init_direction == NEAREST:
        raise InitSourceError(
            f"init_from {cfg.init_from!r} has no SAE for {in_words(missing)}; it has "
            f"{in_words(held)}; leave the others out of layer_groups, or name "
            f"{cfg.init_from}:* to start each of them from the nearest layer's"
        )


def _rescaled(target: ActivationScaler, source: ActivationScaler, d_in: int) -> LayerScaler:
    """From one scaling of a layer to another of the same layer, exactly."""
    own_map = layer_map_of(source)
    if whitening_of(target) is None and whitening_of(source) is None:
        factor = (source.scaling_factor or 1.0) / (target.scaling_factor or 1.0)
        return LayerScaler.of(
            ActivationScaler(scaling_factor=None if factor == 1 else factor), own_map
        )
    back_and_forth = scaling_map(target, d_in).reversed().then(scaling_map(source, d_in))
    return LayerScaler.of(ActivationScaler(), back_and_forth.then(own_map))


def _to_root_d_in(raw: PairMoments) -> ActivationScaler:
    mean_norm = float(raw.sum_norm_y) / raw.n_tokens
    return ActivationScaler(scaling_factor=len(raw.sum_y_D) ** 0.5 / mean_norm)


Direction = Callable[[Sequence[int], LayerGroup], int | None]
"""From the source's layers and a group to one of these layers; None where there is none."""


NEAREST = "nearest"
DIRECTIONS: Mapping[str, Direction] = {
    # Of two layers that are as near to the group's middle, the one above, whose SAE does better
    # there before any training (tutorials/transfer.md).
    NEAREST: lambda layers, group: min(layers, key=lambda n: (abs(n - group.middle), -n)),
    "forward": lambda layers, group: max((n for n in layers if n < group.first), default=None),
    "backward": lambda layers, group: min((n for n in layers if n > group.last), default=None),
}
