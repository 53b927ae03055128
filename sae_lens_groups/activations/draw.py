"""Which layers each token gives rows of, and where the rows go."""

from typing import Protocol

import numpy as np
import torch

from sae_lens_groups.layers import LayerGroup


def draw_generator(seed: int, group: LayerGroup) -> torch.Generator:
    """A generator that depends on the seed and on the group's layers alone."""
    mixed = np.random.SeedSequence([seed, group.first, group.last]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]) >> 1)


def draw_positions(
    n_layers: int, n_tokens: int, layers_per_token: int, generator: torch.Generator
) -> torch.Tensor:
    """Per token, the positions in the group of the layers drawn: (n_tokens, layers_per_token).

    Each layer is equally likely, and none is drawn twice before all were drawn. So a group of fewer
    layers than `layers_per_token` gives some of its rows more than once: every group has to give
    the same number of rows, as all are trained in step.
    """
    if layers_per_token == 1:
        return torch.randint(n_layers, (n_tokens, 1), generator=generator)
    n_times_all, n_more = divmod(layers_per_token, n_layers)
    shuffled = torch.rand(n_tokens, n_layers, generator=generator).argsort(dim=1)
    return torch.cat([shuffled.repeat(1, n_times_all), shuffled[:, :n_more]], dim=1)


class RowSink(Protocol):
    """What drawn rows are written to: a shuffle buffer, or a place on the way to disk."""

    def reserve(self, n_rows: int) -> torch.Tensor:
        """The slots (N,) that an LM batch's rows are to be written to, by every group."""
        ...

    def write(self, group: str, slot_N: torch.Tensor, rows_ND: torch.Tensor, position: int) -> None:
        """Puts rows of one of a group's layers into reserved slots."""
        ...

    def release(self, slot_N: torch.Tensor) -> None:
        """Gives back slots of the last reservation, whose tokens are left out after all."""
        ...
