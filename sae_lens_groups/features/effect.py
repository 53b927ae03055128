"""What steering does to a model's output: its loss and its next tokens, by layer and for all.

Shapes: S sequences, T positions, V vocabulary.
"""

from typing import Any

import pandas as pd
import torch

from sae_lens_groups.features.result import SuiteFeatures
from sae_lens_groups.features.steer import Mode, steer
from sae_lens_groups.layers import in_words
from sae_lens_groups.suite import SAESuite


@torch.no_grad()
def steering_effects(
    model: torch.nn.Module,
    suite: SAESuite,
    feature: str,
    tokens_ST: torch.Tensor,
    strength: float = 1.0,
    mode: Mode = "add",
    *,
    found: SuiteFeatures | None = None,
    tokenizer: Any = None,
    n_tokens: int = 5,
) -> pd.DataFrame:
    """What steering a feature changes on each layer alone, and on all layers of its group.

    Args:
        model, suite, feature, strength, mode, found: as `steer` takes them.
        tokens_ST: prompts of equal length.
        tokenizer: says what tokens are called; the model's own if None.
        n_tokens: how many tokens are named.

    Returns:
        A row per layer and one for all: `loss`, its change `loss_change`, `kl` (the divergence from
        what the model says without), and the tokens whose logit rises and falls most, as a mean
        over positions.
    """
    tokenizer = tokenizer or getattr(model, "tokenizer", None)
    clean_STV = _logits(model, tokens_ST)
    clean_loss = _loss(clean_STV, tokens_ST)
    group = suite.manifest.group_named(feature.rpartition("/")[0])
    rows = []
    for layers in [*([layer] for layer in (group.layers if group else ())), "all"]:
        with steer(model, suite, feature, layers, strength, mode, found=found):
            logits_STV = _logits(model, tokens_ST)
        loss = _loss(logits_STV, tokens_ST)
        change_V = (logits_STV - clean_STV).mean((0, 1))
        rows.append(
            {
                "layers": "all" if layers == "all" else in_words(layers),
                "loss": loss,
                "loss_change": loss - clean_loss,
                "kl": _divergence(clean_STV, logits_STV),
                "raised": _named(change_V, n_tokens, tokenizer),
                "lowered": _named(-change_V, n_tokens, tokenizer),
            }
        )
    return pd.DataFrame(rows)


def _logits(model: torch.nn.Module, tokens_ST: torch.Tensor) -> torch.Tensor:
    output = model(tokens_ST)
    return getattr(output, "logits", output).float()


def _loss(logits_STV: torch.Tensor, tokens_ST: torch.Tensor) -> float:
    next_N = tokens_ST[:, 1:].reshape(-1).to(logits_STV.device)
    return torch.nn.functional.cross_entropy(logits_STV[:, :-1].flatten(0, 1), next_N).item()


def _divergence(clean_STV: torch.Tensor, logits_STV: torch.Tensor) -> float:
    clean, steered = clean_STV.log_softmax(-1), logits_STV.log_softmax(-1)
    return (clean.exp() * (clean - steered)).sum(-1).mean().item()


def _named(change_V: torch.Tensor, n: int, tokenizer: Any) -> list[str]:
    ids = change_V.topk(n).indices.tolist()
    return [str(token) if tokenizer is None else tokenizer.decode([token]) for token in ids]
