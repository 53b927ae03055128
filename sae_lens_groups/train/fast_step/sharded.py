"""The step of a TopK-like SAE of which each of several ranks has a part of the features.

What a rank has is an SAE itself, of its features: sums over features and the choice of what is active
are made together, and every gradient is local. K candidates of each shard or fewer.
"""

from functools import partial
from typing import Any, Protocol

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainingSAEConfig
from typing_extensions import override

from sae_lens_groups.train.fast_step.abstopk import AbsTopKStep
from sae_lens_groups.train.fast_step.active_latents import ActiveLatents
from sae_lens_groups.train.fast_step.batchtopk import (
    BatchTopKStep,
    average_threshold,
    smallest_of,
)
from sae_lens_groups.train.fast_step.choice import step_for_dtype, step_of_config
from sae_lens_groups.train.fast_step.largest import largest_per_row
from sae_lens_groups.train.fast_step.pre_activations import PreActivations
from sae_lens_groups.train.fast_step.scratch import Scratch
from sae_lens_groups.train.fast_step.sparse_step import SparseStep
from sae_lens_groups.train.fast_step.topk import TopKStep
from sae_lens_groups.train.fast_step.topk_like import TopKLikeStep

_STEPS = (TopKStep, BatchTopKStep, AbsTopKStep)


class Shards(Protocol):
    """All that have a part of an SAE's features, as each of them sees the others."""

    index: int
    size: int

    def gathered(self, own: torch.Tensor) -> torch.Tensor:
        """Those of all shards, which have one shape, (size, *shape)."""
        ...

    def summed(self, own: torch.Tensor) -> torch.Tensor:
        """The sum over all shards."""
        ...

    def least(self, own: torch.Tensor) -> torch.Tensor:
        """The least of all shards."""
        ...


def why_not_sharded(cfg: TrainingSAEConfig, fast_step: str) -> str | None:
    """Why SAEs of this config cannot be sharded; None where they can be."""
    choice = step_of_config(cfg, fast_step)
    if choice.step is None:
        return f"the step would be SAELens's own: {choice.reason}"
    if choice.step not in _STEPS:
        return f"architecture {cfg.architecture()} is none of topk, batchtopk, abstopk"
    return None


class ShardedStep(TopKLikeStep[Any]):
    """The step of one shard.

    Args:
        sae: the SAE of the shard's features.
        d_sae: features of all shards, `index * d_sae // size` and on being those of one.
        shards: the others.
    """

    def __init__(self, sae: Any, *args: Any, d_sae: int, shards: Shards, **settings: Any) -> None:
        super().__init__(sae, *args, **settings)
        self.by_magnitude = sae.cfg.architecture() == "abstopk"
        self._shards = shards
        self._most_features = -(-d_sae // shards.size)
        self._n_candidates = torch.zeros(shards.size, dtype=torch.long)
        self._counted: torch.Tensor | None = None

    @override
    def active(self, hidden: PreActivations) -> ActiveLatents:
        k = self.sae.cfg.k
        if self.sae.cfg.architecture() == "batchtopk":
            return self._largest_of_batch(hidden, int(k * hidden.shape[0]))
        hidden_BF = hidden.whole()
        n_own = min(k, hidden_BF.shape[1])
        value_BK, feature_BK = largest_per_row(hidden_BF, n_own, self.by_magnitude)
        is_active_BK = self._chosen(value_BK, k, min(k, self._most_features))
        row_N = is_active_BK.nonzero()[:, 0]
        active = ActiveLatents(
            row_N=row_N,
            feature_N=feature_BK[is_active_BK],
            value_N=value_BK[is_active_BK],
            n_rows=len(hidden_BF),
            d_sae=hidden_BF.shape[1],
        )
        return active if self.by_magnitude else active.relu()

    def _largest_of_batch(self, hidden: PreActivations, n: int) -> ActiveLatents:
        n_rows, n_features = hidden.shape
        own = hidden.largest(min(n, n_rows * n_features))
        width = min(n, n_rows * self._most_features)
        return own.where(self._chosen(own.value_N[None], n, width)[0]).relu()

    def _chosen(self, value_BK: torch.Tensor, k: int, width: int) -> torch.Tensor:
        """Which of these are among each row's k largest of all shards, where `width` is enough of each.

        Every shard chooses among the same values, so exactly k are chosen where some are equal.
        """
        n_rows, n_own = value_BK.shape
        own_BW = value_BK.new_full((n_rows, width), -torch.inf)
        own_BW[:, :n_own] = value_BK.abs() if self.by_magnitude else value_BK
        all_BA = self._shards.gathered(own_BW).transpose(0, 1).reshape(n_rows, -1)
        _, column_BK = largest_per_row(all_BA, min(k, all_BA.shape[1]))
        is_chosen_BA = torch.zeros_like(all_BA, dtype=torch.bool).scatter_(1, column_BK, True)
        return is_chosen_BA[:, self._shards.index * width :][:, :n_own]

    @override
    def _summed(self, of_features: torch.Tensor) -> torch.Tensor:
        return self._shards.summed(of_features)

    @override
    def _has_candidates(self, index_C: torch.Tensor) -> bool:
        if index_C is not self._counted:  # all look for new ones in the same step
            n_own = torch.tensor([len(index_C)], device=self.sae.W_dec.device)
            self._n_candidates, self._counted = self._shards.gathered(n_own).cpu(), index_C
        return bool(self._n_candidates.any())

    @override
    def _largest_dead(
        self, hidden_BC: torch.Tensor, is_dead_C: torch.Tensor, k: int
    ) -> torch.Tensor:
        if self._n_candidates.sum() <= k:
            return torch.where(is_dead_C, hidden_BC, 0.0)
        lowest = 0.0 if self.by_magnitude else -torch.inf
        value_BK = hidden_BC.new_empty(len(hidden_BC), 0)
        index_BK = is_dead_C.new_empty(len(hidden_BC), 0, dtype=torch.long)
        if n_own := min(k, len(is_dead_C)):
            masked_BC = torch.where(is_dead_C, hidden_BC, lowest)
            value_BK, index_BK = largest_per_row(masked_BC, n_own, self.by_magnitude)
        width = min(k, int(self._n_candidates.max()))
        is_taken_BK = self._chosen(value_BK, k, width) & is_dead_C[index_BK]
        value_BK = torch.where(is_taken_BK, value_BK, 0.0)
        return torch.zeros_like(hidden_BC).scatter_(1, index_BK, value_BK)

    @override
    def finish(self, active: ActiveLatents) -> dict[str, Any]:
        if self.sae.cfg.architecture() != "batchtopk":
            return {}
        return average_threshold(self.sae, self._shards.least(smallest_of(active)))

    @override
    def _clip_gradients_of(self, sae: Any) -> None:
        """By the norm of all shards', in float32."""
        own = [one.grad.float().pow(2).sum() for one in (sae.W_enc, sae.W_dec, sae.b_enc)]
        of_b_dec = sae.b_dec.grad.float().pow(2).sum()
        norm = (self._shards.summed(torch.stack(own).sum()) + of_b_dec).sqrt()
        for parameter in sae.parameters():
            parameter.grad.mul_((1 / (norm + 1e-6)).clamp(max=1))


def new_sharded_step(
    sae: Any, d_sae: int, shards: Shards, cfg: SAETrainerConfig, scratch: Scratch
) -> SparseStep[Any]:
    """The step of the shard that this SAE is of `d_sae` features."""
    return step_for_dtype(partial(ShardedStep, d_sae=d_sae, shards=shards), sae, cfg, scratch)
