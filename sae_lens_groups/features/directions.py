"""What a feature's decoder direction says: the tokens it raises and lowers, and which others are like it.

Shapes: C features that are looked at, F those of another SAE, D = d_in, V vocabulary, N that are kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from sae_lens import SAE
from sae_lens.load_model import HookedProxyLM
from transformer_lens import HookedRootModule

from sae_lens_groups.activations import Site

_ROWS_AT_ONCE = 256  # 256 x 150,000 tokens: 150 MB


class LogitLens(NamedTuple):
    """The tokens whose logits a feature's direction raises and lowers most, by how much."""

    raised_CN: torch.Tensor
    raised_by_CN: torch.Tensor
    lowered_CN: torch.Tensor
    lowered_by_CN: torch.Tensor


class Nearest(NamedTuple):
    """The features of another SAE whose directions have the largest cosine with each."""

    feature_CN: torch.Tensor
    cosine_CN: torch.Tensor


class Elsewhere(NamedTuple):
    """The nearest feature of each group that is no neighbour, those with the largest cosines."""

    layer_CN: torch.Tensor
    """The group's layer that was compared; it is in one group only."""
    feature_CN: torch.Tensor
    cosine_CN: torch.Tensor


def unembedding(model: HookedRootModule, sae: SAE[Any]) -> torch.Tensor | None:
    """What turns a direction of the residual stream into logits, (D, V).

    None where the model has none, or the SAE reads something else: heads, or another width. The
    final norm is left out, as it depends on the rest of the stream.
    """
    if isinstance(model, HookedProxyLM):
        layer = model.model.get_output_embeddings()  # type: ignore[operator]
        W_U = None if layer is None else layer.weight.T
    else:
        W_U = getattr(model, "W_U", None)
    site = Site(sae.cfg.metadata.hook_name, sae.cfg.metadata.hook_head_index)
    if W_U is None or site.has_heads or W_U.shape[0] != sae.cfg.d_in:
        return None
    return W_U.detach()


@torch.no_grad()
def logit_lens(W_dec_CD: torch.Tensor, W_U_DV: torch.Tensor, n: int = 10) -> LogitLens:
    """The tokens that each direction raises and lowers most."""
    W_dec_CD = W_dec_CD.float()  # bfloat16 would rank by two digits
    W_U_DV = W_U_DV.to(W_dec_CD)
    parts = []
    for rows_RD in W_dec_CD.split(_ROWS_AT_ONCE):
        logits_RV = rows_RD @ W_U_DV
        by, raised = logits_RV.topk(n)
        lowered_by, lowered = logits_RV.topk(n, largest=False)
        parts.append((raised, by, lowered, lowered_by))
    return LogitLens(*(torch.cat(each).cpu() for each in zip(*parts)))


@torch.no_grad()
def nearest_features(ours_CD: torch.Tensor, theirs_FD: torch.Tensor, n: int = 3) -> Nearest:
    """Which of their features are most like each of ours."""
    ours_CD = ours_CD.float()
    theirs_FD = torch.nn.functional.normalize(theirs_FD.to(ours_CD), dim=1)
    parts: list[Sequence[torch.Tensor]] = []
    for rows_RD in torch.nn.functional.normalize(ours_CD, dim=1).split(_ROWS_AT_ONCE):
        cosines, features = (rows_RD @ theirs_FD.T).topk(min(n, len(theirs_FD)))
        parts.append((features, cosines))
    return Nearest(*(torch.cat(each).cpu() for each in zip(*parts)))


def nearest_elsewhere(nearest: Mapping[int, Nearest], n: int = 3) -> Elsewhere | None:
    """The best of what is nearest at several layers, one of each; None without a layer."""
    if not nearest:
        return None
    feature_CG = torch.cat([of.feature_CN[:, :1] for of in nearest.values()], 1)
    cosine_CG = torch.cat([of.cosine_CN[:, :1] for of in nearest.values()], 1)
    cosine_CN, at_CN = cosine_CG.topk(min(n, len(nearest)))
    return Elsewhere(torch.tensor([*nearest])[at_CN], feature_CG.gather(1, at_CN), cosine_CN)
