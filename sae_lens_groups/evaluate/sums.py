"""Sums over sequences, which all metrics of an SAE follow from.

Shapes: S sequences, T positions, D = d_in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

WITH_OUTLIERS = "_with_outliers"


@dataclass(frozen=True)
class SequenceSums:
    """Sums over each sequence's kept tokens, in float64."""

    values: Mapping[str, torch.Tensor]
    """Per quantity (S,); `n_tokens` and `n_losses` count what was summed."""
    x_SD: torch.Tensor
    """The activations' sums."""
    x_with_outliers_SD: torch.Tensor
    batch_S: torch.Tensor
    """Which LM batch each sequence was in."""

    @classmethod
    def of_batch(
        cls,
        x_STD: torch.Tensor,
        x_hat_STD: torch.Tensor,
        kept_ST: torch.Tensor,
        per_token: Mapping[str, torch.Tensor],
        with_outliers_ST: torch.Tensor | None = None,
    ) -> "SequenceSums":
        """The sums of one LM batch.

        Args:
            x_STD: activations.
            x_hat_STD: what the SAE makes of them.
            kept_ST: which tokens count.
            per_token: what else is summed, per position (S, T) or per next token (S, T - 1).
            with_outliers_ST: these and the outliers, for what is told of both; None: there are none.
        """
        # A sum of squares in bfloat16 is good for nothing.
        x_STD, x_hat_STD = (
            acts.to(torch.promote_types(acts.dtype, torch.float32)) for acts in (x_STD, x_hat_STD)
        )
        kept_ST = kept_ST.to(x_STD.device)
        all_ST = kept_ST if with_outliers_ST is None else with_outliers_ST.to(x_STD.device)
        per_token = {**_of_reconstruction(x_STD, x_hat_STD, kept_ST), **per_token}
        sums = {name: _summed(value, kept_ST) for name, value in per_token.items()}
        sums["n_tokens"] = kept_ST.sum(1)
        sums["n_losses"] = kept_ST[:, :-1].sum(1)
        sums["n_tokens" + WITH_OUTLIERS] = all_ST.sum(1)
        for name in ("squared_error", "x_squared"):
            sums[name + WITH_OUTLIERS] = _summed(per_token[name], all_ST)
        return cls(
            {name: value.cpu().double() for name, value in sums.items()},
            x_SD=_sum_of_rows(x_STD, kept_ST),
            x_with_outliers_SD=_sum_of_rows(x_STD, all_ST),
            batch_S=torch.zeros(len(x_STD), dtype=torch.long),
        )

    @classmethod
    def joined(cls, batches: Sequence["SequenceSums"]) -> "SequenceSums":
        """The sequences of several LM batches, one after another."""
        names = batches[0].values
        return cls(
            {name: torch.cat([batch.values[name] for batch in batches]) for name in names},
            x_SD=torch.cat([batch.x_SD for batch in batches]),
            x_with_outliers_SD=torch.cat([batch.x_with_outliers_SD for batch in batches]),
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


def _sum_of_rows(x_STD: torch.Tensor, kept_ST: torch.Tensor) -> torch.Tensor:
    return _float64(torch.where(kept_ST[..., None], x_STD, 0.0)).sum(1).cpu()


def _float64(values: torch.Tensor) -> torch.Tensor:
    # Apple's GPUs have no float64.
    return (values.cpu() if values.device.type == "mps" else values).double()
