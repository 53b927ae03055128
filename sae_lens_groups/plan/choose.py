"""Chooses groups from measured distances."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sae_lens_groups.errors import ConfigError, LayerGroupsError, PlanError
from sae_lens_groups.field_values import require_threshold
from sae_lens_groups.layers import format_layer_groups, require_within
from sae_lens_groups.plan.cost import SuiteCost
from sae_lens_groups.plan.distances import LayerDistances
from sae_lens_groups.plan.group_plan import GroupPlan
from sae_lens_groups.plan.level import PlanLevel
from sae_lens_groups.plan.rule import (
    LastLayer,
    PartitionRule,
    PlanFile,
    find_partition,
    n_layers_to_split,
    parse_layer_groups,
    require_usable,
    resolve,
)
from sae_lens_groups.plugins import partitions

_AUTO = "auto"
# What `auto` stands for, and what groups that the user named are shown against.
DEFAULT_PARTITION = "linkage"
_N_RESAMPLINGS = 100


def plan_groups(
    distances: LayerDistances,
    layer_groups: str | PartitionRule = _AUTO,
    *,
    amad_threshold: float = 0.2,
    max_cost: float | None = None,
    last_layer: LastLayer = "alone",
    flops: SuiteCost | None = None,
    seconds: SuiteCost | None = None,
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
        max_cost: above 0, at most 1: the fraction of what an SAE per layer costs from one pass. Needs
            `flops`.
        last_layer: `alone` keeps the last layer out of every group, as in the paper.
        flops: what suites cost, from `sae_lens_groups.train.count_flops`.
        seconds: the same in seconds, from `time_steps` there; kept in the plan.

    Raises:
        LayerGroupsError: `layer_groups` does not fit the model.
        UnknownNameError: no plugin registered the partition.
        PlanError: no number of groups is cheap enough.
        ConfigError: a setting that is out of range, or two that contradict each other.
    """
    n_layers = distances.n_layers
    rule = require_plannable(
        layer_groups,
        amad_threshold=amad_threshold,
        max_cost=max_cost,
        last_layer=last_layer,
        n_layers=n_layers,
    )
    known = partitions()
    takes_n_groups = known[rule.name].takes_n_groups
    base = rule.name if takes_n_groups and rule.name != _AUTO else DEFAULT_PARTITION
    n_split = n_layers_to_split(known[base], n_layers, last_layer)

    def level(rule: PartitionRule) -> PlanLevel:
        groups = resolve(rule, n_layers, known, distances, last_layer)
        return PlanLevel.of(groups, distances, flops, last_alone=n_split < n_layers)

    hierarchy = tuple(level(PartitionRule(base, n + 1)) for n in range(n_split))
    if takes_n_groups:
        chosen, chosen_by = _choice(rule, hierarchy, amad_threshold, max_cost)
    else:
        chosen, chosen_by = level(rule), "as named" if rule.named else str(rule)
    is_measured = takes_n_groups and known[base].needs_distances
    return GroupPlan(
        distances=distances,
        partition=base,
        last_alone=n_split < n_layers,
        hierarchy=hierarchy,
        chosen=chosen,
        chosen_by=chosen_by,
        stability=_stability(chosen, base, distances, last_layer) if is_measured else None,
        flops=flops,
        seconds=seconds,
    )


def _stability(
    chosen: PlanLevel, base: str, distances: LayerDistances, last_layer: LastLayer
) -> float:
    """The share of 100 resampled matrices that are split into the same groups.

    Every entry is drawn from a normal distribution with its standard error. A low share means that
    another sample of tokens would have given other groups: a near-tie, or too few tokens.
    """
    again, known = PartitionRule(base, chosen.n_groups), partitions()
    generator = np.random.default_rng(0)
    resampled = (_resampled(distances, generator) for _ in range(_N_RESAMPLINGS))
    split = (resolve(again, distances.n_layers, known, drawn, last_layer) for drawn in resampled)
    return sum(groups == chosen.groups for groups in split) / _N_RESAMPLINGS


def _resampled(distances: LayerDistances, generator: np.random.Generator) -> LayerDistances:
    noise = np.triu(generator.normal(size=distances.matrix.shape), 1)
    matrix = distances.matrix + (noise + noise.T) * distances.standard_errors
    return replace(distances, matrix=matrix.clip(min=0))


def rule_or_plan(layer_groups: str, given: object) -> PartitionRule | GroupPlan:
    """What the `layer_groups` of a run means, of which `given` is what a user gave in its place.

    Raises:
        LayerGroupsError, UnknownNameError: it is no rule that is known, and no groups.
        PlanError: it names a plan that cannot be read.
    """
    if isinstance(given, GroupPlan) and format_layer_groups(given.groups) == layer_groups:
        return given
    rule = parse_layer_groups(layer_groups)
    if isinstance(rule, PlanFile):
        return GroupPlan.load(rule.path)
    require_usable(rule, find_partition(rule.name, partitions()))
    return rule


def require_plannable(
    layer_groups: str | PartitionRule,
    *,
    amad_threshold: float = 0.2,
    max_cost: float | None = None,
    last_layer: LastLayer = "alone",
    n_layers: int | None = None,
) -> PartitionRule:
    """The rule that `layer_groups` means, checked as far as it can be before anything is measured.

    Args: as for `plan_groups`; `n_layers` is None where the model is not known yet.
    """
    require_threshold(amad_threshold)
    if last_layer not in ("alone", "grouped"):
        raise ConfigError(f"last_layer is {last_layer!r}; it is alone or grouped")
    if max_cost is not None and not 0 < max_cost <= 1:
        raise ConfigError(
            f"max_cost is {max_cost}; it is the fraction of what an SAE per layer costs, so it lies "
            "above 0 and is at most 1"
        )
    read = isinstance(layer_groups, PartitionRule)
    rule = layer_groups if read else parse_layer_groups(layer_groups)
    if isinstance(rule, PlanFile):
        raise LayerGroupsError(
            f"layer_groups {layer_groups!r} is a finished plan; train with it, or name a rule such "
            "as auto to make another"
        )
    partition = find_partition(rule.name, partitions())
    if max_cost is not None and (rule.n_groups is not None or not partition.takes_n_groups):
        raise ConfigError(
            f"layer_groups {layer_groups!r} and max_cost={max_cost} both decide on the number of "
            "groups; leave one of them out"
        )
    if n_layers is not None and n_layers < 2:
        raise LayerGroupsError(
            f"layer_groups '{rule}' needs a model of at least 2 layers, and this one has "
            f"{n_layers}; write each"
        )
    if n_layers is not None:
        require_within(rule.named, n_layers)
    n_split = None if n_layers is None else n_layers_to_split(partition, n_layers, last_layer)
    require_usable(rule, partition, n_split)
    return rule


def _choice(
    rule: PartitionRule,
    hierarchy: Sequence[PlanLevel],
    amad_threshold: float,
    max_cost: float | None,
) -> tuple[PlanLevel, str]:
    """The level to take, and why."""
    if rule.n_groups is not None:
        return hierarchy[rule.n_groups - 1], f"{rule.n_groups} groups asked for"
    if max_cost is not None:
        return _affordable(hierarchy, max_cost), f"cost <= {max_cost:g}"
    below = next(level for level in hierarchy if level.amad < amad_threshold)
    return below, f"AMAD < {amad_threshold:g}"


def _affordable(hierarchy: Sequence[PlanLevel], max_cost: float) -> PlanLevel:
    cheapest = hierarchy[0]
    if cheapest.cost is None:
        raise ConfigError(
            "max_cost needs to know what a suite costs; pass flops=count_flops(cfg, model, dataset) "
            "from sae_lens_groups.train"
        )
    affordable = [level for level in hierarchy if level.cost is not None and level.cost <= max_cost]
    if not affordable:
        raise PlanError(
            f"max_cost is {max_cost:g}, and the cheapest suite, {len(cheapest.groups)} SAEs, costs "
            f"{cheapest.cost:.3f} of an SAE per layer; raise max_cost, or use a smaller d_sae"
        )
    return affordable[-1]
