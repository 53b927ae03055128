"""Makes a suite of plain per-layer SAEs from trained groups."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.training.activation_scaler import ActivationScaler
from typing_extensions import override

from sae_lens_groups.activations import ActivationNorms
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.layers import LayerGroup, in_words
from sae_lens_groups.saved import (
    Figures,
    SAESource,
    SuiteManifest,
    TrainingPoint,
    figures_of_training,
    group_metadata,
)
from sae_lens_groups.scaling import layer_sae
from sae_lens_groups.suite import SAESuite
from sae_lens_groups.train.trainer import GroupSAETrainer


@dataclass(frozen=True)
class _TrainedLayer:
    """What one layer's SAE is made of; keeps the group's SAE, not its trainer's buffers."""

    group: LayerGroup
    group_sae: TrainingSAE[Any]
    scaler: ActivationScaler
    log_sparsity_F: torch.Tensor
    results: dict[str, Any]


def export_suite(
    cfg: GroupSAERunnerConfig[Any],
    manifest: SuiteManifest,
    trainers: Sequence[GroupSAETrainer],
    norms: ActivationNorms,
    begins_with_bos: bool,
    training_curves: tuple[TrainingPoint, ...],
) -> SAESuite:
    """The suite of these groups; a layer's SAE is built when it is asked for.

    It has the SAEs of those with a trainer, where other processes train the rest.
    """
    layers = {
        layer: part
        for one in trainers
        for layer, part in _trained_layers(one, norms, begins_with_bos).items()
    }
    runner_cfg = {**cfg.to_dict(), "resume_from_checkpoint": None}  # as of a run that went through
    return SAESuite(_TrainedGroups(manifest, layers, runner_cfg, training_curves))


def scaling_factors_of(trainers: Iterable[GroupSAETrainer]) -> dict[int, float | None]:
    """By what each layer's activations are multiplied."""
    return {
        layer: scaler.scaling_factor
        for one in trainers
        for layer, scaler in one.scaling.of_layer.items()
    }


def figures_of_groups(
    trainers: Iterable[GroupSAETrainer], points: Iterable[TrainingPoint]
) -> dict[str, Figures]:
    """What tells whether something is wrong with trained groups, by their names."""
    points, figures = list(points), {}
    for one in trainers:
        own = [point for point in points if point.group == one.group.name]
        silent_F: torch.Tensor = one.n_forward_passes_since_fired  # type: ignore[assignment]
        is_dead_F = silent_F > one.cfg.dead_feature_window
        if own:
            dead_share = is_dead_F.float().mean().item()
            where = in_words(one.group.layers)
            figures[one.group.name] = figures_of_training(where, own, dead_share)
    return figures


class _TrainedGroups(SAESource):
    """Trained groups on the device that they were trained on; a layer's SAE is made when asked for."""

    has_groups = has_scalers = True

    def __init__(
        self,
        manifest: SuiteManifest,
        layers: Mapping[int, _TrainedLayer],
        runner_cfg: Mapping[str, Any],
        training_curves: tuple[TrainingPoint, ...],
    ) -> None:
        self.manifest = manifest
        self._layers = layers
        self._runner_cfg = runner_cfg
        self._training_curves = training_curves

    @property
    @override
    def runner_cfg(self) -> Mapping[str, Any]:
        return self._runner_cfg

    @property
    @override
    def training_curves(self) -> tuple[TrainingPoint, ...]:
        return self._training_curves

    @override
    def layer(self, layer: int, device: str = "cpu") -> SAE[Any]:
        part, template = self._layers[layer], self.manifest.hook_template
        ours = {**group_metadata(part.group), "layer": layer}
        ours["scaling_factor"] = part.scaler.scaling_factor
        if template.in_transformer_lens not in (None, template):
            # Its bridge attaches an SAE only where hook_name is this.
            ours["transformer_lens_hook_name"] = template.in_transformer_lens.hook_name(layer)
        metadata = {"hook_name": template.hook_name(layer), "sae_lens_groups": ours}
        return layer_sae(part.group_sae, part.scaler, metadata | part.results)

    @override
    def group(self, group: LayerGroup, device: str = "cpu") -> SAE[Any]:
        return self._layers[group.first].group_sae

    @override
    def scaler(self, layer: int) -> ActivationScaler:
        return self._layers[layer].scaler

    @override
    def log_sparsity(self, layer: int) -> torch.Tensor:
        return self._layers[layer].log_sparsity_F


def _trained_layers(
    trainer: GroupSAETrainer, norms: ActivationNorms, begins_with_bos: bool
) -> dict[int, _TrainedLayer]:
    statistics = trainer.statistics
    n_dead_L = statistics.n_dead_L(trainer.cfg.dead_feature_window)
    l0_L = statistics.frequency_LF.sum(dim=1).tolist()
    return {
        layer: _TrainedLayer(
            trainer.group,
            trainer.sae,
            scaler,
            statistics.log_sparsity_LF[position].clone(),
            {
                "l0": l0_L[position],
                "num_dead_features": n_dead_L[position],
                "prompts_begin_with_bos": begins_with_bos,
                **norms.recorded(layer),
            },
        )
        for position, (layer, scaler) in enumerate(trainer.scaling.of_layer.items())
    }
