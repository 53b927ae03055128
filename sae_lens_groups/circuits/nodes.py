"""The activations of a pair's two prompts, taken apart into an SAE's features and its error.

Shapes: P pairs, T tokens of a prompt, D the width of the SAE, F features.
"""

from collections.abc import Callable
from typing import Any

import torch
from sae_lens import SAE


class Nodes:
    """What can be taken from the clean prompt or from its counterfactual: features and error."""

    @torch.no_grad()
    def __init__(
        self, sae: SAE[Any], clean_PTD: torch.Tensor, counterfactual_PTD: torch.Tensor
    ) -> None:
        self._sae = sae
        self._clean_PTD = clean_PTD
        self.counterfactual_PTF = sae.encode(counterfactual_PTD)
        self.clean_PTF = sae.encode(clean_PTD)
        self.counterfactual_error_PTD = counterfactual_PTD - self._decode(self.counterfactual_PTF)
        self.clean_error_PTD = clean_PTD - self._decode(self.clean_PTF)

    def activations(self, keep_F: torch.Tensor, *, with_error: bool) -> torch.Tensor:
        """The kept features from the clean prompts, the others from their counterfactuals.

        The error is from the clean prompts too, or (`with_error` off) from their counterfactuals.
        Shape (P, T, D).
        """
        features_PTF = torch.where(keep_F, self.clean_PTF, self.counterfactual_PTF)
        error_PTD = self.clean_error_PTD if with_error else self.counterfactual_error_PTD
        return self._decode(features_PTF) + error_PTD

    def attributions(self, score: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """What each feature adds to the mean score, to first order. Shape (F,).

        The change of the feature from the counterfactual to the clean prompt times the gradient
        of the score at the clean prompt, summed over positions, mean over pairs (attribution
        patching). It keeps its sign over pairs, as the scores do that curves are made of.
        """
        with torch.enable_grad():
            features_PTF = self.clean_PTF.detach().requires_grad_()
            scores_P = score(self._decode(features_PTF) + self.clean_error_PTD)
            (gradient_PTF,) = torch.autograd.grad(scores_P.sum(), features_PTF)
        return ((self.clean_PTF - self.counterfactual_PTF) * gradient_PTF).sum(1).mean(0)

    def _decode(self, features_PTF: torch.Tensor) -> torch.Tensor:
        # A norm per row is undone with what the last encode measured, and only once. It is the
        # clean prompt's for every mixture; the errors take up what that leaves.
        if self._sae.cfg.normalize_activations != "none":
            self._sae.encode(self._clean_PTD)
        return self._sae.decode(features_PTF)
