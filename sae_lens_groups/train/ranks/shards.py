"""The ranks that have a part of the same SAEs' features each."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from sae_lens_groups.errors import in_one_line
from sae_lens_groups.train.ranks.status import LostError
from sae_lens_groups.train.ranks.world import Ranks, World


class ShardRanks:
    """All shards of the SAEs that are trained here, one for each of a set of ranks.

    Args:
        index: which of them this rank has.
        size: how many they are.
        group: through which their ranks talk.
    """

    def __init__(self, index: int, size: int, group: Any) -> None:
        self.index, self.size, self._group = index, size, group

    def bounds(self, d_sae: int, index: int | None = None) -> tuple[int, int]:
        """The first feature of a shard, or of the own, and the one behind its last."""
        index = self.index if index is None else index
        return index * d_sae // self.size, (index + 1) * d_sae // self.size

    def gathered(self, own: torch.Tensor) -> torch.Tensor:
        """Those of all shards, which have one shape, (size, *shape)."""
        everyones = own.new_empty(self.size, *own.shape)
        self._talk(dist.all_gather, list(everyones.unbind()), own.contiguous())
        return everyones

    def summed(self, own: torch.Tensor) -> torch.Tensor:
        """The sum over all shards."""
        return self._reduced(own, dist.ReduceOp.SUM)

    def least(self, own: torch.Tensor) -> torch.Tensor:
        """The least of all shards."""
        return self._reduced(own, dist.ReduceOp.MIN)

    def _reduced(self, own: torch.Tensor, op: Any) -> torch.Tensor:
        reduced = own.clone()
        self._talk(dist.all_reduce, reduced, op=op)
        return reduced

    def joined(self, own: torch.Tensor, dim: int, d_sae: int) -> torch.Tensor | None:
        """On the first of these ranks the whole of a tensor, in the host's memory; else None.

        Args:
            own: the own features' part of it.
            dim: that of the features.
            d_sae: how many all shards have.
        """
        own = own.detach().cpu().movedim(dim, 0).contiguous()
        if self.index > 0:
            self._talk(dist.send, own, group_dst=0)
            return None
        whole = own.new_empty(d_sae, *own.shape[1:])
        whole[: len(own)] = own
        for index in range(1, self.size):
            part = whole[slice(*self.bounds(d_sae, index))]
            self._talk(dist.recv, part, group_src=index)
        return whole.movedim(0, dim)

    def leave(self) -> None:
        """Lets the others know that no more comes from here."""
        dist.destroy_process_group(self._group)
        self._group = None

    def _talk(self, collective: Callable[..., Any], *args: Any, **settings: Any) -> None:
        try:
            if self._group is None:
                raise RuntimeError("it was left")
            collective(*args, group=self._group, **settings)
        except RuntimeError as error:
            raise LostError(
                f"another rank of the same SAE has ended or does not answer: {in_one_line(error)}"
            ) from error


def shards_of(world: World, ranks_per_group: int) -> ShardRanks | None:
    """The ranks that train the same groups as this one; None where that is this one alone."""
    if not isinstance(world, Ranks) or ranks_per_group == 1:
        return None
    mesh = init_device_mesh(
        world.device_type,
        (world.size // ranks_per_group, ranks_per_group),
        mesh_dim_names=("owner", "shard"),
    )
    return ShardRanks(mesh.get_local_rank("shard"), ranks_per_group, mesh.get_group("shard"))
