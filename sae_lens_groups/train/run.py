"""Trains one SAE per group of layers from one shared pass of the language model."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import wandb
from sae_lens import TrainingSAE
from sae_lens.config import HfDataset
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from transformer_lens import HookedRootModule

from sae_lens_groups import files
from sae_lens_groups.activations import (
    BatchStream,
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
    NonFiniteActivationsError,
    OutputFolderError,
    TrainingInterrupted,
)
from sae_lens_groups.files import only_writer
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan import GroupPlan
from sae_lens_groups.plugins import alignments
from sae_lens_groups.saved import TransferReport
from sae_lens_groups.scaling import NONE, LayerPair, PairMoments
from sae_lens_groups.suite import SAESuite
from sae_lens_groups.train.cache.read import CachedActivationsStore
from sae_lens_groups.train.checkpoints.checkpoint import Checkpoint, rescale_learning_rate
from sae_lens_groups.train.checkpoints.save import UNWRITABLE, RunCheckpoints, save_runner_files
from sae_lens_groups.train.cost import flops_of_sae_step
from sae_lens_groups.train.evals import GroupEvaluator, SuiteScores
from sae_lens_groups.train.export import export_suite
from sae_lens_groups.train.group_trainer import GroupTrainer
from sae_lens_groups.train.initial import initial_saes
from sae_lens_groups.train.prepare import complete, prepare
from sae_lens_groups.train.stop import StopRequest
from sae_lens_groups.train.trainer import GroupSAETrainer
from sae_lens_groups.transfer import rows_read_with_source, with_kept_layers


class GroupSAETrainingRunner:
    """Trains a suite: `GroupSAETrainingRunner(cfg).run()` returns a `SAESuite`.

    Args:
        cfg: a SAELens config with `layer_groups`.
        override_dataset: trains on this dataset instead of `cfg.dataset_path`.
        override_model: uses this model instead of loading `cfg.model_name`.
        override_saes: starts from these SAEs, by group name such as `layers_0-3`.

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
    _transfer_report: TransferReport | None = None

    def __init__(
        self,
        cfg: GroupSAERunnerConfig[Any],
        override_dataset: HfDataset | None = None,
        override_model: HookedRootModule | None = None,
        override_saes: Mapping[str, TrainingSAE[Any]] | None = None,
    ) -> None:
        prepared = prepare(cfg, override_dataset, override_model, override_saes)
        cfg = self.cfg = prepared.cfg
        self._checkpoint = prepared.settled.checkpoint
        self._dataset, self._dataset_path = prepared.dataset, prepared.dataset_path
        self.model = override_model or load_hooked_model(cfg, prepared.loaded_groups)
        completed = complete(prepared, self.model)
        self.groups, self.plan = completed.groups, completed.plan
        self._transfer, self._norms = completed.transfer, completed.norms
        compile_if_asked(cfg, self.model)
        store = CachedActivationsStore if cfg.use_cached_activations else GroupActivationsStore
        self.activations_store = store.from_group_config(
            self.model, cfg, self.groups, self._dataset, self._norms.limits(cfg.hook_template)
        )
        # Before the run's own SAEs, whose training takes more memory than this.
        self._sae_step_flops = _flops_if_counted(cfg)
        # The global generator decides initial weights here and the shuffling in `run`. It is
        # seeded apart from whatever else the process draws, and carried over between the two.
        with torch.random.fork_rng():
            torch.manual_seed(cfg.seed)
            self.saes = initial_saes(cfg, self.groups, override_saes)
            self._rng_state = torch.get_rng_state()
        if self._checkpoint is not None:
            self._checkpoint.warn_of_other_settings(cfg)

    def run(self) -> SAESuite:
        """Trains every group, writes the suite to `cfg.output_path`, and returns it.

        Raises:
            TrainingInterrupted: after SIGINT or SIGTERM, with the progress saved in
                `cfg.checkpoint_path`.
            NonFiniteActivationsError: the language model gave NaN or infinity; with the progress
                saved there too.
            DivergedError: the loss of a group did.
            OutputFolderError: another run is writing to `cfg.output_path`.
        """
        with only_writer(self.cfg.output_path):
            return self._run()

    def _run(self) -> SAESuite:
        if self.cfg.logger.log_to_wandb:
            self._start_wandb()
        self._stop = StopRequest()
        with self._stop.listening(), self._trained() as (trainer, checkpoints):
            suite = self._saved_suite(trainer, checkpoints)
        self._stop.deliver_again()  # it came too late to stop training, so the suite is whole
        if self.cfg.logger.log_to_wandb:
            self._finish_wandb(trainer, suite)
        return suite

    def _saved_suite(self, trainer: GroupTrainer, checkpoints: RunCheckpoints) -> SAESuite:
        """The suite, written where the config asks for it. Nothing that goes wrong here loses it."""
        trainers = list(trainer.group_trainers.values())
        trained = export_suite(
            self.cfg,
            trainers,
            self._norms,
            self.plan,
            self._finished_report(trainers),
            dataset_rows_read=self._dataset_rows_read(),
            training_curves=trainer.curves.points,
            sae_step_flops=self._sae_step_flops,
        )
        if self.cfg.init_keep_layers:
            assert self._transfer is not None
            try:
                return self._written(with_kept_layers(trained, self._transfer.source), checkpoints)
            except (GroupSAEError, OSError) as error:
                warnings.warn(f"the layers of init_from are not kept: {error}", stacklevel=2)
        return self._written(trained, checkpoints)

    def _dataset_rows_read(self) -> int | None:
        if self._dataset_path is None:  # it may not be the one that the config names
            return None
        source = None if self._transfer is None else self._transfer.source
        n_rows = self.activations_store.n_dataset_processed
        try:
            return rows_read_with_source(n_rows, self._dataset_path, source)
        except (GroupSAEError, OSError) as error:
            warnings.warn(f"the rows that init_from read are not known: {error}", stacklevel=2)
            return None

    def _written(self, suite: SAESuite, checkpoints: RunCheckpoints) -> SAESuite:
        if self.cfg.output_path is None:
            return suite
        # Taken while we trained? A finished suite is not to be lost to that.
        folder = files.free_folder(self.cfg.output_path)
        try:
            suite.save(folder)
        except UNWRITABLE as error:
            raise OutputFolderError(
                f"the suite could not be written to {str(folder)!r}: {error}; "
                f"{checkpoints.saved_state()}, from which resume_from_checkpoint writes it"
            ) from error
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
                if self._checkpoint is None:
                    self._prepare(trainer, batches, moments)
                else:
                    self._go_on(trainer, self._checkpoint)
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
        if self._checkpoint is not None:
            with self._checkpoint.readable():
                stream.load(self._checkpoint.path)
        return TrainingBatches(stream, int(self.cfg.prefetch_llm_batches))

    def _layer_moments(self) -> dict[LayerPair, PairMoments]:
        """How layers relate to one another, where an alignment is fitted and no checkpoint has it."""
        if self._checkpoint is not None:
            return {}
        pairs = set() if self._transfer is None else self._transfer.pairs
        if self.cfg.layer_alignment != NONE:
            pairs |= pairs_with_middle_layers(self.groups)
        limits = self._norms.limits(self.cfg.hook_template)
        return moments_of_pairs(self.cfg, self.model, self._dataset, pairs, limits)

    def _trainer(self, batches: TrainingBatches) -> GroupTrainer:
        cfg = self.cfg
        trainer = GroupTrainer(
            cfg=cfg.to_sae_trainer_config(),
            saes=self.saes,
            groups=self.groups,
            data_provider=batches,
            save_checkpoint_fn=partial(self._add_runner_files, batches),
            fast_step=cfg.fast_step,
            compile_sae=cfg.compile_sae,
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
        except NonFiniteActivationsError as error:
            raise NonFiniteActivationsError(f"{error}; {checkpoints.saved_state()}") from None
        except DivergedError as error:
            raise DivergedError(f"{error}; {checkpoints.last_one()}") from None

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
        """Takes over all that a checkpoint holds, and this run's own learning rate."""
        with checkpoint.readable():
            trainer.load_checkpoint(checkpoint.path)
        lr = checkpoint.settings["lr"]
        if self.cfg.lr != lr:
            for one in trainer.group_trainers.values():
                rescale_learning_rate(one.optimizer, one.lr_scheduler, self.cfg.lr / lr)
        self._transfer_report = checkpoint.transfer(self.cfg.hook_template)

    def _scores(self) -> SuiteScores:
        return SuiteScores(self.cfg, self.model, self._dataset, self.groups)

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

    # --- W&B ---

    def _start_wandb(self) -> None:
        log = self.cfg.logger
        wandb.init(
            project=log.wandb_project,
            entity=log.wandb_entity,
            config={**self.cfg.to_dict(), "activation_norms": self._norms.to_dict()},
            name=log.run_name,
            id=log.wandb_id,
        )

    def _finish_wandb(self, trainer: GroupTrainer, suite: SAESuite) -> None:
        """Uploads each group's SAE as SAELens uploads a finished SAE, and ends the W&B run."""
        if suite.path is not None:
            for name, group_trainer in trainer.group_trainers.items():
                folder = suite.path / files.group_folder(name)
                self.cfg.logger.log(
                    group_trainer,
                    folder / SAE_WEIGHTS_FILENAME,
                    folder / SAE_CFG_FILENAME,
                    sparsity_path=None,
                    wandb_aliases=["final_model"],
                )
        wandb.finish()


def _flops_if_counted(cfg: GroupSAERunnerConfig[Any]) -> float | None:
    try:
        return flops_of_sae_step(cfg)
    except RuntimeError:  # of torch, on some device or another: no reason not to train
        return None
