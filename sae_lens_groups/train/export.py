"""Makes a suite of plain per-layer SAEs from trained groups."""

import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan.group_plan import GroupPlan
from sae_lens_groups.saved.manifest import SuiteManifest, group_metadata
from sae_lens_groups.saved.training_curves import TrainingPoint
from sae_lens_groups.saved.transfer_report import TransferReport
from sae_lens_groups.scaling.fold import layer_sae
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
    trainers: Iterable[GroupSAETrainer],
    plan: GroupPlan | None = None,
    transfer: TransferReport | None = None,
    dataset_rows_read: int | None = None,
    training_curves: tuple[TrainingPoint, ...] = (),
    sae_step_flops: float | None = None,
) -> SAESuite:
    """The suite of these trained groups; a layer's SAE is built when it is asked for."""
    layers = {layer: part for trainer in trainers for layer, part in _trained_layers(trainer)}
    group_saes = {part.group: part.group_sae for part in layers.values()}
    manifest = SuiteManifest(
        groups=tuple(group_saes),
        hook_template=cfg.hook_template,
        scaling_factors={layer: part.scaler.scaling_factor for layer, part in layers.items()},
        model_name=cfg.model_name,
        versions=_versions(),
        layer_alignment=cfg.layer_alignment,
        plan=plan,
        transfer=transfer,
        dataset_rows_read=dataset_rows_read,
        sae_step_flops=sae_step_flops,
    )

    def build_layer(layer: int) -> SAE[Any]:
        part = layers[layer]
        metadata = {
            "hook_name": cfg.hook_template.hook_name(layer),
            "sae_lens_groups": {
                **group_metadata(part.group),
                "layer": layer,
                "scaling_factor": part.scaler.scaling_factor,
            },
        }
        return layer_sae(part.group_sae, part.scaler, metadata | part.results)

    return SAESuite(
        manifest,
        build_layer=build_layer,
        build_group=group_saes.__getitem__,
        build_scaler=lambda layer: layers[layer].scaler,
        build_sparsity=lambda layer: layers[layer].log_sparsity_F,
        runner_cfg=cfg.to_dict(),
        training_curves=training_curves,
    )


def _trained_layers(trainer: GroupSAETrainer) -> list[tuple[int, _TrainedLayer]]:
    statistics = trainer.statistics
    n_dead_L = statistics.n_dead_L(trainer.cfg.dead_feature_window)
    l0_L = statistics.frequency_LF.sum(dim=1).tolist()
    return [
        (
            layer,
            _TrainedLayer(
                trainer.group,
                trainer.sae,
                trainer.scaling.scalers[position],
                statistics.log_sparsity_LF[position].clone(),
                {"l0": l0_L[position], "num_dead_features": n_dead_L[position]},
            ),
        )
        for position, layer in enumerate(trainer.group.layers)
    ]


def _versions() -> dict[str, str]:
    packages = ("sae-lens-groups", "sae-lens", "transformer-lens", "torch")
    return {name: importlib.metadata.version(name) for name in packages}
