"""What drawings of layers and groups have in common: colours, labels, and the curves of a plan."""

import numpy as np

from sae_lens_groups.plan.group_plan import GroupPlan

CHOSEN = "#d1495b"
LEVEL_CURVES = ("#1f6f8b", "#66a182", "#8d6a9f", "#444444")
COLOUR_MAP = "cividis"


def layer_step(n: int) -> int:
    """Layers between two labels of an axis, so that about a dozen fit."""
    return next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if n / step <= 16)


def curves_of(plan: GroupPlan) -> dict[str, list[float]]:
    """The curves over the hierarchy by name; cost is left out where it is unknown."""
    curves = {
        "AMAD": [level.amad for level in plan.hierarchy],
        "weighted AMAD": [level.weighted_amad for level in plan.hierarchy],
        "largest distance": [level.max_diameter for level in plan.hierarchy],
    }
    costs = [level.cost for level in plan.hierarchy if level.cost is not None]
    return curves | {"cost": costs} if costs else curves


def level_diameters(plan: GroupPlan) -> np.ndarray:
    """(levels, layers): the diameter of the group that holds each layer."""
    rows = np.zeros((len(plan.hierarchy), plan.distances.n_layers))
    for row, level in zip(rows, plan.hierarchy):
        for group in level.groups:
            row[group.first : group.last + 1] = plan.distances.diameter(group)
    return rows


def group_borders(plan: GroupPlan) -> list[list[tuple[float, float]]]:
    """A line from (layer, G) to (layer, G) between any two groups of a level."""
    return [
        [(group.last + 0.5, level.n_groups - 0.5), (group.last + 0.5, level.n_groups + 0.5)]
        for level in plan.hierarchy
        for group in level.groups[:-1]
    ]
