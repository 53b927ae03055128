"""Confidence intervals of scores, and of differences between two SAEs on the same sequences.

Shapes: R resamplings, S sequences.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, TypeVar

import torch

from sae_lens_groups.evaluate.metrics import METRICS, metrics_of, resampled_metrics
from sae_lens_groups.evaluate.sums import SequenceSums

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95% confidence interval.

    The interval is NaN where there was one sequence alone, which says nothing of others.
    """

    value: float
    low: float
    high: float


class Difference(Estimate):
    """A metric minus the baseline's, likewise."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


ESTIMATE = TypeVar("ESTIMATE", bound=Estimate)


@dataclass(frozen=True)
class Means:
    """The means of several SAEs by the metrics' names, to be compared with those of others."""

    estimates: Mapping[str, Estimate]
    drawn: Mapping[str, torch.Tensor]
    """What each is in every resampling."""


class Resamplings:
    """Sequences drawn with replacement, the same draws for every layer and both suites.

    Sequences and not tokens, because the tokens of one prompt are alike.
    """

    def __init__(self, n_sequences: int, n_resamplings: int = 1000, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        drawn_RS = torch.randint(n_sequences, (n_resamplings, n_sequences), generator=generator)
        counts_RS = torch.zeros(n_resamplings, n_sequences, dtype=torch.double)
        if n_sequences < 2:
            counts_RS.fill_(math.nan)
        self._weights_RS = counts_RS.scatter_add_(
            1, drawn_RS, torch.ones_like(drawn_RS, dtype=torch.double)
        )

    def differences(
        self, pairs: Sequence[tuple[SequenceSums, SequenceSums]]
    ) -> tuple[list[dict[str, Difference]], dict[str, Difference]]:
        """For each pair of an SAE and its baseline, and for the mean over all of them."""
        exact = [_minus(metrics_of(ours), metrics_of(theirs)) for ours, theirs in pairs]
        drawn = [_minus(self._resampled(ours), self._resampled(theirs)) for ours, theirs in pairs]
        mean, drawn_mean = _mean(exact), _mean(drawn)
        each = [self.intervals(Difference, *both) for both in zip(exact, drawn)]
        return each, self.intervals(Difference, mean, drawn_mean)

    def estimates(self, saes: Sequence[SequenceSums]) -> tuple[list[dict[str, Estimate]], Means]:
        """For each SAE by itself, and for the mean over all of them."""
        exact, drawn = [*map(metrics_of, saes)], [*map(self._resampled, saes)]
        mean, drawn_mean = _mean(exact), _mean(drawn)
        each = [self.intervals(Estimate, *both) for both in zip(exact, drawn)]
        return each, Means(self.intervals(Estimate, mean, drawn_mean), drawn_mean)

    def difference(self, ours: Means, theirs: Means, name: str) -> Difference:
        """Of two means, in one metric."""
        exact = {name: ours.estimates[name].value - theirs.estimates[name].value}
        drawn = {name: ours.drawn[name] - theirs.drawn[name]}
        return self.intervals(Difference, exact, drawn)[name]

    def intervals(
        self,
        kind: type[ESTIMATE],
        exact: Mapping[str, float],
        drawn: Mapping[str, torch.Tensor],
    ) -> dict[str, ESTIMATE]:
        """Of each quantity, from its value and what it is in every resampling."""
        tail = (1 - _CONFIDENCE) / 2
        ends = torch.tensor([tail, 1 - tail], dtype=torch.double)
        widened = _widened(self._weights_RS.shape[1])
        found = {}
        for name, value in exact.items():
            low, high = (value + widened * (torch.quantile(drawn[name], ends) - value)).tolist()
            found[name] = kind(value, low, high)
        return found

    def _resampled(self, sums: SequenceSums) -> dict[str, torch.Tensor]:
        return resampled_metrics(sums, self._weights_RS)


def _minus(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Of floats, or of tensors."""
    return {name: ours[name] - theirs[name] for name in METRICS}


def _mean(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of floats, or of tensors."""
    return {name: sum(of[name] for of in each) / len(each) for name in METRICS}


def _widened(n_sequences: int) -> float:
    """By how much percentiles of few sequences are too near: Student's quantile over the normal one,
    and the variance that a sample lacks (T. Hesterberg, arXiv 1411.5279, expanded percentiles)."""
    n_free = max(n_sequences - 1, 1)
    z = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
    # Fisher's expansion of Student's quantile, a percent too small for 4 sequences.
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, z**3 * (3 * z**4 + 19 * z**2 + 17)
    student = z + terms[0] / n_free + terms[1] / n_free**2 + (terms[2] - 15 * z) / 384 / n_free**3
    return student / z * math.sqrt(n_sequences / n_free)
