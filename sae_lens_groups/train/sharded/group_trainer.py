"""Trains this rank's shards of the SAEs of its groups in step."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sae_lens import TrainingSAE
from typing_extensions import override

from sae_lens_groups.saved import TrainingCurves, TrainingPoint
from sae_lens_groups.train.fast_step import Scratch
from sae_lens_groups.train.group_trainer import GroupTrainer
from sae_lens_groups.train.ranks.shards import ShardRanks
from sae_lens_groups.train.sharded.trainer import ShardTrainer
from sae_lens_groups.train.sharded.whole import empty_whole, joined, own_part, take, whole_around
from sae_lens_groups.train.trainer import GroupSAETrainer


def new_group_trainer(d_sae: int, shards: ShardRanks | None, **settings: Any) -> GroupTrainer:
    """A `GroupTrainer` with these settings, or where there are shards of SAEs theirs."""
    if shards is None:
        return GroupTrainer(**settings)
    return ShardedGroupTrainer(d_sae=d_sae, shards=shards, **settings)


def change_saes(
    trainer: GroupTrainer, change: Callable[[Mapping[str, TrainingSAE[Any]]], None]
) -> None:
    """Changes the weights of a trainer's SAEs, by group name, before it trains."""
    if isinstance(trainer, ShardedGroupTrainer):
        trainer.change_wholes(change)
    else:
        change(trainer.saes)


class ShardedGroupTrainer(GroupTrainer):
    """A `GroupTrainer` of shards, whose checkpoints are of whole SAEs.

    Args:
        d_sae: features of each SAE.
        shards: the ranks that have the others.
    """

    def __init__(self, *args: Any, d_sae: int, shards: ShardRanks, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._d_sae, self._shards = d_sae, shards
        scratch = Scratch()
        self.group_trainers = {
            name: ShardTrainer(one.cfg, one.sae, one.group, scratch, d_sae, shards)
            for name, one in self.group_trainers.items()
        }
        self.trainers = dict(self.group_trainers)

    @override
    def whole_trainers(self) -> dict[str, GroupSAETrainer]:
        found = {
            name: joined(one, self._d_sae, self._shards)
            for name, one in self.group_trainers.items()
        }
        return {name: whole for name, whole in found.items() if whole is not None}

    @contextlib.contextmanager
    def _standing_for(self, wholes: Mapping[str, GroupSAETrainer]) -> Iterator[None]:
        """Lets SAELens's trainer write or read these in place of the shards."""
        own = self.group_trainers, self.trainers, self.saes
        self.group_trainers, self.trainers = dict(wholes), dict(wholes)
        self.saes = {name: one.sae for name, one in wholes.items()}
        try:
            yield
        finally:
            self.group_trainers, self.trainers, self.saes = own

    @override
    def save_checkpoint(self, checkpoint_name: str, wandb_aliases: list[str] | None = None) -> None:
        with self._standing_for(self._world.agreed(self.whole_trainers)):
            super().save_checkpoint(checkpoint_name, wandb_aliases)

    @override
    def load_checkpoint(self, path: str | Path) -> None:
        own = self.group_trainers
        wholes = {name: empty_whole(one, self._d_sae) for name, one in own.items()}
        with self._standing_for(wholes):
            super().load_checkpoint(path)
        for name, whole in wholes.items():
            take(own[name], whole, self._shards)
        if self._shards.index > 0:  # `points` adds up what shards have
            points = [point.model_copy(update={"l0": 0.0}) for point in self.curves.points]
            self.curves = TrainingCurves(self.cfg.total_training_samples, points)

    def change_wholes(self, change: Callable[[Mapping[str, TrainingSAE[Any]]], None]) -> None:
        """Every rank changes whole SAEs; of what it does to other features nothing is kept."""
        own = self.group_trainers
        wholes = {name: whole_around(one, self._d_sae, self._shards) for name, one in own.items()}
        change(wholes)
        for name, whole in wholes.items():
            own[name].sae.load_state_dict(own_part(whole, self._shards).state_dict())

    @override
    def points(self) -> tuple[TrainingPoint, ...]:
        """Those of the shards of a group as one: each has counted the latents of its own features."""
        found: dict[tuple[int, str], TrainingPoint] = {}
        for point in super().points():
            key = point.training_tokens, point.group
            l0 = point.l0 + (found[key].l0 if key in found else 0)
            found[key] = point.model_copy(update={"l0": l0})
        return tuple(found.values())

    @override
    def _evaluated(self) -> dict[str, Any]:
        """Of whole SAEs, for a while on the device of the first of their ranks."""
        wholes = self.whole_trainers()
        with self._standing_for(wholes):
            for one in wholes.values():
                one.sae.to(self.cfg.device)
            return super()._evaluated()
