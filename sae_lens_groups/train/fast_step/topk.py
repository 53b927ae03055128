"""The step of `topk`: the k largest of each row, behind a ReLU."""

import torch
from sae_lens import TopKTrainingSAE
from typing_extensions import override

from sae_lens_groups.train.fast_step.active_latents import ActiveLatents
from sae_lens_groups.train.fast_step.largest import largest_per_row
from sae_lens_groups.train.fast_step.topk_like import TopKLikeStep


class TopKStep(TopKLikeStep[TopKTrainingSAE]):
    """The sparse step of SAELens's `TopKTrainingSAE`."""

    @override
    def active(self, hidden_BF: torch.Tensor) -> ActiveLatents:
        value_BK, feature_BK = largest_per_row(hidden_BF, self.sae.cfg.k, self.by_magnitude)
        value_BK = value_BK if self.by_magnitude else value_BK.relu()
        return ActiveLatents.k_per_row(value_BK, feature_BK, hidden_BF.shape[1])
