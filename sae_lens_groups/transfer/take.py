"""Gives an SAE the parameters of another, fitted to its own activations.

Shapes: D = d_in, F = d_sae.
"""

from typing import Any

import torch
from sae_lens import SAE, TrainingSAE

from sae_lens_groups.config import INIT_PARAMETERS
from sae_lens_groups.errors import InitSourceError
from sae_lens_groups.scaling import (
    LayerScaler,
    behind_factor,
    behind_map,
    pre_activations_shifted,
    unknown_parameters,
)
from sae_lens_groups.transfer.training_form import training_state

ALL_PARAMETERS, ENCODER, _DECODER = INIT_PARAMETERS

_State = dict[str, torch.Tensor]
_OF_DECODER = frozenset({"W_dec", "b_dec"})


@torch.no_grad()
def take_parameters(
    sae: TrainingSAE[Any], source: SAE[Any], scaler: LayerScaler, which: str = ALL_PARAMETERS
) -> None:
    """Makes `sae` compute `scaler.unscale(source(scaler.scale(x)))`, in place.

    Args:
        sae: a fresh SAE to train.
        source: in training or inference form; convertible to the architecture of `sae`.
        scaler: from the activations of `sae` to those of the source.
        which: `all` parameters; those of the `encoder`, whose pre-activations then equal the
            source's; or those of the `decoder`. The other half starts as the transpose of the one
            taken, as SAELens ties the two in a fresh SAE; a decoder with the source's norms.

    Raises:
        InitSourceError: the source has parameters that cannot be fitted.
    """
    ranks_by_norms = getattr(sae.cfg, "rescale_acts_by_decoder_norm", False)
    taken = _behind(scaler, source, training_state(source, sae.cfg), ranks_by_norms=ranks_by_norms)
    b_dec_D = taken["b_dec"]
    if which == _DECODER:
        taken = _decoder_with_transpose(taken)
    elif which == ENCODER:
        taken = _encoder_with_transpose(taken)
    sae.process_state_dict_for_loading(taken)  # SAELens's names, which differ by version
    own = {name: tensor.cpu() for name, tensor in sae.state_dict().items()}
    new = own | {name: tensor.cpu() for name, tensor in taken.items()}
    if which != _DECODER and "W_enc" in new:
        # b_dec, or whether it is taken off the input, may not be the source's.
        offset_D = sae.cfg.apply_b_dec_to_input * new["b_dec"].double()
        offset_D -= source.cfg.apply_b_dec_to_input * b_dec_D.cpu().double()
        if offset_D.any():
            new |= pre_activations_shifted(new, offset_D @ new["W_enc"].double())
    sae.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in new.items()})


@torch.no_grad()
def take_decoder(
    sae: TrainingSAE[Any], group_sae: SAE[Any], refitted: SAE[Any], scaler: LayerScaler
) -> None:
    """Gives an SAE that took a group's parameters the decoder of a refitted layer, in place.

    Args:
        sae: computes what the layer's SAE did before it was refitted.
        group_sae: what its parameters were taken from.
        refitted: the layer's plain SAE, whose latents are in units of raw activations.
        scaler: from the activations of `sae` to those of the plain one.
    """
    decoder = {name: refitted.state_dict()[name] for name in _OF_DECODER}
    if scaler.layer_map is not None:
        decoder = behind_map(decoder, scaler.layer_map, applies_b_dec=False)
    if scaler.scaling_factor is not None:
        decoder = behind_factor(decoder, scaler.scaling_factor)
    if getattr(group_sae.cfg, "rescale_acts_by_decoder_norm", False):
        # Its rows' norms are in the encoder of the plain one.
        decoder["W_dec"] = decoder["W_dec"] * group_sae.W_dec.cpu().norm(dim=1, keepdim=True)
    own = {name: tensor.cpu() for name, tensor in sae.state_dict().items()}
    if sae.cfg.apply_b_dec_to_input:
        moved_F = (decoder["b_dec"] - own["b_dec"]).double() @ own["W_enc"].double()
        own |= pre_activations_shifted(own, moved_F)
    sae.load_state_dict({**own, **decoder})


def _behind(
    scaler: LayerScaler, source: SAE[Any], state: _State, *, ranks_by_norms: bool
) -> _State:
    """The source's parameters, for activations that have yet to pass the scaler."""
    changes = scaler.layer_map is not None or scaler.scaling_factor is not None
    if changes and (unknown := unknown_parameters(state)):
        raise InitSourceError(
            f"architecture {source.cfg.architecture()!r} has the parameters {', '.join(unknown)}, "
            "which cannot be fitted to other activations; set init_alignment to none and use "
            "the normalize_activations of the source"
        )
    if scaler.layer_map is not None:
        applies_b_dec = source.cfg.apply_b_dec_to_input
        moved = behind_map(state, scaler.layer_map, applies_b_dec=applies_b_dec)
        # BatchTopK's threshold is in units of its decoder's norms, where it ranks by them.
        if "topk_threshold" in state and ranks_by_norms:
            grown = moved["W_dec"].norm(dim=1).mean() / state["W_dec"].norm(dim=1).mean()
            moved["topk_threshold"] = state["topk_threshold"] * grown
        state = moved
    if scaler.scaling_factor is not None:
        state = behind_factor(state, scaler.scaling_factor)
    return state


def _decoder_with_transpose(state: _State) -> _State:
    half = {name: state[name] for name in _OF_DECODER}
    if "W_enc" in state:  # matching pursuit's encoder is its decoder
        half["W_enc"] = half["W_dec"].T.contiguous()
    return half


def _encoder_with_transpose(state: _State) -> _State:
    half = {name: tensor for name, tensor in state.items() if name not in _OF_DECODER}
    # The decoder's norms stay: TopK-like SAEs rank features by their pre-activations times them.
    norm_F = state["W_dec"].norm(dim=1, keepdim=True)
    half["W_dec"] = norm_F * torch.nn.functional.normalize(half["W_enc"].T, dim=1)
    return half
