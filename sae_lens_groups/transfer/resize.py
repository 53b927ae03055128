"""Starts an SAE from one with more or fewer features.

Of more, it takes those that fire most, in their order. Fewer become its first ones, and the others
keep the values of a fresh SAE, whose encoder rows are short beside trained ones: they hardly fire at
first, and have gradients. Features that never fire would have none in a standard or gated SAE.
"""

from typing import Any

import torch
from sae_lens import TrainingSAE

from sae_lens_groups.errors import InitSourceError
from sae_lens_groups.scaling import without_model_kwargs_advice

# What a feature does in these does not depend on which number it has.
RESIZABLE = ("standard", "gated", "topk", "abstopk", "jumprelu", "batchtopk")


def require_resizable(architecture: str, found: int, asked: int, which: str) -> None:
    """Refuses an architecture whose features cannot be chosen from."""
    if architecture not in RESIZABLE:
        raise InitSourceError(
            f"{which} has d_sae={found}, and the config asks for {asked}; make them equal, or start "
            f"from another SAE: of {architecture} SAEs no features can be chosen, only of "
            f"{', '.join(RESIZABLE)}"
        )


def like(sae: TrainingSAE[Any], d_sae: int) -> TrainingSAE[Any]:
    """A fresh SAE like this one, with another number of features; random generators stay as they are."""
    with torch.random.fork_rng(), without_model_kwargs_advice():
        return TrainingSAE.from_dict({**sae.cfg.to_dict(), "d_sae": d_sae})


def most_used(frequency_F: torch.Tensor, n_features: int) -> torch.Tensor:
    """The features that fire most, lowest number first; of equal ones the first. Shape (n_features,)."""
    ranked_F = frequency_F.argsort(descending=True, stable=True)
    return ranked_F[:n_features].sort().values


@torch.no_grad()
def take_features(
    sae: TrainingSAE[Any], source: TrainingSAE[Any], kept_N: torch.Tensor | None = None
) -> None:
    """Gives the first features of an SAE the values of another's, in place, and all that is not a feature's.

    Args:
        sae: a fresh one.
        source: of the same architecture and another d_sae.
        kept_N: features of the source, no more than `sae` has; all where it is None.
    """
    d_sae = source.cfg.d_sae
    kept_N = torch.arange(d_sae) if kept_N is None else kept_N.cpu()
    new = {}
    for name, own in sae.state_dict().items():
        taken = source.state_dict()[name].cpu()
        if taken.shape == own.shape:
            new[name] = taken
            continue
        (dim,) = (n for n, size in enumerate(taken.shape) if size != own.shape[n])
        new[name] = own.cpu().index_copy(
            dim, torch.arange(len(kept_N)), taken.index_select(dim, kept_N)
        )
    sae.load_state_dict(new)
