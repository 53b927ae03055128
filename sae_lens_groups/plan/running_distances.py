"""Adds up a metric's sums over LM batches, and turns them into distances with standard errors.

Shapes: L layers, B tokens of one LM batch, N of one block, D = d_in, C clusters of LM batches.
"""

from collections.abc import Iterator

import torch

from sae_lens_groups.errors import DatasetError, NonFiniteActivationsError, PlanError
from sae_lens_groups.plan.centre import Centre
from sae_lens_groups.plan.metrics import DistanceMetric

BLOCK_TOKENS = 256
# The error of a mean over correlated tokens is estimated from this many parts of them.
MAX_CLUSTERS = 32
# One in this many tokens goes into the layers' means, where a metric takes them off.
MEAN_SHARE = 10


class RunningDistances:
    """Adds up LM batches; first the layers' means, where the metric wants them, then the sums."""

    def __init__(self, metric: DistanceMetric, n_tokens: int, hook_names: list[str]) -> None:
        self.metric = metric
        self.hook_names = hook_names
        self.n_wanted = n_tokens
        self.n_tokens = 0
        self.n_for_means = n_tokens / MEAN_SHARE  # of the first tokens, where the metric is centred
        self._centre = Centre(metric.sums, n_tokens) if metric.centred else None
        self._n_batches = 0
        self._sums_C: list[torch.Tensor] = []
        self._n_tokens_C: list[int] = []

    def add(self, rows_LBD: list[torch.Tensor]) -> None:
        """Takes one LM batch into account, as part of the means or of the sums."""
        n_rows = len(rows_LBD[0])
        if n_rows == 0:  # nothing but special tokens
            return
        if self._centre is not None and self.n_tokens < self.n_for_means:
            self._centre.add(_blocks(rows_LBD))
        else:
            for block_LND in _blocks(rows_LBD):
                self._add_block(block_LND)
            self._n_batches += 1
        self.n_tokens += n_rows

    def _add_block(self, block_LND: torch.Tensor) -> None:
        if self._centre is not None:
            block_LND = self._centre.taken_off(block_LND)
        sums = self.metric.sums(block_LND).cpu()
        self._require_finite(sums, block_LND)
        cluster = self._n_batches % MAX_CLUSTERS
        if cluster == len(self._sums_C):
            self._sums_C.append(torch.zeros_like(sums))
            self._n_tokens_C.append(0)
        self._sums_C[cluster] += sums
        self._n_tokens_C[cluster] += block_LND.shape[1]

    def _require_finite(self, sums: torch.Tensor, block_LND: torch.Tensor) -> None:
        if torch.isfinite(sums).all():
            return
        for hook_name, acts_ND in zip(self.hook_names, block_LND):
            if not torch.isfinite(acts_ND).all():
                raise NonFiniteActivationsError(
                    f"the activations at {hook_name} hold NaN or infinite values, so distances "
                    "cannot be measured; load the model in a wider dtype, or leave autocast_lm out"
                )

    def result(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances (L, L) and their standard errors (L, L)."""
        if len(self._sums_C) < 2:
            raise DatasetError(self._too_few())
        sums, n_tokens = torch.stack(self._sums_C).sum(dim=0), sum(self._n_tokens_C)
        distances_LL = self._distances(sums, n_tokens)
        without_C = [
            self._distances(sums - of_cluster, n_tokens - n)
            for of_cluster, n in zip(self._sums_C, self._n_tokens_C)
        ]
        without_P = self._centre.distances_without(self._distances) if self._centre else []
        # The means come from other tokens than the clusters, so their error adds.
        variances = [_jackknife_variance(without) for without in (without_C, without_P) if without]
        standard_errors_LL = torch.stack(variances).sum(dim=0).sqrt()
        if not (distances_LL.isfinite() & standard_errors_LL.isfinite()).all():
            raise PlanError(
                f"the distances cannot be computed from {self.n_tokens:,} tokens in "
                f"{self._n_batches} LM batches: some layers do not vary there; raise plan_tokens or "
                "store_batch_size_prompts"
            )
        return distances_LL, standard_errors_LL

    def _too_few(self) -> str:
        if self.n_tokens < self.n_wanted:
            return (
                f"the dataset ends after {self.n_tokens:,} of plan_tokens={self.n_wanted:,} tokens, "
                "too early to measure anything; use more data, or lower plan_tokens to what there is"
            )
        return (
            f"plan_tokens={self.n_wanted:,} are {self._n_batches} LM batches besides those for the "
            "means, too few for a standard error; raise plan_tokens"
        )

    def _distances(self, sums: torch.Tensor, n_tokens: int) -> torch.Tensor:
        distances_LL = self.metric.distances(sums, n_tokens)
        distances_LL = (distances_LL + distances_LL.T) / 2
        # Rounding, or the noise of an unbiased estimate, may bring equal layers below zero.
        return distances_LL.clamp(min=0).fill_diagonal_(0)


def _jackknife_variance(without: list[torch.Tensor]) -> torch.Tensor:
    """The variance of an estimate, from what it is without each part of its tokens."""
    return torch.stack(without).var(dim=0, correction=0) * (len(without) - 1)


def _blocks(rows_LBD: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    """An LM batch as blocks (L, N, D) in float64, each with rows from all over the batch."""
    device = rows_LBD[0].device
    if device.type == "mps":  # Apple's GPUs have no float64
        device = torch.device("cpu")
    n_blocks = max(1, len(rows_LBD[0]) // BLOCK_TOKENS)
    for block in range(n_blocks):
        # The layers of one model may lie on several devices.
        yield torch.stack([rows_BD[block::n_blocks].to(device).double() for rows_BD in rows_LBD])
