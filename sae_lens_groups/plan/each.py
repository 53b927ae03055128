"""An SAE for every layer."""

from collections.abc import Sequence

from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan.rule import PartitionRequest


def each(request: PartitionRequest) -> Sequence[LayerGroup]:
    """`each`: one SAE per layer."""
    return [LayerGroup(layer, layer) for layer in range(request.n_layers)]
