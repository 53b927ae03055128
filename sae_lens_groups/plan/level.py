"""`PlanLevel`: one way to split the layers of a model, and what it gives up and saves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sae_lens_groups.layers import LayerGroup, format_layer_groups
from sae_lens_groups.plan.cost import SuiteCost
from sae_lens_groups.plan.distances import LayerDistances


@dataclass(frozen=True, kw_only=True)
class PlanLevel:
    """One way to split the layers, and what it means."""

    groups: tuple[LayerGroup, ...]
    """All groups, also the last layer's own where it stays alone."""
    n_groups: int
    """G, as in `auto:G`: the groups without the last layer's own where it stays alone."""
    amad: float
    """The mean over those G groups of the largest distance in each (Group-SAE, section 3)."""
    weighted_amad: float
    """The same with each group weighted by its number of layers."""
    max_diameter: float
    """The largest distance between two layers of one group."""
    cost: float | None
    """This suite's fraction of what an SAE per layer costs from one pass; None where it is unknown."""

    @classmethod
    def of(
        cls,
        groups: Sequence[LayerGroup],
        distances: LayerDistances,
        flops: SuiteCost | None,
        *,
        last_alone: bool,
    ) -> "PlanLevel":
        """The level of these groups; `last_alone` leaves a lone last layer out of G and AMAD."""
        alone = LayerGroup(distances.n_layers - 1, distances.n_layers - 1)
        counted = [group for group in groups if not (last_alone and group == alone)]
        diameters = [distances.diameter(group) for group in counted]
        sizes = [len(group) for group in counted]
        weighted = sum(size * diameter for size, diameter in zip(sizes, diameters))
        return cls(
            groups=tuple(groups),
            n_groups=len(counted),
            amad=sum(diameters) / len(counted) if counted else 0.0,
            weighted_amad=weighted / sum(sizes) if counted else 0.0,
            max_diameter=max(diameters, default=0.0),
            cost=None if flops is None else flops.relative(len(groups)),
        )

    def to_dict(self) -> dict[str, Any]:
        """An entry of `hierarchy` in `plan.json`."""
        return {
            "n_groups": self.n_groups,
            "groups": format_layer_groups(self.groups),
            "amad": self.amad,
            "weighted_amad": self.weighted_amad,
            "max_diameter": self.max_diameter,
            "cost": self.cost,
        }
