"""Trains one SAE per group of layers from one shared pass of the language model."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sae_lens import LoggingConfig, TrainingSAE
from sae_lens.config import HfDataset
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from transformer_lens import HookedRootModule

from sae_lens_groups import files
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
from sae_lens_groups.errors import (
    DivergedError,
    GroupSAEError,
    OutputFolderError,
    TrainingError,
    TrainingInterrupted,
    in_one_line,
)
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
from sae_lens_groups.train.cost import flops_of_sae_step
from sae_lens_groups.train.evals import GroupEvaluator, SuiteScores
from sae_lens_groups.train.export import export_suite, faults_of_training
from sae_lens_groups.train.fast_step import steps_text
from sae_lens_groups.train.group_trainer import GroupTrainer
from sae_lens_groups.train.initial import initial_saes
from sae_lens_groups.train.prepare import PreparedRun, complete, prepare
from sae_lens_groups.train.stop import StopRequest
from sae_lens_groups.train.trainer import GroupSAETrainer
from sae_lens_groups.train.wandb_run import wandb_run
from sae_lens_groups.transfer import rows_read_with_source, with_kept_layers


class GroupSAETrainingRunner:
    """Trains a suite: `GroupSAETrainingRunner(cfg).run()` returns a `SAESuite`.

    Args:
        cfg: a SAELens config with `layer_groups`.
        override_dataset: trains on this dataset instead of `cfg.dataset_path`.
        override_model: uses this model instead of loading `cfg.model_name`.
        override_saes: starts from these SAEs, by group name such as `layers_0-3`.
        before_loading: gets what was found, before the language model is loaded.

    Raises:
        GroupSAEError: a mistake in the config, found before the model is loaded where possible.
    """

    cfg: GroupSAERunnerConfig[Any]
    model: HookedRootModule
    groups: tuple[LayerGroup, ...]
    plan: GroupPlan | None
    """What the groups were chosen from; None where they were named, or follow a rule."""
    saes: dict[str, TrainingSAE[Any]]
    activations_store: GroupActivationsStore
    checkpoint: Checkpoint | None
    """What the run goes on from."""
    faults: Sequence[str] = ()
    """What is likely wrong with the result, and the setting to change; known once it ran."""
    _transfer_report: TransferReport | None = None

    def __init__(
        self,
        cfg: GroupSAERunnerConfig[Any],
        override_dataset: HfDataset | None = None,
        override_model: HookedRootModule | None = None,
        override_saes: Mapping[str, TrainingSAE[Any]] | None = None,
        before_loading: Callable[[PreparedRun], None] = lambda _: None,
    ) -> None:
        self._logger: LoggingConfig = cfg.logger
        self._may_be_resumed = cfg.resume_from_checkpoint is not None
        prepared = prepare(cfg, override_dataset, override_model, override_saes)
        before_loading(prepared)
        cfg = self.cfg = prepared.cfg
        self.checkpoint = prepared.settled.checkpoint
        self._rows, self._dataset_path = prepared.rows, prepared.dataset_path
        self.model = override_model or load_hooked_model(cfg, prepared.loaded_groups)
        completed = complete(prepared, self.model)
        self.groups, self.plan = completed.groups, completed.plan
        self._transfer, self._norms = completed.transfer, completed.norms
        self._dataset_id = DatasetId(self._dataset_path, completed.dataset_fingerprint)
        compile_if_asked(cfg, self.model)
        store = CachedActivationsStore if cfg.use_cached_activations else GroupActivationsStore
        self.activations_store = store.from_group_config(
            self.model, cfg, self.groups, self._rows, self._norms.limits(cfg.hook_template)
        )
        self._begins_with_bos = self.activations_store.begins_with_bos
        # Before the run's own SAEs, whose training takes more memory than this.
        self._sae_step_flops = _flops_if_counted(cfg)
        # The global generator decides initial weights here and the shuffling in `run`. It is
        # seeded apart from whatever else the process draws, and carried over between the two.
        with torch.random.fork_rng():
            torch.manual_seed(cfg.seed)
            self.saes = initial_saes(cfg, self.groups, override_saes)
            self._rng_state = torch.get_rng_state()
        if self.checkpoint is not None:
            self.checkpoint.warn_of_other_settings(cfg)

    def run(self) -> SAESuite:
        """Trains every group, writes the suite to `cfg.output_path`, and returns it.

        Raises:
            TrainingInterrupted: after SIGINT or SIGTERM, with the progress saved in
                `cfg.checkpoint_path`.
            DatasetError, NonFiniteActivationsError, TrainingError: a row of the dataset cannot be
                used, or the language model gave NaN, infinity or an error; with the progress saved
                there too.
            DivergedError: the loss of a group became NaN or infinite.
            OutputFolderError: another run is writing to `cfg.output_path`.
        """
        facts = {**self.cfg.to_dict(), "activation_norms": self._norms.to_dict()}
        facts["training_step"] = steps_text(self.saes.values(), self.cfg.fast_step)
        with (
            only_writer(self.cfg.output_path),
            wandb_run(self.cfg.logger, facts, may_exist=self._may_be_resumed) as self._logger,
        ):
            return self._run()

    def _run(self) -> SAESuite:
        self._stop = StopRequest()
        with self._stop.listening(), self._trained() as (trainer, checkpoints):
            suite = self._saved_suite(trainer, checkpoints)
        self._stop.deliver_again()  # it came too late to stop training, so the suite is whole
        if self._logger.log_to_wandb:
            self._upload(trainer, suite)
        return suite

    def _saved_suite(self, trainer: GroupTrainer, checkpoints: RunCheckpoints) -> SAESuite:
        """The suite, written where the config asks for it. Nothing that goes wrong here loses it."""
        try:
            return self._exported(trainer)
        except Exception as error:  # a full disk, too little memory, a folder that is gone
            raise OutputFolderError(
                f"the suite could not be written to {self.cfg.output_path!r}: "
                f"{in_one_line(error)}; {checkpoints.saved_state()}, from which "
                "resume_from_checkpoint writes it"
            ) from error

    def _exported(self, trainer: GroupTrainer) -> SAESuite:
        trainers = list(trainer.group_trainers.values())
        self.faults = faults_of_training(self.cfg, trainers, trainer.curves.points)
        trained = export_suite(
            self.cfg,
            trainers,
            self._norms,
            self.plan,
            self._finished_report(trainers),
            dataset_rows_read=self._dataset_rows_read(),
            dataset_fingerprint=self._dataset_id.fingerprint,
            begins_with_bos=self._begins_with_bos,
            training_curves=trainer.curves.points,
            sae_step_flops=self._sae_step_flops,
        )
        if self.cfg.init_keep_layers:
            assert self._transfer is not None
            try:
                return self._written(with_kept_layers(trained, self._transfer.source))
            except (GroupSAEError, OSError) as error:
                warnings.warn(f"the layers of init_from are not kept: {error}", stacklevel=2)
        return self._written(trained)

    def _dataset_rows_read(self) -> int | None:
        if self._dataset_path is None:  # it may not be the one that the config names
            return None
        source = None if self._transfer is None else self._transfer.source
        try:
            return rows_read_with_source(self._rows.n_read, self._dataset_id, source)
        except (GroupSAEError, OSError) as error:
            warnings.warn(f"the rows that init_from read are not known: {error}", stacklevel=2)
            return None

    def _written(self, suite: SAESuite) -> SAESuite:
        if self.cfg.output_path is not None:
            # Taken while we trained? A finished suite is not to be lost to that.
            suite.save(files.free_folder(self.cfg.output_path))
        return suite

    def _finished_report(self, trainers: list[GroupSAETrainer]) -> TransferReport | None:
        if self._transfer_report is None:
            return None
        try:
            return self._transfer_report.finished(self._scores().of(trainers))
        except Exception as error:  # of the language model, the dataset or the Hub
            warnings.warn(f"the trained SAEs could not be scored: {error}", stacklevel=2)
            return self._transfer_report

    # --- training ---

    @contextlib.contextmanager
    def _trained(self) -> Iterator[tuple[GroupTrainer, RunCheckpoints]]:
        """Trains, and holds what a last checkpoint needs until the suite is written."""
        with torch.random.fork_rng():
            torch.set_rng_state(self._rng_state)
            # Before the batches, whose prefetching thread uses the model too.
            moments = self._layer_moments()
            batches = self._batches()
            try:
                trainer = self._trainer(batches)
                if self.checkpoint is None:
                    self._prepare(trainer, batches, moments)
                else:
                    self._go_on(trainer, self.checkpoint)
                self._compile_saes_if_asked()
                with contextlib.closing(RunCheckpoints(self.cfg, trainer)) as checkpoints:
                    self._fit(trainer, checkpoints)
                    batches.close()  # its thread uses the language model
                    yield trainer, checkpoints
            finally:
                batches.close()

    def _batches(self) -> TrainingBatches:
        """The training batches, behind those that a checkpoint's run has had."""
        stream = BatchStream(self.activations_store, self._rng_state)
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
        cfg = self.cfg
        trainer = GroupTrainer(
            cfg=replace(cfg.to_sae_trainer_config(), logger=self._logger),
            saes=self.saes,
            groups=self.groups,
            data_provider=batches,
            save_checkpoint_fn=partial(self._add_runner_files, batches),
            fast_step=cfg.fast_step,
            verbose=cfg.verbose,
        )
        groups = trainer.group_trainers
        trainer.evaluator = GroupEvaluator(cfg, self.model, self.activations_store, groups)
        return trainer

    def _fit(self, trainer: GroupTrainer, checkpoints: RunCheckpoints) -> None:
        def after_step() -> None:
            self._stop.raise_if_requested()
            checkpoints.save_if_due()

        trainer.after_step = after_step
        try:
            trainer.fit()
            trainer.require_finite()
        except TrainingInterrupted as interruption:
            raise checkpoints.saved(interruption) from None
        except DivergedError as error:
            raise DivergedError(f"{error}; {checkpoints.last_one()}") from None
        except GroupSAEError as error:  # between two steps: of the dataset or the language model
            raise type(error)(f"{error}; {checkpoints.saved_state()}") from error.__cause__
        except Exception as error:  # in a step, which some groups have made and others have not
            where = f"in training step {trainer.n_training_steps}: {in_one_line(error)}"
            raise TrainingError(f"{where}; {checkpoints.last_one()}") from error

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
        if self._transfer is None:
            return
        scalings = {name: one.scaling for name, one in trainer.group_trainers.items()}
        self._transfer.apply(self.saes, scalings, moments)
        with batches.paused():
            zero_shot = self._scores().of(trainer.group_trainers.values())
        self._transfer_report = self._transfer.report(zero_shot)

    def _go_on(self, trainer: GroupTrainer, checkpoint: Checkpoint) -> None:
        """Takes over all that a checkpoint holds, but for this run's own settings of optimisers."""
        with checkpoint.readable():
            trainer.load_checkpoint(checkpoint.path)
        self._transfer_report = checkpoint.transfer(self.cfg.hook_template)

    def _scores(self) -> SuiteScores:
        limits = self._norms.ordinary_limits(self.cfg.hook_template)
        return SuiteScores(self.cfg, self.model, self._rows.dataset, self.groups, limits)

    def _compile_saes_if_asked(self) -> None:
        if not self.cfg.compile_sae:
            return
        backend = "aot_eager" if self.cfg.device == "mps" else "inductor"
        for sae in self.saes.values():
            sae.training_forward_pass = torch.compile(  # type: ignore[method-assign]
                sae.training_forward_pass, mode=self.cfg.sae_compilation_mode, backend=backend
            )

    def _add_runner_files(self, batches: TrainingBatches, checkpoint_path: Path | None) -> None:
        if checkpoint_path is not None:
            report = self._transfer_report
            save_runner_files(checkpoint_path, self.cfg, batches, self.plan, report)

    def _upload(self, trainer: GroupTrainer, suite: SAESuite) -> None:
        """Uploads each group's SAE to W&B as SAELens uploads a finished SAE."""
        if suite.path is None:
            return
        for name, group_trainer in trainer.group_trainers.items():
            folder = suite.path / files.group_folder(name)
            self._logger.log(
                group_trainer,
                folder / SAE_WEIGHTS_FILENAME,
                folder / SAE_CFG_FILENAME,
                sparsity_path=None,
                wandb_aliases=["final_model"],
            )


def _flops_if_counted(cfg: GroupSAERunnerConfig[Any]) -> float | None:
    try:
        return flops_of_sae_step(cfg)
    except RuntimeError:  # of torch, on some device or another: no reason not to train
        return None
