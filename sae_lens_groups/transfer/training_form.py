"""Brings a trained SAE's parameters into the training form of an architecture.

SAELens saves an SAE for inference with what training needs folded away: TopK's decoder norms go
into its encoder, and BatchTopK becomes a JumpReLU with one threshold for all features. What can be
brought back without changing what the SAE computes is; the rest is refused.
"""

from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.saes.sae import TrainingSAEConfig

from sae_lens_groups.errors import InitSourceError
from sae_lens_groups.scaling import ESTIMATED_MODES
from sae_lens_groups.transfer.resize import require_resizable

# Architectures that SAELens saves as JumpReLU, with their one threshold for every feature.
_SAVED_AS_JUMPRELU = ("batchtopk", "matryoshka_batchtopk")
_SAME_NORM = 1e-4  # float32 rounding of a decoder row that was divided by its norm


def require_convertible(
    sae: SAE[Any], wanted: TrainingSAEConfig, which: str, *, resizes: bool = True
) -> None:
    """Refuses an SAE that has no equal among those that `wanted` describes.

    Args:
        sae: in training or inference form.
        wanted: the SAE to train.
        which: names the SAE in messages.
        resizes: whether it may have another number of features, where the architecture allows it.
    """
    found, asked = _signature(sae.cfg), _signature(wanted)
    becomes = (found["architecture"], asked["architecture"])
    is_saved_form = not isinstance(sae, TrainingSAE) and becomes in {
        ("jumprelu", name) for name in _SAVED_AS_JUMPRELU
    }
    if is_saved_form:
        _require_one_threshold(sae, becomes[1], which)
        found["architecture"] = becomes[1]
    if "W_enc" not in sae.state_dict():
        # SAELens's matching pursuit adds b_dec to its output only where it took it off the input.
        found["apply_b_dec_to_input"] = sae.cfg.apply_b_dec_to_input
        asked["apply_b_dec_to_input"] = wanted.apply_b_dec_to_input
    if _is_normalised_before(sae, wanted):
        found["normalize_activations"] = asked["normalize_activations"]
    if resizes and found["architecture"] == asked["architecture"] and sae.cfg.d_sae != wanted.d_sae:
        require_resizable(asked["architecture"], found.pop("d_sae"), wanted.d_sae, which)
    for name, value in found.items():
        if value != asked[name]:
            raise InitSourceError(
                f"{which} has {name}={value!r}, and the config asks for {asked[name]!r}; "
                "make them equal, or start from another SAE"
            )
    _require_same_selection(sae, wanted, which)


def training_state(sae: SAE[Any], wanted: TrainingSAEConfig) -> dict[str, torch.Tensor]:
    """The parameters of a convertible SAE, by the names of the architecture's training form."""
    state = {name: tensor.detach().clone() for name, tensor in sae.state_dict().items()}
    is_saved_form = sae.cfg.architecture() != wanted.architecture()
    if is_saved_form:
        # SAELens keeps it in double precision.
        state["topk_threshold"] = state.pop("threshold")[0].double()
    return state


def _signature(cfg: Any) -> dict[str, Any]:
    return {
        "architecture": cfg.architecture(),
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "normalize_activations": cfg.normalize_activations,
        "reshape_activations": cfg.reshape_activations,
    }


def _is_normalised_before(sae: SAE[Any], wanted: TrainingSAEConfig) -> bool:
    """Whether both modes scale activations before the SAE, which is then accounted for there."""
    found, asked = sae.cfg.normalize_activations, wanted.normalize_activations
    return {found, asked} <= {"none", *ESTIMATED_MODES}


def _require_one_threshold(sae: SAE[Any], architecture: str, which: str) -> None:
    threshold_F: torch.Tensor = sae.threshold  # type: ignore[assignment]
    if (threshold_F != threshold_F[0]).any():
        raise InitSourceError(
            f"{which} is a JumpReLU SAE with a threshold for each feature, so it is not the saved "
            f"form of a {architecture} SAE, which has one for all; train with architecture jumprelu"
        )


def _require_same_selection(sae: SAE[Any], wanted: TrainingSAEConfig, which: str) -> None:
    """Refuses a change in what TopK-like SAEs rank features by, unless it makes no difference."""
    found = getattr(sae.cfg, "rescale_acts_by_decoder_norm", False)
    asked = getattr(wanted, "rescale_acts_by_decoder_norm", False)
    norm_F = sae.W_dec.detach().norm(dim=1)
    if found != asked and ((norm_F - 1).abs() > _SAME_NORM).any():
        raise InitSourceError(
            f"{which} has rescale_acts_by_decoder_norm={found} and decoder rows of other norms "
            f"than 1, and the config asks for {asked}, which would pick other features; "
            f"set rescale_acts_by_decoder_norm to {found}"
        )
