"""Several sites side by side: each as a run of it alone, but for the language model's passes."""

import signal
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sae_lens import LoggingConfig
from sae_lens.config import HfDataset
from transformer_lens import HookedRootModule
from typing_extensions import override

from sae_lens_groups.activations import SideBySide, TrainingBatches, load_for_sites
from sae_lens_groups.config import NEWEST, GroupSAERunnerConfig
from sae_lens_groups.errors import GroupSAEError, TrainingInterrupted
from sae_lens_groups.files import only_writer
from sae_lens_groups.suite import SAESuite
from sae_lens_groups.train.group_trainer import GroupTrainer
from sae_lens_groups.train.prepare import PreparedRun, prepare
from sae_lens_groups.train.ranks.suite import Save, all_saved
from sae_lens_groups.train.ranks.world import World
from sae_lens_groups.train.run import TrainingRun
from sae_lens_groups.train.stop import StopRequest
from sae_lens_groups.train.sweep import all_changes
from sae_lens_groups.train.wandb_run import StepsOfAll, wandb_run


class SiteRun(TrainingRun):
    """The part of a run that trains at one site, in a thread of its own."""

    def __init__(
        self, prepared: PreparedRun, model: HookedRootModule, beside: "RunOfSites"
    ) -> None:
        self.world, self._beside = World(), beside
        self._set_up(prepared, model, None)

    def train(self, logger: LoggingConfig, stop: StopRequest) -> None:
        """Trains, and writes the suites with those of the other sites."""
        self._logger = logger
        self._run(stop)

    @override
    def _trainer(self, batches: TrainingBatches) -> GroupTrainer:
        trainer = super()._trainer(batches)
        trainer.log = partial(self._beside.steps.add, self)
        return trainer

    @override
    def _all_saved(self, save: Save) -> dict[str, SAESuite]:
        return self._beside.saved_with_others(self, save)


class RunOfSites:
    """Trains the settings of a sweep at several sites, all on the same passes of the language model.

    Args: as `SweepTrainingRunner`'s, but for the configs: each site's.
    """

    def __init__(
        self,
        cfg: GroupSAERunnerConfig[Any],
        sites: Sequence[GroupSAERunnerConfig[Any]],
        override_dataset: HfDataset | None,
        override_model: HookedRootModule | None,
        before_loading: Callable[[PreparedRun], None],
    ) -> None:
        self.cfg = cfg
        prepared = [prepare(of, override_dataset, override_model) for of in sites]
        for one in prepared:
            before_loading(one)
        model = override_model or load_for_sites([(of.cfg, of.loaded_groups) for of in prepared])
        self.runs = tuple(SiteRun(of, model, self) for of in prepared)

    def suites(self) -> dict[str, SAESuite]:
        """Trains at all sites, writes the suites, and returns them by the names of the settings."""
        facts = {**self.cfg.to_dict(), "sites": [run.facts() for run in self.runs]}
        may_exist = self.cfg.resume_from_checkpoint is not None
        with (
            only_writer(self.cfg.output_path),
            wandb_run(self.cfg.logger, facts, may_exist=may_exist) as logger,
        ):
            return self._run(logger)

    def _run(self, logger: LoggingConfig) -> dict[str, SAESuite]:
        self._passes = SideBySide(run.activations_store for run in self.runs)
        self.steps = StepsOfAll(self.runs)
        self._saves: dict[SiteRun, Save] = {}
        self._suites: dict[str, SAESuite] = {}
        self._errors: list[BaseException] = []
        stop = StopRequest()
        threads = [
            threading.Thread(target=self._train, args=(run, logger, stop), daemon=True)
            for run in self.runs
        ]
        with stop.listening(), torch.random.fork_rng():
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.1)  # a signal may reach another thread
        if self._errors:
            raise self._first_error()
        stop.deliver_again()
        return self._suites

    def _train(self, run: SiteRun, logger: LoggingConfig, stop: StopRequest) -> None:
        with self._passes.turn(run.activations_store):
            try:
                run.train(logger, stop)
            except BaseException as error:
                self._errors.append(error)
                # The others save what they have.
                stop.signal_number = stop.signal_number or signal.SIGTERM
            finally:
                self.steps.end(run)

    def _first_error(self) -> BaseException:
        first = self._errors[0]
        stopped = [one for one in self._errors if isinstance(one, TrainingInterrupted)]
        if not isinstance(first, TrainingInterrupted):
            return first
        unsaved = next((one for one in stopped if one.unsaved is not None), None)
        if unsaved is not None or all(one.checkpoint is None for one in stopped):
            return unsaved or first
        assert self.cfg.checkpoint_path is not None
        base = Path(self.cfg.checkpoint_path).parent
        return TrainingInterrupted(first.signal_number, base, resume_from=NEWEST)

    def saved_with_others(self, run: SiteRun, save: Save) -> dict[str, SAESuite]:
        """A site's suites, written with all others once every site has trained."""
        self._passes.leave(run.activations_store)
        self._saves[run] = save
        if len(self._saves) == len(self.runs):
            self._suites = self._all_saved()
        self._passes.wait_for(lambda: bool(self._suites or self._errors))
        if not self._suites:
            raise GroupSAEError("the run has ended at another site")
        return {one.name: self._suites[one.name] for one in run.settings}

    def _all_saved(self) -> dict[str, SAESuite]:
        saves = {one.name: save for run, save in self._saves.items() for one in run.settings}
        settings = {one.name: one for run in self.runs for one in run.settings}
        in_order = [settings[name] for name in all_changes(self.cfg)]
        return all_saved(World(), self.cfg, in_order, lambda one, path: saves[one.name](one, path))
