"""What is likely wrong with trained SAEs, and the setting to change: figures in, sentences out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sae_lens_groups.saved.training_curves import TrainingPoint

_N_LAST_POINTS = 5
_USUAL_NORM = 4  # times sqrt(d_in), beyond which SAELens's learning rates and coefficients fail
_MOST_DEAD = 0.5
_DENSE = 0.5  # of d_in, beyond which as many directions would do without an SAE
_LAGGING = 0.05  # of the threshold's way from 0 that is still to go


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What is known of an SAE, after its training or at one layer that it was evaluated at."""

    where: str
    """`layers 3-5`."""
    explained_variance: float
    l0: float
    norm: float
    """Of the activations as the SAE takes them."""
    dead_share: float | None = None
    """Of features that fire on no layer of the group; None where too few tokens tell."""
    errors: tuple[float, float] | None = None
    """The mean squared errors with which training began and ended."""


def figures_of_training(
    where: str, points: Sequence[TrainingPoint], dead_share: float | None
) -> Figures:
    """The figures of a group by its training curve, which has at least one point."""
    last = points[-_N_LAST_POINTS:]
    explained = sum(of.explained_variance for of in last) / len(last)
    error = sum(of.mse_loss for of in last) / len(last)
    return Figures(
        where=where,
        explained_variance=explained,
        l0=sum(of.l0 for of in last) / len(last),
        norm=math.sqrt(max(0.0, error / (1 - explained))) if explained != 1 else 0.0,
        dead_share=dead_share,
        errors=(points[0].mse_loss, error),
    )


def likely_faults(figures: Iterable[Figures], settings: Mapping[str, Any]) -> list[str]:
    """A sentence for each likely cause of a bad result, with the setting to change; [] for good ones.

    Args:
        figures: of every SAE.
        settings: of the run, as `runner_cfg.json` has them.
    """
    found: dict[str, list[str]] = {}
    for one in figures:
        for sentence in _faults(one, settings):
            found.setdefault(sentence, []).append(one.where)
    return [f"{sentence} ({_listed(wheres)})" for sentence, wheres in found.items()]


def _faults(one: Figures, settings: Mapping[str, Any]) -> list[str]:
    sae = settings.get("sae") or {}
    mode, d_in = sae.get("normalize_activations"), sae.get("d_in") or math.inf
    usual = math.sqrt(d_in)
    faults = []
    if one.errors is not None and one.errors[1] > 2 * one.errors[0]:
        faults.append(f"the error grew in training: lower lr (now {settings.get('lr')})")
    if mode == "none" and one.norm > _USUAL_NORM * usual:
        faults.append(
            f"activations are much larger than sqrt(d_in) = {usual:.0f}: set normalize_activations "
            "to expected_average_only_in"
        )
    if _lags(one, settings):
        faults.append(
            "the threshold that BatchTopK is exported with lags behind training: set fast_step to "
            f"auto, raise topk_threshold_lr (now {sae.get('topk_threshold_lr')}), or train longer"
        )
    coefficient = next((name for name in ("l0_coefficient", "l1_coefficient") if name in sae), None)
    if coefficient is not None and one.l0 > _DENSE * d_in:
        faults.append(
            f"L0 is above half of d_in, which is hardly sparse: raise {coefficient} (now "
            f"{sae[coefficient]}), or train on more tokens"
        )
    if one.dead_share is not None and one.dead_share > _MOST_DEAD:
        faults.append("most features never fire: lower lr or d_sae, or train on more tokens")
    if one.explained_variance < 0 and not faults:
        faults.append(
            "explained variance is below 0, worse than the mean activation: lower lr, or train on "
            "more tokens"
        )
    return faults


def _lags(one: Figures, settings: Mapping[str, Any]) -> bool:
    """Whether the moving average, SAELens's from 0, is not yet there, or L0 tells that it is not."""
    sae = settings.get("sae") or {}
    rate, k = sae.get("topk_threshold_lr"), sae.get("k")
    if not rate or not k:
        return False
    n_steps = settings.get("training_tokens", 0) / settings.get("train_batch_size_tokens", 1)
    is_young = settings.get("fast_step") == "never" and (1 - rate) ** n_steps > _LAGGING
    return is_young or one.l0 > 1.5 * k


def _listed(wheres: Sequence[str]) -> str:
    shown = ", ".join(wheres[:3])
    return shown if len(wheres) <= 3 else f"{shown} and {len(wheres) - 3} more"
