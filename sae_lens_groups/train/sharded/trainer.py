"""Trains one shard of a group's SAE."""

from typing import Any

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainingSAE, TrainStepOutput
from typing_extensions import override

from sae_lens_groups.activations import GroupBatch
from sae_lens_groups.errors import GroupSAEError
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.train.fast_step import ALWAYS, Scratch, new_sharded_step
from sae_lens_groups.train.ranks.shards import ShardRanks
from sae_lens_groups.train.trainer import GroupSAETrainer

# Entries of a step's log that count the features of one shard.
_ADDED = ("metrics/l0", "sparsity/dead_features")
_AVERAGED = "sparsity/mean_passes_since_fired"


class ShardTrainer(GroupSAETrainer):
    """A group's trainer whose SAE has a part of the features; `d_sae` says how many there are."""

    def __init__(
        self,
        cfg: SAETrainerConfig,
        sae: TrainingSAE[Any],
        group: LayerGroup,
        scratch: Scratch,
        d_sae: int,
        shards: ShardRanks,
    ) -> None:
        super().__init__(cfg, sae, group, ALWAYS, scratch)
        self._d_sae, self._shards = d_sae, shards
        self.sparse_step = new_sharded_step(sae, d_sae, shards, cfg, scratch)

    @override
    def step(self, batch: GroupBatch) -> TrainStepOutput:
        """One training step, in which the other shards wait for this one."""
        try:
            return super().step(batch)
        except GroupSAEError:
            raise
        except Exception:
            self._shards.leave()
            raise

    @override
    @torch.no_grad()
    def build_train_step_log_dict(
        self, output: TrainStepOutput, n_training_samples: int
    ) -> dict[str, Any]:
        entries = super().build_train_step_log_dict(output, n_training_samples)
        added = [name for name in sorted(entries) if name.startswith(_ADDED)]
        share = self.sae.cfg.d_sae / self._d_sae
        own = [*(float(entries[name]) for name in added), entries[_AVERAGED] * share]
        of_all = self._shards.summed(torch.tensor(own, device=self.cfg.device)).tolist()
        return entries | dict(zip([*added, _AVERAGED], of_all))

    @property
    @override
    def feature_sparsity(self) -> torch.Tensor:
        """Of all features on the first of these ranks, elsewhere of the own."""
        own = super().feature_sparsity
        whole = self._shards.joined(own, 0, self._d_sae)
        return own if whole is None else whole
