"""What a run gives once training is done: its suite, written, and what is likely wrong with it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

from sae_lens import LoggingConfig
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME

from sae_lens_groups import files
from sae_lens_groups.activations import (
    EVERY_ROW,
    ActivationNorms,
    DatasetId,
    GroupActivationsStore,
)
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import GroupSAEError, in_one_line
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan import GroupPlan
from sae_lens_groups.saved import SuiteManifest, TrainingPoint, TransferReport, likely_faults
from sae_lens_groups.suite import SAESuite
from sae_lens_groups.train.export import export_suite, figures_of_groups, scaling_factors_of
from sae_lens_groups.train.fast_step import steps_text
from sae_lens_groups.train.group_trainer import GroupTrainer
from sae_lens_groups.train.ranks.suite import saved_by_all
from sae_lens_groups.train.ranks.world import World
from sae_lens_groups.train.refit.suite import refit_trained, set_rows_read
from sae_lens_groups.train.sweep import Setting
from sae_lens_groups.train.trainer import GroupSAETrainer
from sae_lens_groups.transfer import Transfer, with_kept_layers

_PACKAGES = ("sae-lens-groups", "sae-lens", "transformer-lens", "torch")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What is known of a run beside its SAEs."""

    setting: Setting
    world: World
    groups: tuple[LayerGroup, ...]
    own: tuple[LayerGroup, ...]
    """Those whose SAEs this process writes."""
    norms: ActivationNorms
    plan: GroupPlan | None
    transfer: Transfer | None
    store: GroupActivationsStore
    dataset: DatasetId
    begins_with_bos: bool
    sae_step_flops: float | None

    @property
    def cfg(self) -> GroupSAERunnerConfig[Any]:
        """That of its setting."""
        return self.setting.cfg

    def faults(
        self, own: Sequence[GroupSAETrainer], points: tuple[TrainingPoint, ...]
    ) -> list[str]:
        """What is likely wrong with the trained groups, and the setting to change."""
        figures = self.world.merged(lambda: figures_of_groups(own, points))
        in_order = [figures[group.name] for group in self.groups if group.name in figures]
        found = likely_faults(in_order, self.cfg.to_dict())
        return [f"{self.setting.name}: {fault}" for fault in found] if self.setting.name else found

    def suite(
        self,
        own: Sequence[GroupSAETrainer],
        points: tuple[TrainingPoint, ...],
        report: TransferReport | None,
        output_path: str | None,
    ) -> SAESuite:
        """The suite of all groups, written where it is asked for."""
        trained = export_suite(
            self.cfg, self._manifest(own, report), own, self.norms, self.begins_with_bos, points
        )
        if self.cfg.refit_tokens:
            trained = self._refitted(trained)
        if self.cfg.init_keep_layers:
            assert self.transfer is not None
            source = self.transfer.source
            try:
                filled_in = self.world.agreed(lambda: with_kept_layers(trained, source))
                return self._written(filled_in, output_path)
            except (GroupSAEError, OSError) as error:
                warnings.warn(f"the layers of init_from are not kept: {error}", stacklevel=2)
        return self._written(trained, output_path)

    def _manifest(
        self, own: Sequence[GroupSAETrainer], report: TransferReport | None
    ) -> SuiteManifest:
        cfg, factors = self.cfg, self.world.merged(lambda: scaling_factors_of(own))
        return SuiteManifest(
            groups=self.groups,
            hook_template=cfg.hook_template,
            scaling_factors={layer: factors[layer] for of in self.groups for layer in of.layers},
            model_name=cfg.model_name,
            versions={name: version(name) for name in _PACKAGES},
            layer_alignment=cfg.layer_alignment,
            plan=self.plan,
            transfer=report,
            dataset_rows_read=self._dataset_rows_read(),
            dataset_fingerprint=self.dataset.fingerprint,
            sae_step_flops=self.sae_step_flops,
            training_step=steps_text([trainer.sae for trainer in own], cfg.fast_step),
            recipe=cfg.recipe,
        )

    def _refitted(self, suite: SAESuite) -> SAESuite:
        """As it was, with a warning, where refitting fails: training took longer."""
        try:
            suite = self.world.agreed(
                lambda: refit_trained(suite, self.own, self.cfg, self.store, self.norms)
            )
        except Exception as error:  # of the dataset, the language model, or too little memory
            warnings.warn(f"decoders are not refitted: {in_one_line(error)}", stacklevel=3)
        else:  # which may read on where training ended
            set_rows_read(suite, self._dataset_rows_read())
        return suite

    def _dataset_rows_read(self) -> int | None:
        n_read = max(self.world.gathered(lambda: self.store.rows.n_read))
        # Without a path it may not be the dataset that the config names.
        return None if self.dataset.path is None or n_read == EVERY_ROW else n_read

    def _written(self, suite: SAESuite, output_path: str | None) -> SAESuite:
        if output_path is None:
            return suite
        own = list(self.own)
        if self.world.is_first:  # who adds the groups that were kept
            own += [group for group in suite.groups if group not in self.groups]
        return saved_by_all(self.world, suite, own, output_path)

    def upload(self, suite: SAESuite, trainer: GroupTrainer, logger: LoggingConfig) -> None:
        """Uploads each group's SAE to W&B as SAELens uploads a finished SAE."""
        if suite.path is None:
            return
        of_any, setting = next(iter(trainer.group_trainers.values())).cfg, self.setting.name
        for group in self.groups:
            folder = suite.path / files.group_folder(group.name)
            logger.log(
                SimpleNamespace(sae=suite.group(group), cfg=of_any, setting=setting),
                folder / SAE_WEIGHTS_FILENAME,
                folder / SAE_CFG_FILENAME,
                sparsity_path=None,
                wandb_aliases=["final_model"],
            )
