"""Turns a group's training SAE and one layer's scaler into that layer's plain inference SAE.

A group SAE f works on normalised rows s*x. The layer's SAE has to compute f(s*x) / s from x.
Dividing only the vectors by s does that for every SAELens architecture and leaves W_enc and W_dec
bit-identical across the layers of a group, so a chunked store keeps them once. The features of
the layer's SAE are then 1/s times the group's.
"""

from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups.errors import ConfigError
from sae_lens_groups.normalization import ESTIMATED_MODES, whitening_of
from sae_lens_groups.quiet import without_model_kwargs_advice

_MATRICES = frozenset({"W_enc", "W_dec"})
# In units of the SAE's input, so they scale with it.
_VECTORS = frozenset({"b_enc", "b_dec", "b_gate", "b_mag", "threshold"})
_SCALE_FREE = frozenset({"r_mag"})  # the gated SAE's log ratio of magnitude to gate
_SCALED_SETTINGS = ("residual_threshold",)  # matching pursuit stops at this residual norm


def require_foldable(sae: TrainingSAE[Any], mode: str) -> None:
    """Refuses, before training, an architecture whose parameters we cannot scale at export.

    Raises:
        ConfigError: a parameter is none of those of SAELens's own architectures.
    """
    if mode not in ESTIMATED_MODES:
        return
    unknown = _inference_state(sae).keys() - _MATRICES - _VECTORS - _SCALE_FREE
    if unknown:
        raise ConfigError(
            f"architecture {sae.cfg.architecture()!r} has the parameters "
            f"{', '.join(sorted(unknown))}, for which normalize_activations={mode!r} cannot be "
            "folded per layer; set normalize_activations to none"
        )


@torch.no_grad()
def layer_sae(
    group_sae: TrainingSAE[Any], scaler: ActivationScaler, metadata: dict[str, Any]
) -> SAE[Any]:
    """A plain SAE that equals `scaler.unscale(group_sae(scaler.scale(x)))`.

    Args:
        group_sae: the trained group SAE; it is left as it is and shares no memory with the result.
        scaler: the layer's normalisation.
        metadata: the layer's own entries, put over those of the group SAE.
    """
    if whitening_of(scaler) is not None:
        group_sae = _whitening_folded(group_sae, scaler)
    state = _inference_state(group_sae)
    cfg = group_sae.cfg.get_inference_sae_cfg_dict()
    if scaler.scaling_factor is not None:
        _divide_vectors(state, cfg, scaler.scaling_factor)
    cfg["metadata"] = {**cfg["metadata"], **metadata}
    # SAE.load_from_disk builds an SAE from the same two parts.
    with without_model_kwargs_advice():
        sae = SAE.from_dict(cfg)
    sae.process_state_dict_for_loading(state)
    sae.load_state_dict(state)
    return sae


def _inference_state(sae: TrainingSAE[Any]) -> dict[str, torch.Tensor]:
    """A copy of the parameters, as SAELens saves them for inference."""
    state = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(state)
    return state


def _whitening_folded(group_sae: TrainingSAE[Any], scaler: ActivationScaler) -> TrainingSAE[Any]:
    """A copy of the group SAE with the layer's whitening in its matrices, as SAELens folds it."""
    with without_model_kwargs_advice():
        folded = TrainingSAE.from_dict(group_sae.cfg.to_dict())
    folded.load_state_dict(group_sae.state_dict())
    whitening = whitening_of(scaler)
    assert whitening is not None
    folded.fold_activation_whitening(
        mean=whitening.mean,
        whitening_matrix=whitening.matrix,
        unwhitening_matrix=whitening.inverse_matrix,
    )
    return folded


def _divide_vectors(
    state: dict[str, torch.Tensor], cfg: dict[str, Any], scaling_factor: float
) -> None:
    for name in _VECTORS & state.keys():
        state[name] = state[name] / scaling_factor
    for name in _SCALED_SETTINGS:
        if name in cfg:
            cfg[name] /= scaling_factor
