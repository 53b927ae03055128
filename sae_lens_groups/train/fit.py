"""The training of a run, to its end or to what ends it before, with the progress saved."""

from sae_lens_groups.activations import TrainingBatches
from sae_lens_groups.errors import DivergedError, GroupSAEError, TrainingInterrupted, in_one_line
from sae_lens_groups.train.checkpoints.save import RunCheckpoints
from sae_lens_groups.train.group_trainer import GroupTrainer
from sae_lens_groups.train.ranks.status import TornError, Wishes
from sae_lens_groups.train.ranks.world import World
from sae_lens_groups.train.stop import StopRequest


def fit(
    trainer: GroupTrainer,
    batches: TrainingBatches,
    checkpoints: RunCheckpoints,
    stop: StopRequest,
    world: World,
) -> None:
    """Trains all groups, and saves checkpoints where they are due.

    Raises:
        TrainingInterrupted, GroupSAEError: after a signal or an error, once the progress is saved
            where that is possible.
    """

    def after_step() -> None:
        wishes = Wishes(stop.signal_number or 0, checkpoints.is_due)
        settled = world.settled(wishes, is_time=batches.is_used_up)
        if settled.stop:
            raise TrainingInterrupted(settled.stop)
        if settled.checkpoint:
            checkpoints.try_to_save()

    trainer.after_step = after_step
    world.on_loss(checkpoints.last_one)
    ended = _what_ended(trainer, world)
    # Outside of `except`, as several processes save together.
    if isinstance(ended, TrainingInterrupted):
        raise checkpoints.saved(ended)
    if isinstance(ended, TornError):
        raise ended.said_with(checkpoints.last_one())
    if isinstance(ended, DivergedError):
        raise DivergedError(f"{ended}; {checkpoints.last_one()}")
    if ended is not None:  # between two steps: of the dataset or the language model
        raise type(ended)(f"{ended}; {checkpoints.saved_state()}") from ended.__cause__


def _what_ended(trainer: GroupTrainer, world: World) -> GroupSAEError | TrainingInterrupted | None:
    """Trains; returns what ended it before it was done."""

    def train() -> None:
        try:
            trainer.fit()
            trainer.require_finite()
        except GroupSAEError:
            raise
        except Exception as error:  # in a step, which some groups have made and others have not
            where = f"in training step {trainer.n_training_steps}{world.here}"
            raise TornError(f"{where}: {in_one_line(error)}") from error

    try:
        world.agreed(train)
    except (GroupSAEError, TrainingInterrupted) as error:
        return error
    return None
