"""Trains one SAE per group of layers from one shared pass of the language model."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sae_lens import LoggingConfig, TrainingSAE
from sae_lens.config import HfDataset
from transformer_lens import HookedRootModule

from sae_lens_groups.activations import (
    BatchStream,
    DatasetId,
    GroupActivationsStore,
    TrainingBatches,
    compile_if_asked,
    load_hooked_model,
    moments_of_pairs,
    pairs_with_middle_layers,
)
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import OutputFolderError, in_one_line
from sae_lens_groups.files import only_writer
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan import GroupPlan
from sae_lens_groups.plugins import alignments
from sae_lens_groups.saved import TransferReport
from sae_lens_groups.scaling import NONE, LayerPair, PairMoments
from sae_lens_groups.suite import SAESuite
from sae_lens_groups.train.cache.read import CachedActivationsStore
from sae_lens_groups.train.checkpoints.checkpoint import Checkpoint
from sae_lens_groups.train.checkpoints.save import RunCheckpoints, save_runner_files
from sae_lens_groups.train.complete import complete
from sae_lens_groups.train.cost import flops_if_counted
from sae_lens_groups.train.evals import GroupEvaluator, SuiteScores
from sae_lens_groups.train.fast_step import ALWAYS, steps_text
from sae_lens_groups.train.fit import fit
from sae_lens_groups.train.group_trainer import GroupSAE, GroupTrainer
from sae_lens_groups.train.initial import compile_saes_if_asked, saes_of_settings
from sae_lens_groups.train.prepare import PreparedRun, prepare
from sae_lens_groups.train.ranks.passes import passes_of_run
from sae_lens_groups.train.ranks.placement import owners, placement_text
from sae_lens_groups.train.ranks.rounds import source_of_rows
from sae_lens_groups.train.ranks.settings import on_own_device, prepared_by_all, require_usable_by
from sae_lens_groups.train.ranks.shards import shards_of
from sae_lens_groups.train.ranks.suite import Save, all_saved
from sae_lens_groups.train.ranks.world import world_of_process
from sae_lens_groups.train.result import Result
from sae_lens_groups.train.sharded.group_trainer import change_saes, new_group_trainer
from sae_lens_groups.train.sharded.whole import own_part
from sae_lens_groups.train.start_from_rows import start_from_rows
from sae_lens_groups.train.stop import StopRequest
from sae_lens_groups.train.sweep import Setting, sae_name
from sae_lens_groups.train.trainer import GroupSAETrainer
from sae_lens_groups.train.wandb_run import wandb_run


class TrainingRun:
    """A run of one setting, or of all those of a sweep: see `runner.py`."""

    cfg: GroupSAERunnerConfig[Any]
    model: HookedRootModule
    groups: tuple[LayerGroup, ...]
    plan: GroupPlan | None
    """What the groups were chosen from; None where they were named, or follow a rule."""
    saes: dict[str, TrainingSAE[Any]]
    """Those trained here, by group, or in a sweep by `<setting>/<group>`."""
    activations_store: GroupActivationsStore
    checkpoint: Checkpoint | None
    """What the run goes on from."""
    faults: list[str]
    """What is likely wrong with the result, and the setting to change; known once it ran."""
    settings: tuple[Setting, ...]
    _transfer_report: TransferReport | None = None

    def __init__(
        self,
        cfg: GroupSAERunnerConfig[Any],
        override_dataset: HfDataset | None,
        override_model: HookedRootModule | None,
        override_saes: Mapping[str, TrainingSAE[Any]] | None,
        before_loading: Callable[[PreparedRun], None],
    ) -> None:
        self.world = world_of_process()
        self._logger: LoggingConfig = cfg.logger
        self._may_be_resumed = cfg.resume_from_checkpoint is not None

        def set_up() -> None:
            require_usable_by(self.world, cfg)
            given, is_first = (override_dataset, override_model, override_saes), self.world.is_first
            prepared = prepared_by_all(
                self.world, cfg, lambda cfg: prepare(cfg, *given, is_first=is_first)
            )
            before_loading(prepared)
            self._set_up(prepared, override_model, override_saes)

        self.world.agreed(set_up)

    def _set_up(
        self,
        prepared: PreparedRun,
        override_model: HookedRootModule | None,
        override_saes: Mapping[str, TrainingSAE[Any]] | None,
    ) -> None:
        cfg = self.cfg = prepared.cfg
        self.checkpoint = prepared.settled.checkpoint
        self._rows = prepared.rows
        self.model = override_model or load_hooked_model(
            on_own_device(self.world, cfg), prepared.loaded_groups
        )
        completed = complete(prepared, self.model, self.world.of_first)
        self.groups, self.plan = completed.groups, completed.plan
        self._place(cfg.ranks_per_group)
        self._transfer, self._norms = completed.transfer, completed.norms
        compile_if_asked(cfg, self.model)
        store = CachedActivationsStore if cfg.use_cached_activations else GroupActivationsStore
        self.activations_store = store.from_group_config(
            self.model, cfg, self.groups, self._rows, self._norms.limits(cfg.hook_template)
        )
        self.settings = prepared.settled.settings
        self._results = [self._result_of(setting, completed.dataset) for setting in self.settings]
        own_part_of = partial(own_part, shards=self._shards)
        self.saes, self._orders = saes_of_settings(
            self.settings, self.groups, override_saes, self._own, own_part_of
        )
        if self.checkpoint is not None:
            self.checkpoint.warn_of_other_settings(cfg)

    def _result_of(self, setting: Setting, dataset: DatasetId) -> Result:
        return Result(
            setting=setting,
            world=self.world,
            groups=self.groups,
            own=self._written,
            norms=self._norms,
            plan=self.plan,
            transfer=self._transfer,
            store=self.activations_store,
            dataset=dataset,
            begins_with_bos=self.activations_store.begins_with_bos,
            # Before the run's own SAEs, whose training takes more memory than this.
            sae_step_flops=flops_if_counted(setting.cfg),
        )

    def _place(self, ranks_per_group: int) -> None:
        n_shards = 1 if self.world.size == 1 else ranks_per_group
        self._placed = owners(self.groups, self.world.size, n_shards)
        self._shards = shards_of(self.world, n_shards)
        self._own = self._placed[self.world.rank]
        is_writer = self._shards is None or self._shards.index == 0
        self._written = self._own if is_writer else ()
        self.world.say(placement_text(self._placed, n_shards))

    def suites(self) -> dict[str, SAESuite]:
        """Trains every group, writes the suites, and returns them by the names of the settings."""
        return self.world.agreed(self._run_and_log)

    def facts(self) -> dict[str, Any]:
        """What W&B shows as its config."""
        mode = self.cfg.fast_step if self._shards is None else ALWAYS  # a shard is a small SAE
        step = {"training_step": steps_text(self.saes.values(), mode)}
        return {**self.cfg.to_dict(), "activation_norms": self._norms.to_dict(), **step}

    def _run_and_log(self) -> dict[str, SAESuite]:
        is_first = self.world.is_first
        with (
            only_writer(self.cfg.output_path if is_first else None),
            wandb_run(
                self.cfg.logger, self.facts(), may_exist=self._may_be_resumed, is_here=is_first
            ) as self._logger,
        ):
            self._logger.log_to_wandb = self.world.of_first(lambda: self._logger.log_to_wandb)
            return self._run(StopRequest(self.world.grace_seconds))

    def _run(self, stop: StopRequest) -> dict[str, SAESuite]:
        self._stop = stop
        with self._stop.listening(), self._trained() as (trainer, checkpoints):
            suites = self._saved_suites(trainer, checkpoints)
        self._stop.deliver_again()  # it came too late to stop training, so the suite is whole
        if self._logger.log_to_wandb and self.world.is_first:
            for result in self._results:
                result.upload(suites[result.setting.name], trainer, self._logger)
        return suites

    def _saved_suites(
        self, trainer: GroupTrainer, checkpoints: RunCheckpoints
    ) -> dict[str, SAESuite]:
        """Written where the config asks for it. Nothing that goes wrong here loses them."""
        try:
            return self.world.agreed(lambda: self._exported(trainer))
        except Exception as raised:  # a full disk, too little memory, a folder that is gone
            error = raised
        # Outside of `except`, as several processes save together.
        raise OutputFolderError(
            f"the suite could not be written to {self.cfg.output_path!r}: "
            f"{in_one_line(error)}; {checkpoints.saved_state()}, from which "
            "resume_from_checkpoint writes it"
        ) from error

    def _exported(self, trainer: GroupTrainer) -> dict[str, SAESuite]:
        points = trainer.points()
        whole = self.world.agreed(trainer.whole_trainers)
        results = {result.setting.name: result for result in self._results}
        self.faults = []

        def save(setting: Setting, output_path: str | None) -> SAESuite:
            result, own_points = results[setting.name], setting.points(points)
            own = [one for one in whole.values() if one.setting == setting.name]
            self.faults += result.faults(own, own_points)
            return result.suite(own, own_points, self._finished_report(own), output_path)

        return self._all_saved(save)

    def _all_saved(self, save: Save) -> dict[str, SAESuite]:
        return all_saved(self.world, self.cfg, self.settings, save)

    def _finished_report(self, trainers: list[GroupSAETrainer]) -> TransferReport | None:
        if self._transfer_report is None:
            return None
        try:
            scores = self.world.merged(lambda: self._scores().of(trainers))
            return self._transfer_report.finished(scores)
        except Exception as error:  # of the language model, the dataset or the Hub
            warnings.warn(f"the trained SAEs could not be scored: {error}", stacklevel=2)
            return self._transfer_report

    # --- training ---

    @contextlib.contextmanager
    def _trained(self) -> Iterator[tuple[GroupTrainer, RunCheckpoints]]:
        """Trains, and holds what a last checkpoint needs until the suite is written."""
        with torch.random.fork_rng():
            torch.set_rng_state(self._orders.rng_states[""])
            # Before the batches, whose prefetching thread uses the model too.
            moments = self.world.of_first(self._layer_moments)
            batches = self._batches()
            try:
                trainer = self._trainer(batches)
                if self.checkpoint is None:
                    self._prepare(trainer, batches, moments)
                else:
                    self._go_on(trainer, self.checkpoint)
                compile_saes_if_asked(self.cfg, self.saes)
                with contextlib.closing(
                    RunCheckpoints(self.cfg, trainer, self.world)
                ) as checkpoints:
                    fit(trainer, batches, checkpoints, self._stop, self.world)
                    batches.close()  # its thread uses the language model
                    yield trainer, checkpoints
            finally:
                batches.close()

    def _batches(self) -> TrainingBatches:
        """The training batches, behind those that a checkpoint's run has had."""
        store, step_flops = self.activations_store, [one.sae_step_flops for one in self._results]
        passes = passes_of_run(self.world, self.cfg, store, self._placed, step_flops)
        source = source_of_rows(self.world, store, self._placed, passes)
        stream = BatchStream(source, self._orders.rng_states)
        if self.checkpoint is not None:
            with self.checkpoint.readable():
                stream.load(self.checkpoint.path)
        return TrainingBatches(stream, int(self.cfg.prefetch_llm_batches))

    def _layer_moments(self) -> dict[LayerPair, PairMoments]:
        """How layers relate to one another, where an alignment is fitted and no checkpoint has it."""
        if self.checkpoint is not None:
            return {}
        pairs = set() if self._transfer is None else self._transfer.pairs
        if self.cfg.layer_alignment != NONE:
            pairs |= pairs_with_middle_layers(self.groups)
        limits = self._norms.ordinary_limits(self.cfg.hook_template)
        return moments_of_pairs(self.cfg, self.model, self._rows, pairs, limits)

    def _trainer(self, batches: TrainingBatches) -> GroupTrainer:
        cfg, saes = self.cfg, []
        for setting in self.settings:
            own = replace(setting.cfg.to_sae_trainer_config(), logger=self._logger)
            order = self._orders.of_setting[setting.name]
            for group in self._own:
                sae = self.saes[sae_name(setting.name, group)]
                saes.append(GroupSAE(sae, group, own, setting.name, order))
        trainer = new_group_trainer(
            int(cfg.sae.d_sae),
            self._shards,
            cfg=replace(cfg.to_sae_trainer_config(), logger=self._logger),
            saes=saes,
            data_provider=batches,
            save_checkpoint_fn=partial(self._add_runner_files, batches),
            fast_step=cfg.fast_step,
            verbose=cfg.verbose and self.world.is_first,
            world=self.world,
            all_names=[
                sae_name(setting.name, group) for setting in self.settings for group in self.groups
            ],
        )
        trainer.evaluator = GroupEvaluator(
            cfg, self.model, self.groups, self._rows.dataset, trainer.group_trainers
        )
        return trainer

    def _prepare(
        self,
        trainer: GroupTrainer,
        batches: TrainingBatches,
        moments: dict[LayerPair, PairMoments],
    ) -> None:
        """All that comes before the first step: scaling, alignment, and where the SAEs start."""
        mode = self.cfg.sae.normalize_activations
        trainer.estimate_scaling(mode, self._stop.passing(batches))
        if self.cfg.layer_alignment != NONE:
            trainer.align(alignments()[self.cfg.layer_alignment], moments)
        if self.cfg.begins_with_rows:
            start_from_rows(trainer, self._stop.passing(batches), self.settings)
        if self._transfer is None:
            return
        scalings = {name: one.scaling for name, one in trainer.group_trainers.items()}
        transfer = self._transfer
        with batches.paused():
            scores = self._scores()
            frequency = scores.firing_frequency
            change_saes(trainer, lambda saes: transfer.apply(saes, scalings, moments, frequency))
            wholes = self.world.agreed(trainer.whole_trainers).values()
            zero_shot = self.world.merged(lambda: scores.of(wholes))
        said = self.world.gathered(lambda: (transfer.scaled_only, transfer.resized))
        transfer.scaled_only, transfer.resized = (set().union(*of) for of in zip(*said))
        self._transfer_report = transfer.report(zero_shot)

    def _go_on(self, trainer: GroupTrainer, checkpoint: Checkpoint) -> None:
        """Takes over all that a checkpoint holds, but for this run's own settings of optimisers."""
        with checkpoint.readable():
            trainer.load_checkpoint(checkpoint.path)
        self._transfer_report = checkpoint.transfer(self.cfg.hook_template)

    def _scores(self) -> SuiteScores:
        limits = self._norms.ordinary_limits(self.cfg.hook_template)
        return SuiteScores(self.cfg, self.model, self._rows.dataset, self.groups, limits)

    def _add_runner_files(self, batches: TrainingBatches, checkpoint_path: Path | None) -> None:
        if checkpoint_path is None:
            return
        batches.save(checkpoint_path, self._written)
        if self.world.is_first:
            save_runner_files(checkpoint_path, self.cfg, self.plan, self._transfer_report)
