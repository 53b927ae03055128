"""What an evaluation of a sweep found: the scores of every setting, with intervals, and its cost."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from sae_lens_groups.evaluate.bootstrap import Difference, Estimate
from sae_lens_groups.evaluate.result import SuiteEvaluation
from sae_lens_groups.evaluate.write import score_rows
from sae_lens_groups.saved import SweepSetting

COMPARED = ("explained_variance", "ce_loss_score")
INTERVALS = (*COMPARED, "l0")
"""The metrics that are shown with their intervals."""


@dataclass(frozen=True, kw_only=True)
class SettingScores:
    """One setting's suite, and how well its layers do."""

    setting: SweepSetting
    site: str
    """Of which activations its SAEs are: scores are compared within a site."""
    evaluation: SuiteEvaluation
    """What `evaluate_suite` returns for the suite."""
    layers: Sequence[Mapping[str, Estimate]]
    """Per layer, its metrics with 95% intervals over prompts."""
    means: Mapping[str, Estimate]
    """The same of the mean over the layers."""
    d_sae: int
    n_parameters: int
    """Of one layer's SAE."""
    training_tokens: int | None
    training_flops: float | None
    """Of this setting trained alone; None where the suite does not say."""
    train_flags: Sequence[str]
    """Words of a command line that trains this setting alone, on more tokens; none where the
    dataset was passed in from Python."""

    def to_rows(self) -> Iterator[dict[str, Any]]:
        """A row per layer of `sweep.csv`."""
        told = {
            "d_sae": self.d_sae,
            "parameters": self.n_parameters,
            "training_tokens": self.training_tokens,
            "training_flops": self.training_flops,
        }
        for scores, estimates in zip(score_rows(self.evaluation), self.layers):
            row = {"setting": self.setting.name, **self.setting.changes, **scores}
            for name in INTERVALS:
                row |= {f"{name}_low": estimates[name].low, f"{name}_high": estimates[name].high}
            yield row | told


@dataclass(frozen=True, kw_only=True)
class SweepEvaluation(Sequence[SettingScores]):
    """All settings of a sweep, scored on the same tokens, in the order of `sweep.json`."""

    settings: tuple[SettingScores, ...]
    differences: Mapping[str, Sequence[Sequence[Difference | None]]] = field(default_factory=dict)
    """Of both scores, for each setting and each one before it: its mean minus the other's. None of
    settings at different sites."""

    @overload
    def __getitem__(self, index: int) -> SettingScores: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[SettingScores, ...]: ...
    def __getitem__(self, index: int | slice) -> SettingScores | tuple[SettingScores, ...]:
        return self.settings[index]

    def __len__(self) -> int:
        return len(self.settings)

    @property
    def changed(self) -> tuple[str, ...]:
        """The names of the settings that differ, in the order of `sweep.json`."""
        return tuple(dict.fromkeys(name for of in self for name in of.setting.changes))

    @property
    def sites(self) -> tuple[str, ...]:
        """Those of all settings, in their order."""
        return tuple(dict.fromkeys(of.site for of in self))

    def front(self, metric: str) -> tuple[str, ...]:
        """The names of the settings that no other one at their site beats in both the metric and the
        number of features per token, by their means, site by site the sparsest first.
        """
        return tuple(name for site in self.sites for name in self._front(metric, site))

    def _front(self, metric: str, site: str) -> list[str]:
        own = (of for of in self if of.site == site)
        each = ((of.means["l0"].value, -of.means[metric].value, of.setting.name) for of in own)
        at = sorted(of for of in each if all(map(math.isfinite, of[:2])))
        return [name for *place, name in at if not any(_beats(of[:2], place) for of in at)]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other)) and [*one] != [*other]
