"""What trains: one suite, or one for each setting of a sweep."""

from collections.abc import Callable, Mapping
from typing import Any

from sae_lens import TrainingSAE
from sae_lens.config import HfDataset
from transformer_lens import HookedRootModule

from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError
from sae_lens_groups.suite import SAESuite
from sae_lens_groups.train.prepare import PreparedRun
from sae_lens_groups.train.ranks.world import world_of_process
from sae_lens_groups.train.run import TrainingRun
from sae_lens_groups.train.sites import sites_of
from sae_lens_groups.train.sites_run import RunOfSites


class GroupSAETrainingRunner(TrainingRun):
    """Trains a suite: `GroupSAETrainingRunner(cfg).run()` returns a `SAESuite`.

    Args:
        cfg: a SAELens config with `layer_groups`.
        override_dataset: trains on this dataset instead of `cfg.dataset_path`.
        override_model: uses this model instead of loading `cfg.model_name`.
        override_saes: starts from these SAEs, by group name such as `layers_0-3`.
        before_loading: gets what was found, before the language model is loaded.

    Under a launcher such as torchrun it is one of several processes, each of which trains a part of
    the groups (tutorials/distributed.md).

    Raises:
        GroupSAEError: a mistake in the config, found before the model is loaded where possible.
    """

    def __init__(
        self,
        cfg: GroupSAERunnerConfig[Any],
        override_dataset: HfDataset | None = None,
        override_model: HookedRootModule | None = None,
        override_saes: Mapping[str, TrainingSAE[Any]] | None = None,
        before_loading: Callable[[PreparedRun], None] = lambda _: None,
    ) -> None:
        if getattr(cfg, "sweep", None) is not None:
            raise ConfigError("sweep gives several suites; train them with SweepTrainingRunner")
        super().__init__(cfg, override_dataset, override_model, override_saes, before_loading)

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
        (suite,) = self.suites().values()
        return suite

    @property
    def runs(self) -> tuple[TrainingRun, ...]:
        """Itself, as `SweepTrainingRunner` has one for each site."""
        return (self,)


class SweepTrainingRunner:
    """Trains a suite for every setting of `cfg.sweep` on the same passes of the language model:
    `SweepTrainingRunner(cfg).run()` returns them by name, such as `k16-lr0.0003`.

    They lie in folders of these names in `cfg.output_path`. Args and errors are as for
    `GroupSAETrainingRunner`.
    """

    runs: tuple[TrainingRun, ...]
    """One for each site: settings with the same hook and groups train on the same rows."""

    def __init__(
        self,
        cfg: GroupSAERunnerConfig[Any],
        override_dataset: HfDataset | None = None,
        override_model: HookedRootModule | None = None,
        before_loading: Callable[[PreparedRun], None] = lambda _: None,
    ) -> None:
        if getattr(cfg, "sweep", None) is None:
            raise ConfigError('sweep is not given; give settings, such as ["k=16,32,64"]')
        sites = world_of_process().agreed(lambda: sites_of(cfg, override_model))
        if len(sites) == 1:
            run = TrainingRun(sites[0], override_dataset, override_model, None, before_loading)
            self.runs, self.suites = (run,), run.suites
        else:
            together = RunOfSites(cfg, sites, override_dataset, override_model, before_loading)
            self.runs, self.suites = together.runs, together.suites

    def run(self) -> dict[str, SAESuite]:
        """Trains every group with every setting, writes the suites, and returns them by name."""
        return self.suites()
