"""Metrics of an SAE, and the sums over sequences that they follow from."""

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


# The sections of what SAELens's run_evals returns.
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "model_behavior_preservation": ("kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"),
    "model_performance_preservation": (
        "ce_loss_score",
        "ce_loss_with_ablation",
        "ce_loss_with_sae",
        "ce_loss_without_sae",
    ),
    "reconstruction_quality": (
        "explained_variance",
        "explained_variance_legacy",
        "mse",
        "cossim",
    ),
    "shrinkage": ("l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"),
    "sparsity": ("l0", "l1"),
}
METRICS = tuple(name for names in SECTIONS.values() for name in names)

_NO_VARIANCE = 1e-10
_MEANS_OF_LOSSES = ("ce_loss_with_ablation", "ce_loss_with_sae", "ce_loss_without_sae")
_MEANS_OF_TOKENS = (
    "kl_div_with_ablation",
    "kl_div_with_sae",
    "explained_variance_legacy",
    "cossim",
    "l2_norm_in",
    "l2_norm_out",
    "l2_ratio",
    "l0",
    "l1",
)


def metrics_of(sums: SequenceSums) -> dict[str, float]:
    """The metrics of all sequences, as `run_evals` computes them."""
    weights_RS = torch.ones(1, len(sums), dtype=torch.double)
    values = resampled_metrics(sums, weights_RS)
    return {name: values[name].item() for name in METRICS}


def resampled_metrics(sums: SequenceSums, weights_RS: torch.Tensor) -> dict[str, torch.Tensor]:
    """The metrics, each (R,), of R resamplings that take each of S sequences some times."""
    total = {name: weights_RS @ value_S for name, value_S in sums.values.items()}
    n_tokens_R, n_losses_R = total["n_tokens"], total["n_losses"]
    found = {name: total[name] / n_tokens_R for name in _MEANS_OF_TOKENS}
    found |= {name: total[name] / n_losses_R for name in _MEANS_OF_LOSSES}
    found["mse"] = total["squared_error"] / n_tokens_R
    mean_RD = (weights_RS @ sums.x_SD) / n_tokens_R[:, None]
    variance_R = total["x_squared"] / n_tokens_R - mean_RD.pow(2).sum(1)
    found["explained_variance"] = torch.where(
        variance_R < _NO_VARIANCE,  # as in SAELens
        (found["mse"] < _NO_VARIANCE).double(),
        1 - found["mse"] / variance_R,
    )
    found["relative_reconstruction_bias"] = _bias(sums, weights_RS)
    found["ce_loss_score"] = (found["ce_loss_with_ablation"] - found["ce_loss_with_sae"]) / (
        found["ce_loss_with_ablation"] - found["ce_loss_without_sae"]
    )
    found["kl_div_score"] = 1 - found["kl_div_with_sae"] / found["kl_div_with_ablation"]
    return found


def _bias(sums: SequenceSums, weights_RS: torch.Tensor) -> torch.Tensor:
    """SAELens takes the ratio in each LM batch and the mean over batches."""
    is_in_SB = torch.nn.functional.one_hot(sums.batch_S).double()
    squared_RB = (weights_RS * sums.values["x_hat_squared"]) @ is_in_SB
    product_RB = (weights_RS * sums.values["x_dot_x_hat"]) @ is_in_SB
    is_drawn_RB = (weights_RS @ is_in_SB) != 0  # a resampling may leave a batch out
    ratio_RB = torch.where(is_drawn_RB, squared_RB / product_RB, 0.0)
    return ratio_RB.sum(1) / is_drawn_RB.sum(1)
