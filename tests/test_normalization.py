"""Layers of very different norm can share an SAE, because each has its own factor."""

from collections.abc import Iterator

import pytest
import torch
from sae_lens import TrainingSAE
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_groups import LayerGroup
from sae_lens_groups.activations.shuffle_buffer import GroupBatch
from sae_lens_groups.errors import NormEstimateError
from sae_lens_groups.scaling.estimate import GroupScalingEstimate
from sae_lens_groups.scaling.fold import layer_sae
from sae_lens_groups.scaling.group_scaling import MEAN_NORM, WHITENING, GroupScaling
from sae_lens_groups.train.group_trainer import GroupSAE, GroupTrainer

from .tiny import D_IN, D_SAE, group_config, sae_config

pytestmark = pytest.mark.seam

GROUP = LayerGroup(0, 2)
NORMS = (1.0, 10.0, 100.0)


def sparse_rows(n_rows: int, seed: int) -> torch.Tensor:
    """Rows that are sums of three of 24 fixed directions, (n_rows, d_in)."""
    directions = torch.randn(24, D_IN, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(n_rows, 24, generator=generator).topk(3).indices
    strengths = 0.5 + torch.rand(n_rows, 3, generator=generator)
    return (directions[active] * strengths[..., None]).sum(dim=1)


def layered_stream(n_batches: int = 400, batch_size: int = 64) -> Iterator[dict[str, GroupBatch]]:
    """Batches of a group whose layers see the same data at norms 1 : 10 : 100."""
    generator = torch.Generator().manual_seed(9)
    for seed in range(n_batches):
        position_B = torch.randint(3, (batch_size,), generator=generator)
        rows_BD = sparse_rows(batch_size, seed) * torch.tensor(NORMS)[position_B, None]
        yield {GROUP.name: GroupBatch(rows_BD, position_B)}


def trained_explained_variances(share_one_factor: bool) -> list[float]:
    """Explained variance of each layer of a group trained on `layered_stream`."""
    cfg = group_config("0-2", sae=sae_config("topk", k=3), training_tokens=64 * 350, lr=1e-2)
    cfg.train_batch_size_tokens = 64
    torch.manual_seed(0)
    sae = TrainingSAE.from_dict(cfg.sae.to_dict())
    batches = layered_stream()
    of_trainer = cfg.to_sae_trainer_config()
    trainer = GroupTrainer(of_trainer, [GroupSAE(sae, GROUP, of_trainer)], batches)
    trainer.estimate_scaling(MEAN_NORM, batches)
    scaling = trainer.group_trainers[GROUP.name].scaling
    if share_one_factor:
        middle = scaling.scalers[1]
        trainer.group_trainers[GROUP.name].scaling = GroupScaling(GROUP, [middle] * 3)
    trainer.fit()
    used = trainer.group_trainers[GROUP.name].scaling.scalers
    held_out = sparse_rows(2000, seed=10_000)
    variances: list[float] = []
    for norm, scaler in zip(NORMS, used):
        rows = held_out * norm
        error = (layer_sae(sae, scaler, {})(rows) - rows).pow(2).sum()
        variances.append(1 - (error / (rows - rows.mean(dim=0)).pow(2).sum()).item())
    return variances


def test_layers_of_norm_1_10_100_are_explained_equally_well() -> None:
    variances = trained_explained_variances(share_one_factor=False)
    assert max(variances) - min(variances) < 0.02
    assert min(variances) > 0.8


def test_one_shared_factor_would_fail_the_test_above() -> None:
    variances = trained_explained_variances(share_one_factor=True)
    assert max(variances) - min(variances) > 0.02


def test_each_layers_scaled_rows_have_mean_norm_sqrt_d_in() -> None:
    estimate = GroupScalingEstimate(GROUP, MEAN_NORM, D_IN)
    batches = [batch[GROUP.name] for batch in layered_stream(n_batches=20)]
    for batch in batches:
        estimate.add(*batch)
    scaling = estimate.scaling()
    rows_BD, position_B = map(torch.cat, zip(*batches))
    scaled_BD = scaling.scale(rows_BD, position_B)
    for position in range(3):
        mean_norm = scaled_BD[position_B == position].norm(dim=-1).mean().item()
        assert mean_norm == pytest.approx(D_IN**0.5, rel=1e-5)


def test_scaling_row_by_row_equals_each_layers_scaler() -> None:
    scalers = [ActivationScaler(scaling_factor=factor) for factor in (0.3, 1.7, 20.0)]
    rows_BD = sparse_rows(30, seed=1)
    position_B = torch.arange(30) % 3
    scaled_BD = GroupScaling(GROUP, scalers).scale(rows_BD, position_B)
    for row, position, scaled in zip(rows_BD, position_B, scaled_BD):
        assert torch.equal(scaled, scalers[int(position)].scale(row))


@pytest.mark.skipif(
    not hasattr(TrainingSAE, "fold_activation_whitening"), reason="this SAELens has no whitening"
)
def test_whitened_rows_of_each_layer_have_identity_covariance() -> None:
    estimate = GroupScalingEstimate(GROUP, WHITENING, D_IN)
    mixing = torch.randn(3, D_IN, D_IN, generator=torch.Generator().manual_seed(2))
    mixing = 10 * torch.eye(D_IN) + mixing  # well above the eps that whitening adds
    rows_BD = torch.einsum("bd,bde->be", sparse_rows(6000, 3), mixing[torch.arange(6000) % 3])
    position_B = torch.arange(6000) % 3
    estimate.add(rows_BD, position_B)
    scaled_BD = estimate.scaling().scale(rows_BD, position_B)
    for position in range(3):
        covariance = torch.cov(scaled_BD[position_B == position].double().T)
        torch.testing.assert_close(
            covariance, torch.eye(D_IN, dtype=torch.float64), atol=0.01, rtol=0
        )


def test_a_layer_of_zeros_cannot_be_normalised() -> None:
    estimate = GroupScalingEstimate(LayerGroup(4, 4), MEAN_NORM, D_IN)
    estimate.add(torch.zeros(8, D_IN), torch.zeros(8).long())
    with pytest.raises(NormEstimateError, match="the activations of layer 4 are all zero"):
        estimate.scaling()


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_a_layer_whose_norm_explodes_or_vanishes_is_refused(size: float) -> None:
    estimate = GroupScalingEstimate(LayerGroup(4, 4), MEAN_NORM, d_in=16)
    # A norm that float32 cannot hold is infinite by now.
    estimate.add(torch.full((8, 16), size), torch.zeros(8, dtype=torch.long))
    with pytest.raises(
        NormEstimateError, match=r"layer 4.s activations is inf, which|are all zero"
    ):
        estimate.scaling()


def test_a_layer_that_was_never_drawn_asks_for_more_batches() -> None:
    estimate = GroupScalingEstimate(LayerGroup(4, 5), MEAN_NORM, D_IN)
    estimate.add(torch.ones(8, D_IN), torch.zeros(8).long())
    with pytest.raises(NormEstimateError) as caught:
        estimate.scaling()
    assert str(caught.value) == (
        "layer 5 was drawn for 0 tokens during the norm estimate, which needs at least 1; "
        "raise n_batches_for_norm_estimate"
    )


def test_the_sae_width_of_these_tests_holds_all_directions() -> None:
    assert D_SAE >= 24
