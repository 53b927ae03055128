"""The steps of `batchtopk`, the k * B largest of the batch behind a ReLU, and of its Matryoshka form."""

from collections.abc import Sequence
from typing import Any

import torch
from sae_lens import BatchTopKTrainingSAE
from typing_extensions import override

from sae_lens_groups.train.fast_step.active_latents import ActiveLatents
from sae_lens_groups.train.fast_step.dead_features import DeadCandidates
from sae_lens_groups.train.fast_step.pre_activations import PreActivations
from sae_lens_groups.train.fast_step.topk_like import TopKLikeStep


class BatchTopKStep(TopKLikeStep[BatchTopKTrainingSAE]):
    """The sparse step of SAELens's `BatchTopKTrainingSAE`."""

    @override
    def active(self, hidden: PreActivations) -> ActiveLatents:
        return hidden.largest(int(self.sae.cfg.k * hidden.shape[0])).relu()

    @override
    def finish(self, active: ActiveLatents) -> dict[str, Any]:
        """SAELens's moving average of the smallest activation, without asking whether there is one."""
        return average_threshold(self.sae, smallest_of(active))


class MatryoshkaBatchTopKStep(BatchTopKStep):
    """The step of SAELens's `MatryoshkaBatchTopKTrainingSAE`, with a loss for nested parts.

    Every active latent is read once: the reconstruction from the first parts is the sum of what
    each part gives.
    """

    @override
    def __init__(self, sae: Any, dead_feature_window: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(sae, dead_feature_window, *args, **kwargs)
        if sae.cfg.use_matryoshka_aux_loss:
            self.dead_candidates = DeadCandidates(dead_feature_window, self.widths)

    @property
    @override
    def widths(self) -> Sequence[int]:
        cfg: Any = self.sae.cfg
        return cfg.matryoshka_widths


def smallest_of(active: ActiveLatents) -> torch.Tensor:
    """The smallest activation, infinite where there is none."""
    value_N = active.value_N
    if len(value_N) == 0:
        return value_N.new_full((), torch.inf)
    return torch.where(value_N > 0, value_N, torch.inf).min()


def average_threshold(sae: BatchTopKTrainingSAE, smallest: torch.Tensor) -> dict[str, Any]:
    """Moves the SAE's threshold by a step's smallest activation; returns what SAELens logs."""
    smallest = smallest.to(sae.topk_threshold.dtype)
    updated = torch.lerp(sae.topk_threshold, smallest, sae.cfg.topk_threshold_lr)
    sae.topk_threshold = torch.where(smallest.isfinite(), updated, sae.topk_threshold)
    return {"topk_threshold": sae.topk_threshold}
