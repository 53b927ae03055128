"""What a layer's activations pass before the SAE, and how that becomes part of the SAE."""

from sae_lens_groups.scaling.alignments import NONE, SCALE, Alignment
from sae_lens_groups.scaling.estimate import GroupScalingEstimate, estimate_batches
from sae_lens_groups.scaling.fold import (
    behind_factor,
    behind_map,
    layer_sae,
    pre_activations_shifted,
    require_foldable,
    unknown_parameters,
    without_model_kwargs_advice,
)
from sae_lens_groups.scaling.group_scaling import (
    ESTIMATED_MODES,
    MEAN_NORM,
    WHITENING,
    GroupScaling,
    whitening_of,
)
from sae_lens_groups.scaling.layer_scaler import LayerScaler, layer_map_of, scaling_map
from sae_lens_groups.scaling.moments import LayerPair, PairMoments
from sae_lens_groups.scaling.stored import (
    load_layer_scaler,
    load_scaler,
    save_layer_scalers,
)
