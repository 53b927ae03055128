"""The groups that a user names."""

from collections.abc import Sequence

from sae_lens_groups.errors import LayerGroupsError
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan.rule import PartitionRequest


def manual(request: PartitionRequest) -> Sequence[LayerGroup]:
    """`0-3,4-7,11`: the groups that the user named, and no others."""
    if not request.named:
        raise LayerGroupsError(
            "layer_groups 'manual' names no groups; write them out, such as 0-3,4-7,11"
        )
    return request.named
