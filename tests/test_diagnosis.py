"""What a bad result is put down to."""

from typing import Any

import pytest

from sae_lens_groups.saved.diagnosis import Figures, figures_of_training, likely_faults
from sae_lens_groups.saved.training_curves import TrainingPoint

SETTINGS = {
    "lr": 1e-3,
    "training_tokens": 4_000_000,
    "train_batch_size_tokens": 4096,
    "sae": {"d_in": 576, "k": 8, "normalize_activations": "expected_average_only_in"},
}


def figures(**changes: Any) -> Figures:
    usual = {"explained_variance": 0.8, "l0": 8.0, "norm": 24.0, "dead_share": 0.1}
    return Figures(**{"where": "layers 3-5", "errors": (500.0, 100.0), **usual, **changes})


def with_sae(**changes: Any) -> dict[str, Any]:
    return {**SETTINGS, "sae": {**SETTINGS["sae"], **changes}}  # type: ignore[dict-item]


def test_a_good_result_is_left_alone() -> None:
    assert likely_faults([figures()], SETTINGS) == []
    assert likely_faults([figures(norm=2000.0)], SETTINGS) == []  # of a baseline's own units
    assert likely_faults([figures()], {}) == []
    assert likely_faults([figures()], with_sae(topk_threshold_lr=0.01)) == []
    assert likely_faults([figures(l0=288.0)], with_sae(k=None, l0_coefficient=0.5)) == []
    assert likely_faults([figures(l0=400.0)], with_sae(k=400)) == []  # as it was asked for


@pytest.mark.parametrize(
    ("changes", "settings", "named"),
    [
        ({"errors": (500.0, 4e19), "explained_variance": -3.0}, SETTINGS, "lower lr (now 0.001)"),
        ({"norm": 2200.0}, with_sae(normalize_activations="none"), "normalize_activations to exp"),
        ({"dead_share": 0.71}, SETTINGS, "most features never fire: lower lr or d_sae"),
        ({"l0": 115.0}, with_sae(topk_threshold_lr=0.01), "raise topk_threshold_lr (now 0.01)"),
        (
            {},
            {
                **with_sae(topk_threshold_lr=0.01),
                "training_tokens": 40_960,
                "fast_step": "never",
            },
            "raise topk_threshold_lr (now 0.01)",
        ),
        ({"l0": 1900.0}, with_sae(k=None, l0_coefficient=0.5), "raise l0_coefficient (now 0.5)"),
        ({"l0": 289.0}, with_sae(k=None, l1_coefficient=1.0), "raise l1_coefficient (now 1.0)"),
        ({"explained_variance": -0.15}, SETTINGS, "explained variance is below 0"),
    ],
)
def test_each_cause_is_named_once_with_its_setting(
    changes: dict[str, Any], settings: dict[str, Any], named: str
) -> None:
    wheres = [f"layer {n}" for n in range(5)]
    (sentence,) = likely_faults([figures(where=w, **changes) for w in wheres], settings)
    assert named in sentence
    assert sentence.endswith("(layer 0, layer 1, layer 2 and 2 more)")


def test_the_figures_of_a_group_are_those_of_the_end_of_its_curve() -> None:
    def point(mse_loss: float, explained_variance: float) -> TrainingPoint:
        return TrainingPoint(
            training_tokens=1,
            group="layers_0",
            loss=mse_loss,
            mse_loss=mse_loss,
            explained_variance=explained_variance,
            l0=4.0,
        )

    found = figures_of_training("layer 0", [point(400, 0.0)] * 3 + [point(100, 0.75)] * 5, 0.5)
    assert (found.explained_variance, found.norm, found.errors) == (0.75, 20.0, (400, 100))
