"""How much of a task's score survives with only some of one SAE's features.

After Marks et al. 2024 (arXiv 2403.19647), one SAE at a time. With m for a
score's mean over pairs,

    faithfulness(S) = (m(S) - m(none)) / (m(all) - m(none))

where m(S) has the features of S from the clean prompts and the others from the counterfactual
ones, m(all) is the model on the clean prompts, and m(none) takes everything at the hook from the
counterfactual ones. Completeness of S is the faithfulness of all features but S.

Shapes: P pairs, T tokens of a prompt, D the width of the SAE, F features.
"""

from collections.abc import Callable

import torch

from sae_lens_groups.circuits.nodes import Nodes
from sae_lens_groups.circuits.report import CurvePoint, LayerCurve
from sae_lens_groups.circuits.runs import TaskRuns
from sae_lens_groups.circuits.site import HookSite
from sae_lens_groups.hook_site import taking_flat_heads

MIN_SHARE = 0.05
"""Below it a hook has no curve: the score hardly depends on it, and ratios would be noise."""


Faithfulness = Callable[[torch.Tensor, bool], float]
"""(kept features, is the error kept too) -> faithfulness."""


@torch.no_grad()
def layer_curve(site: HookSite, runs: TaskRuns) -> LayerCurve:
    """Faithfulness and completeness of the SAE's features, those of highest attribution first."""
    clean_PTD = site.read(runs.clean[site.hook_name])
    counterfactual_PTD = site.read(runs.counterfactual[site.hook_name])

    def scores(replacement_PTD: torch.Tensor) -> torch.Tensor:
        return runs.batch.scores(site.logits(runs.batch.clean_PT, replacement_PTD))

    m_all, m_none = runs.clean_scores_P.mean(), scores(counterfactual_PTD).mean()
    share = ((m_all - m_none) / (m_all - runs.counterfactual_scores_P.mean())).item()
    if abs(share) < MIN_SHARE:
        return LayerCurve(hook_name=site.hook_name, share=share, points=())
    with taking_flat_heads(site.sae):
        nodes = Nodes(site.sae, clean_PTD, counterfactual_PTD)

        def faithfulness(keep_F: torch.Tensor, with_error: bool) -> float:
            m = scores(nodes.activations(keep_F, with_error=with_error)).mean()
            return ((m - m_none) / (m_all - m_none)).item()

        order_F = nodes.attributions(scores).abs().argsort(descending=True, stable=True)
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
