"""What the flags of a run name, found and checked before the model is loaded."""

from typing import Any

from sae_lens.config import HfDataset
from transformer_lens import HookedRootModule

from sae_lens_groups.activations.model import (
    n_layers_of,
)
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan.choose import plan_groups
from sae_lens_groups.plan.group_plan import GroupPlan
from sae_lens_groups.plan.measure import measure_layer_distances
from sae_lens_groups.saved.source import SAESource
from sae_lens_groups.train.checkpoints.checkpoint import (
    saved_plan,
)
from sae_lens_groups.train.cost import count_flops
from sae_lens_groups.transfer.keep import kept_groups
from sae_lens_groups.transfer.start import Transfer


def choose_groups(
    cfg: GroupSAERunnerConfig[Any], model: HookedRootModule, dataset: HfDataset
) -> tuple[tuple[LayerGroup, ...], GroupPlan | None]:
    """The groups to train, and the plan they come from; None where they are named or follow a rule.

    Measures distances only where `layer_groups` asks for it and no checkpoint has the plan. Leaves
    the dataset and all random generators as they are.
    """
    n_layers = n_layers_of(model, cfg.hook_template)
    plan = cfg.plan_from_file(n_layers)
    if plan is not None:
        return plan.groups, plan
    if not cfg.measures_distances:
        return cfg.resolve_groups(n_layers), None
    cfg.require_enough_layers(n_layers)
    resumed_from = cfg.resume_from_checkpoint
    plan = None if resumed_from is None else saved_plan(resumed_from, cfg)
    plan = plan or _measured_plan(cfg, model, dataset)
    return plan.groups, plan


def _measured_plan(
    cfg: GroupSAERunnerConfig[Any], model: HookedRootModule, dataset: HfDataset
) -> GroupPlan:
    flops = count_flops(cfg, model, dataset)  # first: what does not fit into memory shows at once
    distances = measure_layer_distances(cfg, override_model=model, override_dataset=dataset)
    return plan_groups(distances, cfg.layer_groups, amad_threshold=cfg.amad_threshold, flops=flops)


def planned_transfer(
    cfg: GroupSAERunnerConfig[Any],
    source: SAESource | None,
    groups: tuple[LayerGroup, ...] | None,
) -> Transfer | None:
    """Where each group starts from, checked; None without a source, or before groups are known."""
    if source is None or groups is None:
        return None
    if cfg.init_keep_layers:
        kept_groups(groups, source.manifest.groups)  # refuses a part of a group
    return Transfer(cfg, source, groups)
