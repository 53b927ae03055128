"""The list of metrics: what each is, how it is computed, written and judged.

A new one is a row here, and what computes it: in `sweep.py` its value per token, or in `resampled_metrics`.

Shapes: R resamplings, S sequences, D = d_in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from sae_lens_groups.evaluate.numbers import count, percent, score
from sae_lens_groups.evaluate.sums import WITH_OUTLIERS, SequenceSums

Of = Literal["token", "next token", "derived", "firings"]
"""A mean over tokens or over next tokens, a function of others, or counted from firings."""
Where = Literal["terminal", "page", "card", "headline", "drawing"]


@dataclass(frozen=True)
class Metric:
    """One quantity that every layer is scored by."""

    name: str
    """As SAELens and `evaluation.csv` have it."""
    section: str
    """Of what SAELens's `run_evals` returns; empty for what is not among its metrics."""
    of: Of
    label: str = ""
    """In words, as axes name it."""
    meaning: str = ""
    written: Callable[[float], str] = score
    is_more_better: bool | None = None
    """None where more is neither better nor worse."""
    rank: int = 0
    """Where it stands among those that are shown."""
    shown: tuple[Where, ...] = ()
    compared: tuple[Where, ...] = ()
    """Where the difference to a baseline stands."""
    is_of_outliers: bool = False
    """Whether it says nothing new where no token is an outlier."""

    @property
    def title(self) -> str:
        """What tables for people call it."""
        return self.name if self.section else self.label


_BEHAVIOR, _PERFORMANCE = "model_behavior_preservation", "model_performance_preservation"
_RECONSTRUCTION, _SHRINKAGE, _SPARSITY = "reconstruction_quality", "shrinkage", "sparsity"

ALL = (
    Metric(
        *("kl_div_score", _BEHAVIOR, "derived"),
        label="KL-divergence score",
        meaning="The same for how far the model's predictions move.",
        is_more_better=True,
        rank=3,
        shown=("terminal", "page", "headline"),
    ),
    Metric("kl_div_with_ablation", _BEHAVIOR, "token"),
    Metric("kl_div_with_sae", _BEHAVIOR, "token"),
    Metric(
        *("ce_loss_score", _PERFORMANCE, "derived"),
        label="CE-loss score",
        meaning="The language model runs with the reconstruction in the activation's place: "
        "at 1 its loss does not rise, at 0 it rises as much as with zeros there.",
        is_more_better=True,
        rank=2,
        shown=("terminal", "page", "card", "headline", "drawing"),
        compared=("terminal", "page", "card", "headline"),
    ),
    Metric("ce_loss_with_ablation", _PERFORMANCE, "next token"),
    Metric("ce_loss_with_sae", _PERFORMANCE, "next token"),
    Metric("ce_loss_without_sae", _PERFORMANCE, "next token"),
    Metric(
        *("explained_variance", _RECONSTRUCTION, "derived"),
        label="explained variance",
        meaning="The part of the activations' variance that the SAE's reconstruction keeps: 1 is "
        "perfect, 0 no better than the mean activation.",
        is_more_better=True,
        rank=1,
        shown=("terminal", "page", "card", "headline", "drawing"),
        compared=("terminal", "page", "card", "headline"),
    ),
    Metric(
        *("explained_variance" + WITH_OUTLIERS, "", "derived"),
        label="EV with outliers",
        meaning="The explained variance with tokens of massive activations in it, which no other score "
        "has: it is mostly about these few.",
        is_more_better=True,
        rank=7,
        shown=("terminal", "page", "card"),
        is_of_outliers=True,
    ),
    Metric("explained_variance_legacy", _RECONSTRUCTION, "token"),
    Metric(
        *("mse", _RECONSTRUCTION, "derived"),
        meaning="Squared error per token, in the squared units of the layer's activations.",
        rank=6,
        shown=("card",),
    ),
    Metric("cossim", _RECONSTRUCTION, "token"),
    Metric("l2_norm_in", _SHRINKAGE, "token"),
    Metric("l2_norm_out", _SHRINKAGE, "token"),
    Metric("l2_ratio", _SHRINKAGE, "token"),
    Metric("relative_reconstruction_bias", _SHRINKAGE, "derived"),
    Metric(
        *("l0", _SPARSITY, "token"),
        label="features per token (L0)",
        meaning="Features active per token.",
        written=count,
        rank=4,
        shown=("terminal", "page", "card", "headline"),
        compared=("page",),
    ),
    Metric("l1", _SPARSITY, "token"),
    Metric(
        *("dead_features", "", "firings"),
        label="dead features",
        meaning="Features that fire on none of the evaluated tokens at this layer.",
        written=percent,
        rank=5,
        shown=("terminal", "page", "card"),
    ),
)
BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in ALL}
METRICS = tuple(metric.name for metric in ALL if metric.of != "firings")
"""Those that are computed from sums over sequences: SAELens's, in its order, and ours."""
SECTIONS: Mapping[str, tuple[str, ...]] = {
    section: tuple(metric.name for metric in ALL if metric.section == section)
    for section in dict.fromkeys(metric.section for metric in ALL if metric.section)
}


def shown_in(where: Where) -> list[Metric]:
    """The metrics that people read there, the most important first."""
    return sorted((metric for metric in ALL if where in metric.shown), key=lambda of: of.rank)


def compared_in(where: Where) -> list[Metric]:
    """Those of which the difference to a baseline stands there."""
    return sorted((metric for metric in ALL if where in metric.compared), key=lambda of: of.rank)


_NO_VARIANCE = 1e-10


def metrics_of(sums: SequenceSums) -> dict[str, float]:
    """The metrics of all sequences, as `run_evals` computes them."""
    weights_RS = torch.ones(1, len(sums), dtype=torch.double)
    values = resampled_metrics(sums, weights_RS)
    return {name: values[name].item() for name in METRICS}


def resampled_metrics(sums: SequenceSums, weights_RS: torch.Tensor) -> dict[str, torch.Tensor]:
    """The metrics, each (R,), of R resamplings that take each of S sequences some times."""
    total = {name: weights_RS @ value_S for name, value_S in sums.values.items()}
    n_tokens_R, n_losses_R = total["n_tokens"], total["n_losses"]
    found = {name: total[name] / n_tokens_R for name in _means_over("token")}
    found |= {name: total[name] / n_losses_R for name in _means_over("next token")}
    found["mse"] = total["squared_error"] / n_tokens_R
    for which, x_SD in {"": sums.x_SD, WITH_OUTLIERS: sums.x_with_outliers_SD}.items():
        found["explained_variance" + which] = _explained_variance(
            total["n_tokens" + which],
            total["squared_error" + which],
            total["x_squared" + which],
            weights_RS @ x_SD,
        )
    found["relative_reconstruction_bias"] = _bias(sums, weights_RS)
    found["ce_loss_score"] = (found["ce_loss_with_ablation"] - found["ce_loss_with_sae"]) / (
        found["ce_loss_with_ablation"] - found["ce_loss_without_sae"]
    )
    found["kl_div_score"] = 1 - found["kl_div_with_sae"] / found["kl_div_with_ablation"]
    return found


def _explained_variance(
    n_tokens_R: torch.Tensor,
    squared_error_R: torch.Tensor,
    x_squared_R: torch.Tensor,
    sum_RD: torch.Tensor,
) -> torch.Tensor:
    mse_R = squared_error_R / n_tokens_R
    variance_R = x_squared_R / n_tokens_R - (sum_RD / n_tokens_R[:, None]).pow(2).sum(1)
    has_none_R = variance_R < _NO_VARIANCE  # as in SAELens
    return torch.where(has_none_R, (mse_R < _NO_VARIANCE).double(), 1 - mse_R / variance_R)


def _means_over(of: Of) -> list[str]:
    return [metric.name for metric in ALL if metric.of == of]


def _bias(sums: SequenceSums, weights_RS: torch.Tensor) -> torch.Tensor:
    """SAELens takes the ratio in each LM batch and the mean over batches."""
    is_in_SB = torch.nn.functional.one_hot(sums.batch_S).double()
    squared_RB = (weights_RS * sums.values["x_hat_squared"]) @ is_in_SB
    product_RB = (weights_RS * sums.values["x_dot_x_hat"]) @ is_in_SB
    is_drawn_RB = (weights_RS @ is_in_SB) != 0  # a resampling may leave a batch out
    ratio_RB = torch.where(is_drawn_RB, squared_RB / product_RB, 0.0)
    return ratio_RB.sum(1) / is_drawn_RB.sum(1)
