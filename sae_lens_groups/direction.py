"""Which layer of the source a group starts from."""

from collections.abc import Callable, Mapping, Sequence

from sae_lens_groups.layers import LayerGroup

Direction = Callable[[Sequence[int], LayerGroup], int | None]
"""From the source's layers and a group to one of these layers; None where there is none."""


def forward(layers: Sequence[int], group: LayerGroup) -> int | None:
    """The next layer below the group."""
    return max((layer for layer in layers if layer < group.first), default=None)


def backward(layers: Sequence[int], group: LayerGroup) -> int | None:
    """The next layer above the group."""
    return min((layer for layer in layers if layer > group.last), default=None)


def nearest(layers: Sequence[int], group: LayerGroup) -> int | None:
    """The layer nearest to the group's middle: the middle layer itself where it is there.

    Of two that are as near, the one above, whose SAE does better there before any training
    (tutorials/transfer.md).
    """
    return min(layers, key=lambda layer: (abs(layer - group.middle), -layer))


DIRECTIONS: Mapping[str, Direction] = {
    "nearest": nearest,
    "forward": forward,
    "backward": backward,
}
