"""The run at W&B, if one is asked for. Nothing that W&B raises ends training or costs a checkpoint."""

import contextlib
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import wandb
from sae_lens import LoggingConfig
from typing_extensions import override
from wandb.errors import AuthenticationError, UsageError

from sae_lens_groups.errors import ConfigError, first_line, in_one_line

# W&B takes 128 characters, and SAELens appends `_log_feature_sparsity`.
_LONGEST_NAME = 107
_WITHOUT = (
    "set WANDB_MODE=offline to log to a folder, or log_to_wandb to False (--nolog_to_wandb) to "
    "train without W&B"
)


@contextlib.contextmanager
def tolerated() -> Iterator[None]:
    """Says what W&B raises in the block, and goes on."""
    try:
        yield
    except Exception as error:
        warnings.warn(f"W&B: {in_one_line(error)}; training goes on", stacklevel=4)


class TolerantLogging(LoggingConfig):
    """SAELens's logging, with names that W&B takes, and without its errors."""

    @override
    def log(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        if wandb.run is None:  # it is another process's
            return
        name = artifact_name("/".join(filter(None, [trainer.setting, trainer.sae.get_name()])))
        named = SimpleNamespace(sae=SimpleNamespace(get_name=lambda: name), cfg=trainer.cfg)
        with tolerated():
            super().log(named, *args, **kwargs)


class StepsOfAll:
    """Logs what several trainers have to say of a step at once: W&B takes steps as they rise alone."""

    def __init__(self, trainers: Iterable[Any]) -> None:
        self._at = dict.fromkeys(trainers, -1)
        self._entries: dict[int, dict[str, Any]] = {}

    def add(self, trainer: Any, entries: Mapping[str, Any], step: int) -> None:
        """Takes the entries of a step of one trainer, which has none of earlier steps any more."""
        self._entries.setdefault(step, {}).update(entries)
        self._at[trainer] = step
        self._log()

    def end(self, trainer: Any) -> None:
        """Says that one has no more."""
        del self._at[trainer]
        with tolerated():
            self._log()

    def _log(self) -> None:
        complete = min(self._at.values(), default=math.inf)
        for step in sorted(step for step in self._entries if step < complete):
            wandb.log(self._entries.pop(step), step=step)


def artifact_name(name: str) -> str:
    """The name that SAELens gives an SAE at W&B, or the nearest one that W&B takes."""
    name = re.sub(r"[^\w.-]", "_", name.replace("/", "__"), flags=re.ASCII)
    return name if len(name) <= _LONGEST_NAME else f"sae_{name[4 - _LONGEST_NAME :]}"


def require_wandb_key(log: LoggingConfig) -> None:
    """Finds or asks for W&B's key, if it will take one.

    Raises:
        ConfigError: there is none, and nobody to ask.
    """
    if not log.log_to_wandb or wandb.run is not None:
        return
    if wandb.setup().settings.mode in ("offline", "dryrun", "disabled"):
        return
    try:
        wandb.login(verify=False)
    except UsageError as error:
        raise ConfigError(
            "log_to_wandb is True, as is SAELens's default, and W&B has no API key here; run "
            f"`wandb login` or set WANDB_API_KEY, {_WITHOUT}"
        ) from error


@contextlib.contextmanager
def wandb_run(
    log: LoggingConfig, facts: Mapping[str, Any], *, may_exist: bool, is_here: bool = True
) -> Iterator[LoggingConfig]:
    """Keeps a run at W&B for the block, and gives what trainers log with.

    Args:
        log: says whether there is to be one.
        facts: what W&B shows as its config.
        may_exist: whether a run with its `wandb_id` is gone on with rather than refused.
        is_here: whether it is this process's, of several.

    Raises:
        ConfigError: W&B does not take what was asked for.
    """
    log = TolerantLogging(**vars(log))
    log.log_to_wandb = is_here and log.log_to_wandb and _has_started(log, facts, may_exist)
    if not log.log_to_wandb:
        yield log
        return
    try:
        yield log
    except BaseException:
        with tolerated():
            wandb.finish(exit_code=1)
        raise
    with tolerated():
        wandb.finish()


def _has_started(log: LoggingConfig, facts: Mapping[str, Any], may_exist: bool) -> bool:
    # Without it, W&B overwrites a run of the same id.
    resume = {} if log.wandb_id is None else {"resume": "allow" if may_exist else "never"}
    try:
        wandb.init(
            project=log.wandb_project,
            entity=log.wandb_entity,
            config=dict(facts),
            name=log.run_name,
            id=log.wandb_id,
            **resume,  # type: ignore[arg-type]
        )
    except (UsageError, AuthenticationError) as error:
        other_id = "" if log.wandb_id is None else "give another wandb_id, "
        raise ConfigError(f"W&B refuses: {first_line(error)}; {other_id}{_WITHOUT}") from error
    except Exception as error:  # a server that is away is no reason not to train
        warnings.warn(
            f"W&B does not start, and the run goes on without it: {in_one_line(error)}",
            stacklevel=3,
        )
        return False
    return True
