"""Turns a group's training SAE and one layer's scaler into that layer's plain inference SAE.

A group SAE f works on normalised rows s*x. The layer's SAE has to compute f(s*x) / s from x.
Dividing only the vectors by s does that for every SAELens architecture and leaves W_enc and W_dec
bit-identical across the layers of a group, so a chunked store keeps them once. The features of
the layer's SAE are then 1/s times the group's. An alignment goes into the matrices, layer by layer.
"""

from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups.alignment import LayerMap, layer_map_of
from sae_lens_groups.errors import ConfigError
from sae_lens_groups.normalization import ESTIMATED_MODES, whitening_of
from sae_lens_groups.quiet import without_model_kwargs_advice

_MATRICES = frozenset({"W_enc", "W_dec"})
# In units of the SAE's input, so they scale with it.
_VECTORS = frozenset({"b_enc", "b_dec", "b_gate", "b_mag", "threshold"})
_ENCODER_BIASES = frozenset({"b_enc", "b_gate"})
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
    layer_map, whitening = layer_map_of(scaler), whitening_of(scaler)
    if whitening is not None and layer_map is None:
        group_sae = _whitening_folded(group_sae, scaler)
    state = _inference_state(group_sae)
    cfg = group_sae.cfg.get_inference_sae_cfg_dict()
    if layer_map is not None:
        _fold_map(state, cfg, layer_map)
    if scaler.scaling_factor is not None:
        _divide_vectors(state, cfg, scaler.scaling_factor)
    cfg["metadata"] = {**cfg["metadata"], **metadata}
    # SAE.load_from_disk builds an SAE from the same two parts.
    with without_model_kwargs_advice():
        sae = SAE.from_dict(cfg)
    sae.process_state_dict_for_loading(state)
    sae.load_state_dict(state)
    if whitening is not None and layer_map is not None:
        _fold_whitening(sae, whitening)  # the map follows it, so it is folded after the map
    return sae


def _fold_map(state: dict[str, torch.Tensor], cfg: dict[str, Any], layer_map: LayerMap) -> None:
    """Puts a map in front of the SAE with these inference parameters, and its way back behind it."""
    old = {name: tensor.double() for name, tensor in state.items()}
    device = old["W_dec"].device
    reverse_DD = layer_map.reverse_matrix_DD.to(device)
    new = {
        "W_dec": old["W_dec"] @ reverse_DD,
        "b_dec": old["b_dec"] @ reverse_DD + layer_map.reverse_offset_D.to(device),
    }
    if "W_enc" in old:  # matching pursuit's encoder is its decoder
        new["W_enc"] = layer_map.matrix_DD.to(device) @ old["W_enc"]
        shift_F = layer_map.offset_D.to(device) @ old["W_enc"]
        if cfg["apply_b_dec_to_input"]:
            shift_F = shift_F - old["b_dec"] @ old["W_enc"] + new["b_dec"] @ new["W_enc"]
        for name in _ENCODER_BIASES & old.keys():
            new[name] = old[name] + shift_F
        if "b_mag" in old:  # added to W_enc exp(r_mag)
            new["b_mag"] = old["b_mag"] + shift_F * old["r_mag"].exp()
    state.update({name: tensor.to(state[name].dtype) for name, tensor in new.items()})
    if "rescale_acts_by_decoder_norm" in cfg:
        # Saving for inference has put the decoder's norms into the encoder; the map's are new.
        cfg["rescale_acts_by_decoder_norm"] = False


def _fold_whitening(sae: Any, whitening: Any) -> None:
    sae.fold_activation_whitening(
        mean=whitening.mean,
        whitening_matrix=whitening.matrix,
        unwhitening_matrix=whitening.inverse_matrix,
    )


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
    _fold_whitening(folded, whitening_of(scaler))
    return folded


def _divide_vectors(
    state: dict[str, torch.Tensor], cfg: dict[str, Any], scaling_factor: float
) -> None:
    for name in _VECTORS & state.keys():
        state[name] = state[name] / scaling_factor
    for name in _SCALED_SETTINGS:
        if name in cfg:
            cfg[name] /= scaling_factor
