"""Ways to split a model's layers into groups by rule, and how `layer_groups` names one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sae_lens_groups.errors import LayerGroupsError, UnknownNameError
from sae_lens_groups.layers import LayerGroup, disjoint, parse_ranges


@dataclass(frozen=True, kw_only=True)
class PartitionRequest:
    """What a partition gets to work with."""

    n_layers: int
    """Layers of the model that have the hook, numbered from 0."""
    n_groups: int | None
    """The number after the colon in `even:4`; None where there was none."""


Partition = Callable[[PartitionRequest], Sequence[LayerGroup]]
"""Splits the layers of a model: takes a `PartitionRequest`, returns disjoint groups."""


@dataclass(frozen=True)
class PartitionRule:
    """A parsed `layer_groups` such as `even:4`: the name of a partition and its number."""

    name: str
    n_groups: int | None


def parse_layer_groups(text: str) -> tuple[LayerGroup, ...] | PartitionRule:
    """Reads the flag: explicit groups, or a rule that needs the model's number of layers.

    Raises:
        LayerGroupsError: the text is neither `0-3,4-7,11` nor `name` nor `name:G`.
    """
    text = text.strip()
    if not text:
        raise LayerGroupsError(
            "layer_groups is empty; give groups such as 0-3,4-7,11, or a rule such as each or even:4"
        )
    if text[0].isalpha():
        name, colon, number = text.partition(":")
        return PartitionRule(name.strip(), _n_groups(number, text) if colon else None)
    return parse_ranges(text)


def _n_groups(number: str, text: str) -> int:
    if not number.strip().isdecimal() or int(number) < 1:
        raise LayerGroupsError(
            f"layer_groups {text!r}: the number of groups after the colon is {number!r}; "
            "it must be a whole number of at least 1, as in even:4"
        )
    return int(number)


def find_partition(name: str, known: Mapping[str, Partition]) -> Partition:
    """The partition of this name among those that plugins registered."""
    if name not in known:
        raise UnknownNameError(
            f"layer_groups {name!r} is not known; known rules: {', '.join(sorted(known))}; "
            "or name the groups themselves, such as 0-3,4-7,11"
        )
    return known[name]


def resolve(
    parsed: tuple[LayerGroup, ...] | PartitionRule, n_layers: int, known: Mapping[str, Partition]
) -> tuple[LayerGroup, ...]:
    """The groups of a model with `n_layers` layers.

    Raises:
        LayerGroupsError: a group reaches beyond the model, or the rule does not fit it.
        UnknownNameError: no plugin registered the rule.
    """
    if isinstance(parsed, PartitionRule):
        partition = find_partition(parsed.name, known)
        groups = partition(PartitionRequest(n_layers=n_layers, n_groups=parsed.n_groups))
    else:
        groups = parsed
    groups = disjoint(groups)
    beyond = [group for group in groups if group.last >= n_layers]
    if beyond:
        raise LayerGroupsError(
            f"group {beyond[0]} reaches beyond the model, whose {n_layers} layers "
            f"are 0-{n_layers - 1}"
        )
    return groups


def each(request: PartitionRequest) -> Sequence[LayerGroup]:
    """`each`: one SAE per layer."""
    if request.n_groups is not None:
        raise LayerGroupsError(
            f"layer_groups 'each:{request.n_groups}' has a number, but each always means one SAE "
            f"per layer; write each, or even:{request.n_groups}"
        )
    return [LayerGroup(layer, layer) for layer in range(request.n_layers)]


def even(request: PartitionRequest) -> Sequence[LayerGroup]:
    """`even:G`: all layers but the last in G near-equal runs, plus the last alone.

    The last layer is never grouped (Group-SAE, arXiv 2410.21508, section 4). Where the runs cannot
    be equal, the earlier ones are one layer longer.
    """
    n_grouped = request.n_layers - 1
    if request.n_groups is None:
        raise LayerGroupsError("layer_groups 'even' needs a number of groups, such as even:4")
    if request.n_groups > n_grouped:
        raise LayerGroupsError(
            f"layer_groups 'even:{request.n_groups}' asks for {request.n_groups} groups of the "
            f"{n_grouped} layers below the last; ask for at most {n_grouped}, or use each"
        )
    shortest, n_longer = divmod(n_grouped, request.n_groups)
    groups: list[LayerGroup] = []
    first = 0
    for index in range(request.n_groups):
        last = first + shortest - (0 if index < n_longer else 1)
        groups.append(LayerGroup(first, last))
        first = last + 1
    return [*groups, LayerGroup(request.n_layers - 1, request.n_layers - 1)]
