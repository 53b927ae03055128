"""Trained SAEs as they lie on disk and on the Hub."""

from sae_lens_groups.saved.diagnosis import Figures, figures_of_training, likely_faults
from sae_lens_groups.saved.hub import HubRepo, as_hub_errors, require_repo_id
from sae_lens_groups.saved.layer_table import layer_table
from sae_lens_groups.saved.manifest import SuiteManifest, group_metadata, is_of_suite
from sae_lens_groups.saved.open import named_by, open_saes, training_tokens_of
from sae_lens_groups.saved.others import UNKNOWN
from sae_lens_groups.saved.sae import SavedSAE, is_groups_own
from sae_lens_groups.saved.source import RenamedSource, SAESource, WrappedSource
from sae_lens_groups.saved.sweep_index import (
    SettingValue,
    SweepIndex,
    SweepSetting,
    is_sweep_folder,
    read_sweep_index,
    write_sweep_index,
)
from sae_lens_groups.saved.training_curves import (
    TrainingCurves,
    TrainingPoint,
    points_from_csv,
    points_to_csv,
)
from sae_lens_groups.saved.transfer_report import (
    FeaturesBy,
    LayerTransfer,
    Scores,
    TransferReport,
)
from sae_lens_groups.saved.write import finish_suite, write_groups, write_suite
