"""The decoder of one layer's SAE, refitted to rows of that layer.

The latents stay as they are. What is best on the rows would fit their noise too, so each feature's
change is held back by a ridge that weighs as much as so many firings, which a feature that fired
often outweighs. How many is decided by rows that were kept apart, where no change is a candidate.

Shapes: N rows, D = d_in, F = d_sae, G = F + 1: with the constant 1, whose decoder row is b_dec.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from sae_lens import SAE

from sae_lens_groups.activations import taking_flat_heads
from sae_lens_groups.errors import ConfigError
from sae_lens_groups.scaling import pre_activations_shifted
from sae_lens_groups.train.refit.solve import LeastSquares

# On the demo model 300 is best with 20,000 rows; more with fewer, less with more, and more for the
# nested rows of a Matryoshka SAE.
RIDGES = (10_000.0, 3000.0, 1000.0, 300.0, 100.0, 30.0, 10.0)
_KEPT_APART = 5  # every fifth part of the rows
_N_PARTS = 16
_BATCH_ROWS = 2048
_TINY = 1e-12


class RefitScores(NamedTuple):
    """What a refit was worth."""

    ridge: float
    """How many firings of usual strength it weighs; 0 where the decoder was left as it was."""
    before: float
    """Explained variance of the rows that were kept apart, by the decoder as it was."""
    after: float
    """The same by a decoder from the other rows."""


def require_refittable(architecture: str) -> None:
    """Refuses an architecture whose latents depend on its decoder."""
    if architecture == "matching_pursuit":
        raise ConfigError(
            "a decoder cannot be refitted in matching_pursuit, whose encoder is its decoder; "
            "set refit_tokens to 0"
        )


@torch.no_grad()
def refit_decoder(sae: SAE[Any], rows_ND: torch.Tensor, widths: Sequence[int]) -> RefitScores:
    """Refits the decoder of a layer's plain SAE, in place; its latents stay the same on any row.

    Args:
        sae: takes the rows as they are; does not rank its latents by the decoder's norms.
        rows_ND: in the order of the text, so that those kept apart are of other text.
        widths: where the parts of a Matryoshka SAE end, whose nested reconstructions count alike in
            the fit, as in training, while the ridge is what is best for the whole; (F,) for others.
    """
    latents_NG = _latents(sae, rows_ND)
    # The rows, normalised where the SAE itself does that.
    target_ND = sae.run_time_activation_norm_fn_in(rows_ND.to(sae.device, sae.dtype)).float()
    decoder_GD = torch.cat([sae.W_dec, sae.b_dec[None]]).float()
    n_fitted = len(rows_ND) - len(rows_ND) // _KEPT_APART
    least_squares = partial(_least_squares, latents_NG, target_ND, decoder_GD)
    fitted = least_squares(range(n_fitted), widths)
    apart = least_squares(range(n_fitted, len(rows_ND)), [sae.cfg.d_sae])
    firing_G = _firing(latents_NG, decoder_GD)
    before_N = best_N = apart.squared_error()
    ridge = 0.0
    for tried in RIDGES:
        error_N = apart.squared_error(fitted.solution(_ridge(tried, firing_G)))
        if not error_N.sum() < best_N.sum():
            break
        best_N, ridge = error_N, tried
    if not _is_certain(before_N - best_N):
        best_N, ridge = before_N, 0.0
    if ridge:
        everything = least_squares(range(len(rows_ND)), widths)
        _change_decoder(sae, everything.solution(_ridge(ridge, firing_G)))
    apart_ND = target_ND[n_fitted:]
    total = max((apart_ND - apart_ND.mean(0)).double().square().sum().item(), _TINY)
    return RefitScores(ridge, *(1 - of.sum().item() / total for of in (before_N, best_N)))


def _is_certain(gain_N: torch.Tensor) -> bool:
    """Whether a gain is beyond what other text would do to it; neighbouring rows are alike."""
    gains = torch.stack([part.mean() for part in gain_N.tensor_split(_N_PARTS)])
    return bool(gains.mean() > 2 * gains.std() / _N_PARTS**0.5)  # not where one is empty


def _latents(sae: SAE[Any], rows_ND: torch.Tensor) -> torch.Tensor:
    """The active latents and the constant of every row, (N, G), sparse."""
    with taking_flat_heads(sae):
        parts = [sae.encode(rows.to(sae.device, sae.dtype)) for rows in rows_ND.split(_BATCH_ROWS)]
        sparse_NF = torch.cat([part if part.is_sparse else part.to_sparse() for part in parts])
    row_N = torch.arange(len(rows_ND), device=sae.device)
    constant_2N = torch.stack([row_N, torch.full_like(row_N, sae.cfg.d_sae)])
    sparse_NF = sparse_NF.coalesce()
    return torch.sparse_coo_tensor(
        torch.cat([sparse_NF.indices(), constant_2N], dim=1),
        torch.cat([sparse_NF.values().float(), torch.ones_like(row_N, dtype=torch.float32)]),
        (len(rows_ND), sae.cfg.d_sae + 1),
        check_invariants=False,
    ).coalesce()


def _least_squares(
    latents_NG: torch.Tensor,
    target_ND: torch.Tensor,
    decoder_GD: torch.Tensor,
    rows: range,
    widths: Sequence[int],
) -> LeastSquares:
    """Of these rows, once for each of the nested reconstructions."""
    (row_N, feature_N), value_N = latents_NG.indices(), latents_NG.values()
    is_asked_N = (row_N >= rows.start) & (row_N < rows.stop)
    is_constant_N = feature_N == len(decoder_GD) - 1
    parts = [is_asked_N & ((feature_N < width) | is_constant_N) for width in widths]
    row_M = torch.cat([row_N[kept] + n * len(rows) for n, kept in enumerate(parts)]) - rows.start
    feature_M = torch.cat([feature_N[kept] for kept in parts])
    value_M = torch.cat([value_N[kept] for kept in parts])
    shape = (len(widths) * len(rows), len(decoder_GD))
    nested_MG = torch.sparse_coo_tensor(
        torch.stack([row_M, feature_M]), value_M, shape, check_invariants=False
    )
    target_MD = target_ND[rows.start : rows.stop].repeat(len(widths), 1)
    return LeastSquares(nested_MG, target_MD, decoder_GD)


def _firing(latents_NG: torch.Tensor, decoder_GD: torch.Tensor) -> torch.Tensor:
    """What a firing of usual strength adds to each feature's sum of squares, (G,).

    As if all decoder rows were of unit norm, so that nothing depends on how an SAE divides a
    feature's strength between encoder and decoder.
    """
    squared_norm_G = decoder_GD.square().sum(1).clamp(min=_TINY)
    feature_N, value_N = latents_NG.indices()[1], latents_NG.values()
    strength_N = value_N.square() * squared_norm_G[feature_N]
    is_feature_N = feature_N < len(decoder_GD) - 1
    usual = strength_N[is_feature_N].sum() / is_feature_N.sum().clamp(min=1)
    return (usual / squared_norm_G).clamp(min=_TINY)


def _ridge(n_firings: float, firing_G: torch.Tensor) -> torch.Tensor:
    """Of each feature; b_dec, which every row tells of, is held back by one row."""
    ridge_G = n_firings * firing_G
    ridge_G[-1] = 1.0
    return ridge_G


def _change_decoder(sae: SAE[Any], change_GD: torch.Tensor) -> None:
    state = sae.state_dict()
    change_FD, change_D = change_GD[:-1], change_GD[-1]
    if sae.cfg.apply_b_dec_to_input:
        state |= pre_activations_shifted(state, change_D @ state["W_enc"].float())
    state["W_dec"] = state["W_dec"] + change_FD
    state["b_dec"] = state["b_dec"] + change_D
    sae.load_state_dict(state)  # which keeps the dtype of each
