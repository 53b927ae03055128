"""Which layers should share an SAE: measure distances, propose groups, show the plan."""

import importlib
from typing import TYPE_CHECKING, Any

from sae_lens_groups.plan.choose import plan_groups, require_plannable, rule_or_plan
from sae_lens_groups.plan.cost import SuiteCost
from sae_lens_groups.plan.distances import LayerDistances
from sae_lens_groups.plan.drawing import CHOSEN, COLOUR_MAP, LEVEL_CURVES, layer_step
from sae_lens_groups.plan.group_plan import GroupPlan, PlanEntries
from sae_lens_groups.plan.measure import all_layers_store, find_metric, measure_layer_distances
from sae_lens_groups.plan.metrics import DistanceMetric
from sae_lens_groups.plan.rule import (
    Partition,
    PartitionRequest,
    PartitionRule,
    PlanFile,
    parse_layer_groups,
    resolve,
)
from sae_lens_groups.plan.text import plan_text, stability_note

if TYPE_CHECKING:
    from sae_lens_groups.plan.folder import save_plan_folder
    from sae_lens_groups.plan.page import distances_figure, embedded

__all__ = [
    "CHOSEN",
    "COLOUR_MAP",
    "LEVEL_CURVES",
    "DistanceMetric",
    "GroupPlan",
    "LayerDistances",
    "Partition",
    "PartitionRequest",
    "PartitionRule",
    "PlanEntries",
    "PlanFile",
    "SuiteCost",
    "all_layers_store",
    "distances_figure",
    "embedded",
    "find_metric",
    "layer_step",
    "measure_layer_distances",
    "parse_layer_groups",
    "plan_groups",
    "plan_text",
    "require_plannable",
    "resolve",
    "rule_or_plan",
    "save_plan_folder",
    "stability_note",
]

# What draws brings plotly and matplotlib, which training never needs.
_DRAWING = {"distances_figure": "page", "embedded": "page", "save_plan_folder": "folder"}


def __getattr__(name: str) -> Any:
    if name not in _DRAWING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_DRAWING[name]}"), name)
