"""SAELens's metrics, by its names, from the sums of each sequence.

`run_evals` gives one number for all tokens. The sums give the same number, and that of any
resampling of the sequences, which is what a confidence interval is made of.
"""

from collections.abc import Mapping

import torch

from sae_lens_groups.evaluation.sequence_sums import SequenceSums

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
