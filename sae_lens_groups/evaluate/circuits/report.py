"""What was measured: tasks, and for each solved one a curve per layer."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from sae_lens_groups.layers import layer_in

SUFFICIENT = 0.8
"""Features suffice where their faithfulness reaches this."""


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The first `n_features` by attribution: how well they do alone, and the rest without them.

    The SAE's error is taken from the clean prompts, or (without error) from the counterfactual.
    """

    n_features: int
    faithfulness_with_error: float
    faithfulness_without_error: float
    completeness_with_error: float
    completeness_without_error: float


ROW_COLUMNS = ("task", "layer", "hook_name", *(field.name for field in fields(CurvePoint)))
"""What `FaithfulnessReport.to_rows` gives, also where no task was solved."""


@dataclass(frozen=True, kw_only=True)
class LayerCurve:
    """One layer's SAE on one task."""

    hook_name: str
    share: float
    """How much of the score's change from counterfactual to clean prompts passes this hook.

    It is 1 for the whole residual stream.
    """
    points: tuple[CurvePoint, ...]
    """From no feature to all of them; none where the share is too small to be divided by."""

    @property
    def layer(self) -> int:
        """The number in the hook's name."""
        return layer_in(self.hook_name)

    @property
    def sufficient_with_error(self) -> int | None:
        """The smallest number of features measured whose faithfulness is SUFFICIENT, if any is."""
        return _first_sufficient(self.points, "faithfulness_with_error")

    @property
    def sufficient_without_error(self) -> int | None:
        """The same where the error is the counterfactual's."""
        return _first_sufficient(self.points, "faithfulness_without_error")


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One task: its curves, or why there are none."""

    task: str
    n_pairs: int
    accuracy: float | None = None
    """The share of pairs that the model gets right; None where there were too few to ask."""
    message: str | None = None
    """Why the task was left out; None where it was not."""
    curves: tuple[LayerCurve, ...] = ()
    """One per SAE, in their order."""

    @property
    def solved(self) -> bool:
        """Whether the model does the task, so that features can be judged by it."""
        return self.message is None


@dataclass(frozen=True)
class FaithfulnessReport:
    """How faithful a suite's features are to what the model does, task by task."""

    tasks: Mapping[str, TaskResult]
    """By the tasks' names, in the order asked for."""

    def to_rows(self) -> list[dict[str, Any]]:
        """A row per task, layer and number of features, ready for a CSV file."""
        return [
            {
                "task": result.task,
                "layer": curve.layer,
                "hook_name": curve.hook_name,
                **asdict(point),
            }
            for result in self.tasks.values()
            for curve in result.curves
            for point in curve.points
        ]


def _first_sufficient(points: Sequence[CurvePoint], score: str) -> int | None:
    found = (point.n_features for point in points if getattr(point, score) >= SUFFICIENT)
    return next(found, None)
