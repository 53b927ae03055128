"""The step of `matryoshka_batchtopk`: BatchTopK, with a loss for nested parts of the features."""

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from sae_lens_groups.train.fast_step.batchtopk import BatchTopKStep
from sae_lens_groups.train.fast_step.dead_features import DeadCandidates


class MatryoshkaBatchTopKStep(BatchTopKStep):
    """The sparse step of SAELens's `MatryoshkaBatchTopKTrainingSAE`.

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
