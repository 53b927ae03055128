"""The step of `topk`: the k largest of each row, behind a ReLU."""

import torch
from sae_lens import TopKTrainingSAE
from typing_extensions import override

from sae_lens_groups.train.fast_step.active_latents import ActiveLatents
from sae_lens_groups.train.fast_step.largest import largest_per_row
from sae_lens_groups.train.fast_step.pre_activations import PreActivations
from sae_lens_groups.train.fast_step.topk_like import TopKLikeStep


class TopKStep(TopKLikeStep[TopKTrainingSAE]):
    """The sparse step of SAELens's `TopKTrainingSAE`."""

    @override
    def active(self, hidden: PreActivations) -> ActiveLatents:
        hidden_BF = hidden.whole()
        value_BK, feature_BK = largest_per_row(hidden_BF, self.sae.cfg.k, self.by_magnitude)
        n_rows, k = value_BK.shape
        row_B = torch.arange(n_rows, device=value_BK.device)
        active = ActiveLatents(
            row_N=row_B[:, None].expand(n_rows, k).reshape(-1),
            feature_N=feature_BK.reshape(-1),
            value_N=value_BK.reshape(-1),
            n_rows=n_rows,
            d_sae=hidden_BF.shape[1],
        )
        return active if self.by_magnitude else active.relu()
