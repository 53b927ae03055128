"""The step of `abstopk`: the k of largest magnitude of each row, with their signs."""

import torch
from sae_lens import TopKTrainingSAE
from typing_extensions import override

from sae_lens_groups.train.fast_step.active_latents import ActiveLatents
from sae_lens_groups.train.fast_step.largest import largest_per_row
from sae_lens_groups.train.fast_step.topk_like import TopKLikeStep


class AbsTopKStep(TopKLikeStep[TopKTrainingSAE]):
    """The sparse step of SAELens's `AbsTopKTrainingSAE`."""

    by_magnitude = True

    @override
    def active(self, hidden_BF: torch.Tensor) -> ActiveLatents:
        value_BK, feature_BK = largest_per_row(hidden_BF, self.sae.cfg.k, by_magnitude=True)
        return ActiveLatents.k_per_row(value_BK, feature_BK, hidden_BF.shape[1])
