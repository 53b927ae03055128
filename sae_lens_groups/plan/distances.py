"""`LayerDistances`: how far apart the layers of a model are, with the error of every entry."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sae_lens_groups.errors import PlanError
from sae_lens_groups.layers import HookTemplate, LayerGroup


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerDistances:
    """Distances between all layers of a model. L is the number of layers.

    Raises:
        PlanError: the matrix is not a distance matrix of at least two layers.
    """

    metric: str
    """The registered name of the metric, such as `angular`."""
    matrix: np.ndarray
    """(L, L), float64: symmetric, zero on the diagonal."""
    standard_errors: np.ndarray
    """(L, L), float64: the standard error of every entry of `matrix`."""
    n_tokens: int
    """Tokens measured, without those that `exclude_special_tokens` left out."""
    model_name: str
    hook_template: HookTemplate
    hook_head_index: int | None = None
    """The attention head that was measured, where it was one alone."""

    def __post_init__(self) -> None:
        for name in ("matrix", "standard_errors"):
            values = np.array(getattr(self, name), dtype=np.float64)
            values.flags.writeable = False
            object.__setattr__(self, name, values)
            _require_distance_matrix(values, name)
        if self.matrix.shape != self.standard_errors.shape:
            raise PlanError(
                f"matrix has the shape {self.matrix.shape} and standard_errors "
                f"{self.standard_errors.shape}; both are layers x layers"
            )
        if len(self.matrix) < 2:
            raise PlanError(
                f"{self.hook_template} has {len(self.matrix)} layer; "
                "distances, and groups, need at least 2 layers"
            )

    @property
    def n_layers(self) -> int:
        """L, the number of layers of the model that have the hook."""
        return len(self.matrix)

    def diameter(self, group: LayerGroup) -> float:
        """The largest distance between two layers of a group; 0 for a single layer."""
        inside = slice(group.first, group.last + 1)
        return float(self.matrix[inside, inside].max())

    @property
    def largest_standard_error(self) -> float:
        """The least certain entry's standard error."""
        return float(self.standard_errors.max())

    def to_dict(self) -> dict[str, Any]:
        """The entries of `plan.json` that hold the distances."""
        return {
            "model_name": self.model_name,
            "hook_template": str(self.hook_template),
            "hook_head_index": self.hook_head_index,
            "metric": self.metric,
            "n_tokens": self.n_tokens,
            "distances": self.matrix.tolist(),
            "standard_errors": self.standard_errors.tolist(),
        }


def _require_distance_matrix(values: np.ndarray, name: str) -> None:
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise PlanError(f"{name} has the shape {values.shape}; it must be layers x layers")
    if not np.isfinite(values).all():
        raise PlanError(f"{name} holds NaN or infinite values; measure the distances again")
    if (values < 0).any():
        raise PlanError(f"{name} holds negative values; the lowest is {values.min():g}")
    if np.diagonal(values).any():
        raise PlanError(f"{name} is not zero on its diagonal; a layer lies at 0 from itself")
    if not np.array_equal(values, values.T):
        raise PlanError(f"{name} is not symmetric; entry i, j must equal entry j, i")
