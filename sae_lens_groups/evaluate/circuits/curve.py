"""Faithfulness against the number of features kept, layer by layer."""

from collections.abc import Callable
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_groups.activations import taking_flat_heads
from sae_lens_groups.evaluate.circuits.report import CurvePoint, LayerCurve
from sae_lens_groups.evaluate.circuits.runs import HookSite

MIN_SHARE = 0.05
"""Below it a hook has no curve: the score hardly depends on it, and ratios would be noise."""

Faithfulness = Callable[[torch.Tensor, bool], float]
"""(kept features, is the error kept too) -> faithfulness."""


@torch.no_grad()
def layer_curve(site: HookSite) -> LayerCurve:
    """Faithfulness and completeness of the SAE's features, those of highest attribution first."""
    m_all = site.runs.clean_scores_P.mean()
    m_none = site.scores(site.counterfactual_PTD).mean()
    share = ((m_all - m_none) / (m_all - site.runs.counterfactual_scores_P.mean())).item()
    if abs(share) < MIN_SHARE:
        return LayerCurve(hook_name=site.hook_name, share=share, points=())
    with taking_flat_heads(site.sae):
        nodes = Nodes(site.sae, site.clean_PTD, site.counterfactual_PTD)

        def faithfulness(keep_F: torch.Tensor, with_error: bool) -> float:
            m = site.scores(nodes.activations(keep_F, with_error=with_error)).mean()
            return ((m - m_none) / (m_all - m_none)).item()

        order_F = nodes.attributions(site.scores).abs().argsort(descending=True, stable=True)
        points = [_point(order_F, n, faithfulness) for n in feature_counts(len(order_F))]
    return LayerCurve(hook_name=site.hook_name, share=share, points=tuple(points))


def _point(order_F: torch.Tensor, n_features: int, faithfulness: Faithfulness) -> CurvePoint:
    keep_F = torch.zeros_like(order_F, dtype=torch.bool)
    keep_F[order_F[:n_features]] = True
    return CurvePoint(
        n_features=n_features,
        faithfulness_with_error=faithfulness(keep_F, True),
        faithfulness_without_error=faithfulness(keep_F, False),
        completeness_with_error=faithfulness(~keep_F, True),
        completeness_without_error=faithfulness(~keep_F, False),
    )


def feature_counts(d_sae: int) -> list[int]:
    """0, the powers of two below the number of features, and that number."""
    return [0, *(2**power for power in range((d_sae - 1).bit_length())), d_sae]


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
