"""A last part of training in which each layer's SAE learns what the language model makes of it.

The loss is the mean squared error and the KL divergence of the language model's next tokens, with the
SAE's output in the place of the layer's from those without, each weighted to the same size, on a few
tokens at the end (arXiv 2503.17272).
"""

from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.demo_runs import Figures, Watch, mean_scores
from tests.benchmarks.subjects import DEMO

_PROMPTS = 8


def last_part(folder: Path, seed: int, lr: float, *, tokens: int, rate: float) -> Figures:
    """Trains every layer's SAE of a suite of the demo model on; returns seconds and mean scores.

    Args:
        tokens: of the training text, from its end.
        lr: from which, times `rate`, the learning rate falls to nothing.
    """
    from sae_lens_groups import SAESuite
    from sae_lens_groups.activations import load_hooked_model

    cfg = DEMO.config(DEMO.groups, None, tokens)
    rows = DEMO.dataset("train", seed)
    watch = Watch()
    model = load_hooked_model(cfg, None)
    for weight in model.parameters():
        weight.requires_grad_(False)
    saes: dict[str, Any] = dict(SAESuite.load(folder))
    weights = {name: [sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec] for name, sae in saes.items()}
    optimizers = {name: torch.optim.Adam(of, lr=lr * rate) for name, of in weights.items()}
    n_steps = tokens // (_PROMPTS * cfg.context_size)
    for step in range(n_steps):
        first = len(rows) - (step + 1) * _PROMPTS
        tokens_SP = torch.tensor(rows[first : first + _PROMPTS]["tokens"])
        with torch.no_grad():
            clean_SPV, kept = model.run_with_cache(tokens_SP, names_filter=list(saes))
        for name, sae in saes.items():
            optimizer = optimizers[name]
            optimizer.param_groups[0]["lr"] = lr * rate * (1 - step / n_steps)
            optimizer.zero_grad()
            _loss(model, name, sae, tokens_SP, kept[name], _log_probs(clean_SPV)).backward()
            optimizer.step()
    trained = folder.with_name(f"{folder.name} with KL")
    for name, sae in saes.items():
        sae.save_model(trained / name)
    seconds = watch.seconds()
    return {**seconds, **mean_scores(SAESuite.load(trained), model, DEMO)}


def _loss(
    model: Any,
    name: str,
    sae: Any,
    tokens_SP: torch.Tensor,
    x_SPD: torch.Tensor,
    clean_SPV: torch.Tensor,
) -> torch.Tensor:
    out_SPD = sae(x_SPD)
    logits_SPV = model.run_with_hooks(tokens_SP, fwd_hooks=[(name, lambda *_, **__: out_SPD)])
    mse = (out_SPD - x_SPD).pow(2).sum(-1).mean()
    log_probs_SPV = _log_probs(logits_SPV)
    kl = (clean_SPV.exp() * (clean_SPV - log_probs_SPV)).sum(-1).mean()
    return mse + kl * (mse / kl).detach()


def _log_probs(output: Any) -> torch.Tensor:
    logits = output if isinstance(output, torch.Tensor) else output.logits
    return logits.float().log_softmax(-1)
