"""Sums over sequences, which all metrics of an SAE follow from.

Shapes: S sequences, T positions, D = d_in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SequenceSums:
    """Sums over each sequence's kept tokens, in float64."""

    values: Mapping[str, torch.Tensor]
    """Per quantity (S,); `n_tokens` and `n_losses` count what was summed."""
    x_SD: torch.Tensor
    """The activations' sums."""
    batch_S: torch.Tensor
    """Which LM batch each sequence was in."""

    @classmethod
    def of_batch(
        cls,
        x_STD: torch.Tensor,
        x_hat_STD: torch.Tensor,
        kept_ST: torch.Tensor,
        per_token: Mapping[str, torch.Tensor],
    ) -> "SequenceSums":
        """The sums of one LM batch.

        Args:
            x_STD: activations.
            x_hat_STD: what the SAE makes of them.
            kept_ST: which tokens count.
            per_token: what else is summed, per position (S, T) or per next token (S, T - 1).
        """
        # A sum of squares in bfloat16 is good for nothing.
        x_STD, x_hat_STD = (
            acts.to(torch.promote_types(acts.dtype, torch.float32)) for acts in (x_STD, x_hat_STD)
        )
        kept_ST = kept_ST.to(x_STD.device)
        per_token = {**_of_reconstruction(x_STD, x_hat_STD, kept_ST), **per_token}
        sums = {name: _summed(value, kept_ST) for name, value in per_token.items()}
        sums["n_tokens"] = kept_ST.sum(1)
        sums["n_losses"] = kept_ST[:, :-1].sum(1)
        return cls(
            {name: value.cpu().double() for name, value in sums.items()},
            x_SD=_float64(torch.where(kept_ST[..., None], x_STD, 0.0)).sum(1).cpu(),
            batch_S=torch.zeros(len(x_STD), dtype=torch.long),
        )

    @classmethod
    def joined(cls, batches: Sequence["SequenceSums"]) -> "SequenceSums":
        """The sequences of several LM batches, one after another."""
        names = batches[0].values
        return cls(
            {name: torch.cat([batch.values[name] for batch in batches]) for name in names},
            x_SD=torch.cat([batch.x_SD for batch in batches]),
            batch_S=torch.cat([batch.batch_S + n for n, batch in enumerate(batches)]),
        )

    def __len__(self) -> int:
        return len(self.batch_S)


def _of_reconstruction(
    x_STD: torch.Tensor, x_hat_STD: torch.Tensor, kept_ST: torch.Tensor
) -> dict[str, torch.Tensor]:
    norm_in, norm_out = x_STD.norm(dim=-1), x_hat_STD.norm(dim=-1)
    squared_error = (x_STD - x_hat_STD).pow(2).sum(-1)
    from_mean = (x_STD - x_STD[kept_ST].mean(0)).pow(2).sum(-1)
    return {
        "l2_norm_in": norm_in,
        "l2_norm_out": norm_out,
        "l2_ratio": norm_out / torch.where(norm_in < 1e-4, 1.0, norm_in),
        "cossim": (x_STD / norm_in[..., None] * x_hat_STD / norm_out[..., None]).sum(-1),
        "explained_variance_legacy": 1 - squared_error / from_mean,
        "squared_error": squared_error,
        "x_squared": x_STD.pow(2).sum(-1),
        "x_hat_squared": norm_out**2,
        "x_dot_x_hat": (x_STD * x_hat_STD).sum(-1),
    }


def _summed(value_ST: torch.Tensor, kept_ST: torch.Tensor) -> torch.Tensor:
    """Over the kept tokens; where there is a value per next token, the last has none."""
    kept_ST = kept_ST[:, : value_ST.shape[1]].to(value_ST.device)
    # where, not a product: what a token left out gives may be NaN
    return _float64(torch.where(kept_ST, value_ST, 0.0)).sum(1)


def _float64(values: torch.Tensor) -> torch.Tensor:
    # Apple's GPUs have no float64.
    return (values.cpu() if values.device.type == "mps" else values).double()
