"""Ways to split a model's layers into groups by rule, and how `layer_groups` names one."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from sae_lens_groups import files
from sae_lens_groups.errors import LayerGroupsError, UnknownNameError, quoted
from sae_lens_groups.layers import (
    LayerGroup,
    disjoint,
    layer_groups_text,
    parse_ranges,
    require_within,
)
from sae_lens_groups.plan.distances import LayerDistances

LastLayer = Literal["alone", "grouped"]
MANUAL = "manual"
_N_GROUPS = re.compile(r"\s*\d{1,18}\s*")


@dataclass(frozen=True, kw_only=True)
class PartitionRequest:
    """What a partition gets to work with."""

    n_layers: int
    """Layers to split, numbered from 0; the last of the model is not among them if it stays alone."""
    n_groups: int | None = None
    """Between 1 and `n_layers`; None for a partition that takes no number."""
    named: tuple[LayerGroup, ...] = ()
    """Groups that the user named."""
    distances: LayerDistances | None = None
    """Between all layers of the model; None for a partition that does not need them."""


@dataclass(frozen=True)
class Partition:
    """A way to split the layers of a model, and what it needs to do so."""

    split: Callable[[PartitionRequest], Sequence[LayerGroup]]
    """Returns disjoint groups. Raises `LayerGroupsError` for what it cannot do."""
    needs_distances: bool = False
    takes_n_groups: bool = True
    """Whether it makes as many groups as it is asked for, as `even:4` does."""
    decides_last_layer: bool = False
    """Whether it also gets the model's last layer, which otherwise stays alone.

    Group-SAE (arXiv 2410.21508, section 4) never groups the last layer.
    """


@dataclass(frozen=True)
class PartitionRule:
    """A parsed `layer_groups` such as `even:4`, or groups that the user named."""

    name: str
    n_groups: int | None = None
    named: tuple[LayerGroup, ...] = ()

    def __str__(self) -> str:
        return self.name if self.n_groups is None else f"{self.name}:{self.n_groups}"


@dataclass(frozen=True)
class PlanFile:
    """A parsed `layer_groups` that is the path of a plan."""

    path: Path


def parse_layer_groups(given: object) -> PartitionRule | PlanFile:
    """Reads the flag: explicit groups, also in a list, a rule, or the path of a plan.

    Raises:
        LayerGroupsError: it is none of `0-3,4-7,11`, `name`, `name:G` and `folder/plan.json`.
    """
    text = layer_groups_text(given)
    if not isinstance(text, str):
        raise LayerGroupsError(
            f"layer_groups is {quoted(given)}; it takes text such as 0-3,4-7,11 or even:4, or a list "
            "of groups such as [(0, 3), 4]"
        )
    text = text.strip()
    if not text:
        raise LayerGroupsError(
            "layer_groups is empty; give groups such as 0-3,4-7,11, or a rule such as auto, each "
            "or even:4, or the path of a plan.json"
        )
    if text.endswith(".json"):
        return PlanFile(files.expanded(text))
    if "/" in text or "\\" in text:  # a folder that `plan` wrote
        return PlanFile(files.expanded(text) / files.PLAN)
    if text[0].isalpha():
        name, colon, number = text.partition(":")
        return PartitionRule(name.strip(), _n_groups(number, text) if colon else None)
    return PartitionRule(MANUAL, named=parse_ranges(text))


def _n_groups(number: str, text: str) -> int:
    if not _N_GROUPS.fullmatch(number) or int(number) < 1:
        raise LayerGroupsError(
            f"layer_groups {quoted(text)}: the number of groups after the colon is "
            f"{quoted(number)}; it must be a whole number of at least 1, as in even:4"
        )
    return int(number)


def find_partition(name: str, known: Mapping[str, Partition]) -> Partition:
    """The partition of this name among those that plugins registered."""
    if name not in known:
        folder = files.expanded(name)
        near = get_close_matches(name, known, n=1)
        if files.exists(folder / files.PLAN):
            near = [str(folder / files.PLAN)]
        raise UnknownNameError(
            f"layer_groups {quoted(name)} is not known; known rules: {', '.join(sorted(known))}; "
            "or name the groups themselves, such as 0-3,4-7,11, or the path of a plan.json"
            + "".join(f"; did you mean {one}?" for one in near)
        )
    return known[name]


def require_usable(rule: PartitionRule, partition: Partition, n_split: int | None = None) -> None:
    """Refuses a number of groups that the partition does not take, or that the model has not.

    `n_split` are the layers to split; None where the model is not known yet.
    """
    if rule.n_groups is None:
        return
    if not partition.takes_n_groups:
        raise LayerGroupsError(
            f"layer_groups '{rule}' has a number, but {rule.name} takes none; write {rule.name}, "
            f"or even:{rule.n_groups}"
        )
    if n_split is not None and rule.n_groups > n_split:
        raise LayerGroupsError(
            f"layer_groups '{rule}' asks for {rule.n_groups} groups, and there are {n_split} layers "
            f"to group; ask for at most {n_split}, or use each"
        )


def n_layers_to_split(partition: Partition, n_layers: int, last_layer: LastLayer = "alone") -> int:
    """How many of a model's layers a partition gets: all, or all but the last."""
    return n_layers if last_layer == "grouped" or partition.decides_last_layer else n_layers - 1


def resolve(
    rule: PartitionRule,
    n_layers: int,
    known: Mapping[str, Partition],
    distances: LayerDistances | None = None,
    last_layer: LastLayer = "alone",
) -> tuple[LayerGroup, ...]:
    """The groups of a model with `n_layers` layers, its last layer included.

    Raises:
        LayerGroupsError: a group reaches beyond the model, or the rule does not fit it.
        UnknownNameError: no plugin registered the rule.
    """
    partition = find_partition(rule.name, known)
    n_split = n_layers_to_split(partition, n_layers, last_layer)
    require_usable(rule, partition, n_split)
    if partition.takes_n_groups and rule.n_groups is None:
        raise LayerGroupsError(
            f"layer_groups {rule.name!r} needs a number of groups, such as {rule.name}:4"
        )
    request = PartitionRequest(
        n_layers=n_split, n_groups=rule.n_groups, named=rule.named, distances=distances
    )
    alone = [LayerGroup(layer, layer) for layer in range(n_split, n_layers)]
    groups = disjoint([*partition.split(request), *alone])
    require_within(groups, n_layers)
    return groups
