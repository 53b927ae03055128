"""How training went: each group's loss, explained variance and l0, some 200 times over a run."""

import csv
import io
from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict
from sae_lens.saes.sae import TrainStepOutput

from sae_lens_groups import files
from sae_lens_groups.errors import SuiteError

N_POINTS = 200


class TrainingPoint(BaseModel):
    """One group's training batch; its rows are scaled, and of all layers of the group."""

    model_config = ConfigDict(frozen=True)
    training_tokens: int
    """Tokens that the SAE has been trained on, this batch included."""
    group: str
    loss: float
    """What the optimiser sees: SAELens's `overall_loss`."""
    mse_loss: float
    explained_variance: float
    l0: float


class TrainingCurves:
    """Takes a point of every group at even distances over a run."""

    def __init__(self, total_tokens: int, points: Iterable[TrainingPoint] = ()) -> None:
        self._distance = total_tokens / N_POINTS
        self._points = list(points)

    @property
    def points(self) -> tuple[TrainingPoint, ...]:
        """All that were taken, in the order of training."""
        return tuple(self._points)

    def add(self, training_tokens: int, outputs: Mapping[str, TrainStepOutput]) -> None:
        """Takes a point of each group where the last one is far enough back."""
        last = self._points[-1].training_tokens if self._points else 0
        # Reading a loss waits for the device, so it is done rarely.
        if self._points and training_tokens // self._distance == last // self._distance:
            return
        self._points += [_point(training_tokens, *item) for item in outputs.items()]


def points_to_csv(points: Iterable[TrainingPoint]) -> str:
    """The text of `training_curves.csv`: a row per point."""
    columns = list(TrainingPoint.model_fields)
    return files.csv_text((point.model_dump() for point in points), columns)


def points_from_csv(text: str) -> tuple[TrainingPoint, ...]:
    """Reads what `points_to_csv` wrote."""
    to_do = "copy or download the folder again"
    with files.refusing(SuiteError, f"{files.CURVES} cannot be read", to_do):
        rows = csv.DictReader(io.StringIO(text))
        return tuple(map(TrainingPoint.model_validate, rows))


def _point(training_tokens: int, group: str, output: TrainStepOutput) -> TrainingPoint:
    rows, reconstruction = output.sae_in.detach(), output.sae_out.detach()
    variance = (rows - rows.mean(0)).pow(2).sum()
    features = output.feature_acts.detach()
    # Nothing is stored twice, so there is no need to coalesce.
    features = features._values() if features.is_sparse else features
    return TrainingPoint(
        training_tokens=training_tokens,
        group=group,
        loss=output.loss.item(),
        mse_loss=output.losses["mse_loss"].item(),
        explained_variance=1 - ((rows - reconstruction).pow(2).sum() / variance).item(),
        l0=float((features != 0).sum()) / len(rows),
    )
