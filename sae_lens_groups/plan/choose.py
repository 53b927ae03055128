"""Chooses groups from measured distances."""

from collections.abc import Sequence

from sae_lens_groups.errors import ConfigError, LayerGroupsError, PlanError
from sae_lens_groups.partitions import (
    LastLayer,
    PartitionRule,
    PlanFile,
    find_partition,
    n_layers_to_split,
    parse_layer_groups,
    require_usable,
    resolve,
)
from sae_lens_groups.plan.cost import SuiteCost
from sae_lens_groups.plan.distances import LayerDistances
from sae_lens_groups.plan.group_plan import GroupPlan
from sae_lens_groups.plan.level import PlanLevel
from sae_lens_groups.plugins import partitions

# What `auto` stands for, and what groups that the user named are shown against.
DEFAULT_PARTITION = "linkage"


def plan_groups(
    distances: LayerDistances,
    layer_groups: str = "auto",
    *,
    amad_threshold: float = 0.2,
    max_cost: float | None = None,
    last_layer: LastLayer = "alone",
    cost: SuiteCost | None = None,
    time: SuiteCost | None = None,
) -> GroupPlan:
    """The groups that these distances suggest, with every other number of groups beside them.

    Where `layer_groups` names no number, the smallest number of groups is chosen whose AMAD is
    below `amad_threshold` (Group-SAE, arXiv 2410.21508, section 3), or the largest that `max_cost`
    allows.

    Args:
        distances: from `measure_layer_distances`.
        layer_groups: as in training: `auto` or `linkage`, `optimal`, `even`, each also with a number
            as in `auto:4`; or groups such as `0-3,4-7,11`.
        amad_threshold: above 0, at most 0.5.
        max_cost: above 0, at most 1: the part of what an SAE per layer costs from one pass. Needs
            `cost`.
        last_layer: `alone` keeps the last layer out of every group, as in the paper.
        cost: what a suite costs in FLOPs.
        time: what it costs in seconds; kept in the plan.

    Raises:
        LayerGroupsError: `layer_groups` does not fit the model.
        UnknownNameError: no plugin registered the partition.
        PlanError: no number of groups is cheap enough.
        ConfigError: a threshold or cost that is out of range.
    """
    require_threshold(amad_threshold)
    require_cost(max_cost)
    rule = parse_layer_groups(layer_groups)
    if isinstance(rule, PlanFile):
        raise LayerGroupsError(
            f"layer_groups {layer_groups!r} is a finished plan; train with it, or read it with "
            "GroupPlan.load"
        )
    partition = find_partition(rule.name, partitions())
    n_split = n_layers_to_split(partition, distances.n_layers, last_layer)
    require_usable(rule, partition, n_split)

    def level(rule: PartitionRule) -> PlanLevel:
        groups = resolve(rule, distances.n_layers, partitions(), distances, last_layer)
        return PlanLevel.of(groups, distances, cost, last_alone=last_layer == "alone")

    makes_any_number = partition.takes_n_groups and rule.name != "auto"
    name = rule.name if makes_any_number else DEFAULT_PARTITION
    n_in_hierarchy = distances.n_layers - (last_layer == "alone")
    hierarchy = tuple(level(PartitionRule(name, n + 1)) for n in range(n_in_hierarchy))
    if not partition.takes_n_groups:
        chosen, why = level(rule), "as named" if rule.named else str(rule)
    elif rule.n_groups is not None:
        if max_cost is not None:
            raise ConfigError(
                f"layer_groups {layer_groups!r} and max_cost={max_cost} both decide on the number "
                "of groups; leave one of them out"
            )
        chosen, why = hierarchy[rule.n_groups - 1], f"{rule.n_groups} groups asked for"
    elif max_cost is not None:
        chosen, why = _affordable(hierarchy, max_cost), f"cost <= {max_cost:g}"
    else:
        chosen = next(level for level in hierarchy if level.amad < amad_threshold)
        why = f"AMAD < {amad_threshold:g}"
    return GroupPlan(
        distances=distances,
        partition=name,
        last_alone=last_layer == "alone",
        hierarchy=hierarchy,
        chosen=chosen,
        rule=why,
        cost=cost,
        time=time,
    )


def require_threshold(amad_threshold: float) -> None:
    """Refuses a threshold that no plan can mean.

    Raises:
        ConfigError: it is not above 0 and at most 0.5.
    """
    if not 0 < amad_threshold <= 0.5:
        raise ConfigError(
            f"amad_threshold is {amad_threshold}; it lies above 0 (one SAE per layer) and is at "
            "most 0.5 (layers at a right angle); the paper's is 0.2"
        )


def require_cost(max_cost: float | None) -> None:
    """Refuses a limit that is no part of a cost.

    Raises:
        ConfigError: it is not above 0 and at most 1.
    """
    if max_cost is not None and not 0 < max_cost <= 1:
        raise ConfigError(
            f"max_cost is {max_cost}; it is the part of what an SAE per layer costs, so it lies "
            "above 0 and is at most 1"
        )


def _affordable(hierarchy: Sequence[PlanLevel], max_cost: float) -> PlanLevel:
    if hierarchy[0].cost is None:
        raise ConfigError("max_cost needs to know what a suite costs; pass cost as well")
    affordable = [level for level in hierarchy if level.cost is not None and level.cost <= max_cost]
    if not affordable:
        cheapest = hierarchy[0]
        raise PlanError(
            f"max_cost is {max_cost:g}, and the cheapest suite, {len(cheapest.groups)} SAEs, costs "
            f"{cheapest.cost:.3f} of an SAE per layer; raise max_cost, or use a smaller d_sae"
        )
    return affordable[-1]
