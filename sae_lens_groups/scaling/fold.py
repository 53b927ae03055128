"""Puts a layer's scaler into the parameters of an SAE, so that it works on that layer's own rows.

A group SAE f works on normalised rows s*x. The layer's SAE has to compute f(s*x) / s from x.
Dividing only the vectors by s does that for every SAELens architecture and leaves W_enc and W_dec
bit-identical across the layers of a group, so a chunked store keeps them once. The features of
the layer's SAE are then 1/s times the group's. An alignment goes into the matrices, layer by layer.

Shapes: D = d_in, F = d_sae.
"""

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups.errors import ConfigError
from sae_lens_groups.scaling.group_scaling import ESTIMATED_MODES, whitening_of
from sae_lens_groups.scaling.layer_scaler import LayerMap, layer_map_of

_MATRICES = frozenset({"W_enc", "W_dec"})
# In units of the SAE's input, so they scale with it.
_VECTORS = frozenset({"b_enc", "b_dec", "b_gate", "b_mag", "threshold", "topk_threshold"})
_LOGARITHMS = frozenset({"log_threshold"})  # of such vectors; in SAELens 6.44
_ENCODER_BIASES = frozenset({"b_enc", "b_gate"})
_SCALE_FREE = frozenset({"r_mag"})  # the gated SAE's log ratio of magnitude to gate
_SCALED_SETTINGS = frozenset({"residual_threshold"})  # matching pursuit stops at this residual norm


def require_foldable(sae: TrainingSAE[Any], mode: str) -> None:
    """Refuses, before training, an architecture whose parameters we cannot scale at export."""
    if mode not in ESTIMATED_MODES:
        return
    if unknown := unknown_parameters(_inference_state(sae)):
        raise ConfigError(
            f"architecture {sae.cfg.architecture()!r} has the parameters "
            f"{', '.join(unknown)}, for which normalize_activations={mode!r} cannot be "
            "folded per layer; set normalize_activations to none"
        )


def unknown_parameters(state: dict[str, torch.Tensor]) -> list[str]:
    """The names that none of SAELens's own architectures has, so we cannot tell what they mean."""
    return sorted(state.keys() - _MATRICES - _VECTORS - _LOGARITHMS - _SCALE_FREE)


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
        state = behind_map(state, layer_map, applies_b_dec=cfg["apply_b_dec_to_input"])
        if "rescale_acts_by_decoder_norm" in cfg:
            # Saving for inference has put the decoder's norms into the encoder; the map's are new.
            cfg["rescale_acts_by_decoder_norm"] = False
    if scaler.scaling_factor is not None:
        state = behind_factor(state, scaler.scaling_factor)
        for name in _SCALED_SETTINGS & cfg.keys():
            cfg[name] /= scaler.scaling_factor
    cfg["metadata"] = {**cfg["metadata"], **metadata}
    # SAE.load_from_disk builds an SAE from the same two parts.
    with without_model_kwargs_advice():
        sae = SAE.from_dict(cfg)
    sae.process_state_dict_for_loading(state)
    sae.load_state_dict(state)
    if whitening is not None and layer_map is not None:
        _fold_whitening(sae, whitening)  # the map follows it, so it is folded after the map
    return sae


def behind_map(
    state: dict[str, torch.Tensor], layer_map: LayerMap, *, applies_b_dec: bool
) -> dict[str, torch.Tensor]:
    """The parameters of x -> way back(f(map(x))), where `state` are those of f.

    Of an SAE in training or inference form; `applies_b_dec` is its `apply_b_dec_to_input`.
    """
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
        if applies_b_dec:
            shift_F = shift_F - old["b_dec"] @ old["W_enc"] + new["b_dec"] @ new["W_enc"]
        new |= pre_activations_shifted(old, shift_F)
    return state | {name: tensor.to(state[name].dtype) for name, tensor in new.items()}


def behind_factor(state: dict[str, torch.Tensor], factor: float) -> dict[str, torch.Tensor]:
    """The parameters of x -> f(factor * x) / factor, where `state` are those of f.

    The matrices stay as they are, and the features become 1 / factor times what they were.
    """
    divided = {name: state[name] / factor for name in _VECTORS & state.keys()}
    lowered = {name: state[name] - math.log(factor) for name in _LOGARITHMS & state.keys()}
    return state | divided | lowered


def pre_activations_shifted(
    state: dict[str, torch.Tensor], shift_F: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The encoder's biases that add `shift_F` to x @ W_enc."""
    shifted = {name: state[name] + shift_F for name in _ENCODER_BIASES & state.keys()}
    if "b_mag" in state:  # added to x @ W_enc * exp(r_mag)
        shifted["b_mag"] = state["b_mag"] + shift_F * state["r_mag"].exp()
    return shifted


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


@contextlib.contextmanager
def without_model_kwargs_advice() -> Iterator[None]:
    """For building SAEs whose model needs loading options, as most of TransformerLens's do."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r"\s*This SAE has non-empty model_from_pretrained"
        )
        yield
