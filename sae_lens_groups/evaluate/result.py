"""What an evaluation found: a row per layer, and what is told of the whole suite."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from sae_lens_groups.evaluate.bootstrap import Difference
from sae_lens_groups.evaluate.circuits import FaithfulnessReport
from sae_lens_groups.evaluate.cost import TrainingCost
from sae_lens_groups.evaluate.features import FeatureLayers
from sae_lens_groups.evaluate.matching import FeatureMatch
from sae_lens_groups.evaluate.tokens import EvaluatedTokens


@dataclass(frozen=True, kw_only=True)
class _SAEScores:
    """How well one SAE does at one layer."""

    metrics: Mapping[str, float]
    """SAELens's metrics by their names: explained_variance, ce_loss_score, l0, ..."""
    dead_features: float
    """Share of the features that fire on none of the evaluated tokens at this layer."""

    def score(self, name: str) -> float:
        """One of the list in `metrics.py`."""
        return self.dead_features if name == "dead_features" else self.metrics[name]


@dataclass(frozen=True, kw_only=True)
class BaselineScores(_SAEScores):
    """Another SAE at the same layer, on the same tokens."""

    name: str
    """What the baseline is called, such as the last part of its folder's path."""
    differences: Mapping[str, Difference]
    """Per metric, the suite's minus the baseline's."""
    match: FeatureMatch | None
    """None where one of the two has no feature that fires."""


@dataclass(frozen=True, kw_only=True)
class LayerScores(_SAEScores):
    """How well one layer's SAE does: a row of `evaluation.csv`."""

    layer: int
    hook_name: str
    group: str
    scaling_factor: float | None
    baseline: BaselineScores | None = None
    """None without a baseline, or where it has no SAE for this layer."""

    def to_row(self) -> dict[str, Any]:
        """The row by column name."""
        row = {
            "layer": self.layer,
            "hook_name": self.hook_name,
            "group": self.group,
            "scaling_factor": self.scaling_factor,
            **self.metrics,
            "dead_features": self.dead_features,
        }
        return row if self.baseline is None else row | self._baseline_row(self.baseline)

    def _baseline_row(self, baseline: BaselineScores) -> dict[str, Any]:
        row: dict[str, Any] = {"baseline": baseline.name}
        for name, value in baseline.metrics.items():
            of = baseline.differences[name]
            row |= {f"{name}_baseline": value, f"{name}_diff": of.value}
            row |= {f"{name}_diff_low": of.low, f"{name}_diff_high": of.high}
        row["dead_features_baseline"] = baseline.dead_features
        row["dead_features_diff"] = self.dead_features - baseline.dead_features
        if baseline.match is not None:
            names = ("mmcs", "mmcs_of_baseline", "missed_features", "missed_firings")
            row |= {name: getattr(baseline.match, name) for name in names}
        return row


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is told of the suite and its baseline as a whole."""

    name: str
    """The baseline's, such as the last part of its folder's path."""
    n_layers: int
    """Layers that both have."""
    mean_differences: Mapping[str, Difference]
    """Per metric, the mean over those layers."""
    trained: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """Settings of the suite's training and of the baseline's, as far as both are known."""
    layers_alone: tuple[int, ...] = ()
    """Layers that have an SAE of their own in both, each trained from scratch, of one kind."""

    @property
    def unequal(self) -> dict[str, tuple[Any, Any]]:
        """Those in which their training differs, but for the seed."""
        both = self.trained.items()
        return {name: pair for name, pair in both if name != "seed" and pair[0] != pair[1]}


@dataclass(frozen=True, kw_only=True)
class SuiteEvaluation(Sequence[LayerScores]):
    """A row of scores per layer, lowest first, and what they were measured on."""

    scores: tuple[LayerScores, ...]
    tokens: EvaluatedTokens
    dataset_name: str
    features: tuple[FeatureLayers, ...]
    """A group each."""
    costs: tuple[TrainingCost, ...] = ()
    """Of the suite and, if it says how it was trained, of the baseline."""
    comparison: Comparison | None = None
    faithfulness: FaithfulnessReport | None = None
    faults: Sequence[str] = ()
    """What is likely wrong with the suite, and the setting of training to change."""
    kept_earlier: str | None = None
    """Where an earlier evaluation, of other settings, lies now, inside the suite's folder."""

    @overload
    def __getitem__(self, index: int) -> LayerScores: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[LayerScores, ...]: ...
    def __getitem__(self, index: int | slice) -> LayerScores | tuple[LayerScores, ...]:
        return self.scores[index]

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def missed_alone(self) -> float | None:
        """Share of the baseline's features missed where no group is to blame; None if not known.

        So many differ between two trainings of the same SAE.
        """
        alone = () if self.comparison is None else self.comparison.layers_alone
        matches = [of.baseline.match for of in self if of.layer in alone and of.baseline]
        missed = [match.missed_features for match in matches if match is not None]
        return sum(missed) / len(missed) if missed else None

    def mean(self, name: str) -> float:
        """The mean of a metric over all layers."""
        return sum(scores.score(name) for scores in self.scores) / len(self.scores)
