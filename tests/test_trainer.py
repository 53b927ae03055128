"""Statistics per layer, and what stops a run."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sae_lens import TrainingSAE
from tqdm.auto import tqdm

from sae_lens_groups import LayerGroup
from sae_lens_groups.activations.shuffle_buffer import GroupBatch
from sae_lens_groups.errors import NonFiniteActivationsError
from sae_lens_groups.train.group_trainer import GroupSAE, GroupTrainer
from sae_lens_groups.train.progress import ProgressBar
from sae_lens_groups.train.statistics import LayerStatistics

from .tiny import D_IN, D_SAE, group_config, sae_config

pytestmark = pytest.mark.seam

GROUP = LayerGroup(2, 4)


def random_batches(n_batches: int) -> Iterator[dict[str, GroupBatch]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(n_batches):
        rows_BD = torch.randn(32, D_IN, generator=generator)
        yield {GROUP.name: GroupBatch(rows_BD, torch.randint(3, (32,), generator=generator))}


def make_trainer(batches: Iterator[dict[str, GroupBatch]], **changes: Any) -> GroupTrainer:
    cfg = group_config("2-4", **changes)
    torch.manual_seed(0)
    sae = TrainingSAE.from_dict(cfg.sae.to_dict())
    of_trainer = cfg.to_sae_trainer_config()
    return GroupTrainer(
        of_trainer,
        [GroupSAE(sae, GROUP, of_trainer)],
        batches,
        fast_step=cfg.fast_step,
    )


def test_frequencies_are_of_a_whole_window_at_least_however_young_this_one_is() -> None:
    acts_BF = torch.tensor([[1.0, 0], [0, 2], [3, 4]])
    statistics = LayerStatistics(2, 2, "cpu")
    statistics.add(acts_BF, torch.tensor([0, 1, 1]))
    statistics.reset_window()
    assert statistics.frequency_LF.tolist() == [[1, 0], [0.5, 1]]
    statistics.add(torch.tensor([[0.0, 5]]), torch.tensor([0]))
    resumed = LayerStatistics(2, 2, "cpu")
    resumed.load_state_dict(statistics.state_dict())
    for one in (statistics, resumed):
        assert one.frequency_LF.tolist() == [[0.5, 0.5], [0.5, 1]]
        one.add(torch.tensor([[0.0, 0], [0, 7]]), torch.tensor([1, 1]))
        assert one.frequency_LF.tolist() == [[0.5, 0.5], [0.25, 0.75]]
        one.reset_window()
        assert one.frequency_LF.tolist() == [[0, 1], [0, 0.5]]


def test_firing_counts_equal_a_count_by_hand() -> None:
    acts_BF = torch.tensor([[1.0, 0, 0], [0, 2, 0], [3, 4, 0], [0, 0, 0]])
    position_B = torch.tensor([0, 1, 1, 0])
    statistics = LayerStatistics(2, 3, "cpu")
    statistics.add(acts_BF, position_B)
    assert statistics.n_fired_LF.tolist() == [[1, 0, 0], [1, 2, 0]]
    assert statistics.frequency_LF.tolist() == [[0.5, 0, 0], [0.5, 1, 0]]
    statistics.add(acts_BF.to_sparse(), position_B)
    assert statistics.n_fired_LF.tolist() == [[2, 0, 0], [2, 4, 0]]
    torch.testing.assert_close(
        statistics.log_sparsity_LF, torch.tensor([[0.5, 0, 0], [0.5, 1, 0]]).add(1e-10).log10()
    )


def test_a_feature_is_dead_on_a_layer_it_has_long_not_fired_on() -> None:
    statistics = LayerStatistics(2, 2, "cpu")
    for _ in range(4):
        statistics.add(torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([0, 1]))
    assert statistics.n_dead_L(dead_feature_window=3) == [1, 1]
    assert statistics.n_dead_L(dead_feature_window=4) == [0, 0]


@pytest.mark.parametrize("fast_step", ["always", "never"])
def test_a_groups_counts_add_up_to_saelens_own(fast_step: str) -> None:
    trainer = make_trainer(random_batches(30), fast_step=fast_step)
    trainer.fit()
    of_group = trainer.group_trainers[GROUP.name]
    assert torch.equal(of_group.statistics.n_fired_LF.sum(dim=0), of_group.act_freq_scores)
    assert of_group.statistics.n_rows_L.sum() == of_group.n_frac_active_samples
    fired_somewhere = of_group.statistics.n_steps_since_fired_LF.min(dim=0).values
    assert torch.equal(fired_somewhere, of_group.n_forward_passes_since_fired)


def test_the_counting_window_is_saelens_own() -> None:
    trainer = make_trainer(random_batches(30), feature_sampling_window=12)
    trainer.fit()
    of_group = trainer.group_trainers[GROUP.name]
    assert of_group.statistics.n_rows_L.sum() == of_group.n_frac_active_samples < 30 * 32
    assert torch.equal(of_group.statistics.n_fired_LF.sum(dim=0), of_group.act_freq_scores)


def test_log_entries_per_layer_equal_a_computation_on_that_layers_rows() -> None:
    trainer = make_trainer(random_batches(30)).group_trainers[GROUP.name]
    batch = next(random_batches(1))[GROUP.name]
    output = trainer.step(batch)
    logs = trainer.build_train_step_log_dict(output, 32)
    for position, layer in enumerate(GROUP.layers):
        of_layer = batch.position_B == position
        rows, recons = batch.rows_BD[of_layer], output.sae_out[of_layer]
        loss = (recons - rows).pow(2).sum(dim=1).mean().item()
        variance = (rows - rows.mean(dim=0)).pow(2).sum(dim=1).mean().item()
        assert logs[f"losses/mse_loss/layer_{layer}"] == pytest.approx(loss)
        assert logs[f"metrics/explained_variance/layer_{layer}"] == pytest.approx(
            1 - loss / variance
        )
        assert logs[f"sparsity/dead_features/layer_{layer}"] == 0
    assert {"losses/overall_loss", "metrics/l0", "details/n_training_samples"} <= logs.keys()


def test_statistics_do_not_depend_on_the_number_of_layers_in_a_step() -> None:
    """A batch without any row of a layer counts as a step in which nothing fired on it."""
    statistics = LayerStatistics(3, D_SAE, "cpu")
    statistics.add(torch.ones(4, D_SAE), torch.zeros(4).long())
    assert statistics.n_rows_L.tolist() == [4, 0, 0]
    assert statistics.n_steps_since_fired_LF[:, 0].tolist() == [0, 1, 1]
    assert statistics.frequency_LF[2].tolist() == [0.0] * D_SAE


def test_the_step_that_could_not_be_done_is_named() -> None:
    def breaking() -> Iterator[dict[str, GroupBatch]]:
        yield from random_batches(6)
        raise NonFiniteActivationsError("layer 3 holds NaN")

    trainer = make_trainer(breaking())
    with pytest.raises(NonFiniteActivationsError) as caught:
        trainer.fit()
    assert str(caught.value) == "before training step 6: layer 3 holds NaN"


def test_the_progress_bar_shows_tokens_rate_time_left_and_loss(
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_trainer(random_batches(30)).fit()
    last = capsys.readouterr().err.split("\r")[-1]
    assert "Training 1 SAE: 100%" in last
    assert "960/960" in last
    assert "tok/s, loss " in last


def test_the_bar_of_a_sweep_shows_the_range_of_losses(capsys: pytest.CaptureFixture[str]) -> None:
    outputs: dict[str, Any] = {
        f"k{k}-lr0.001/{GROUP.name}": SimpleNamespace(
            sae_in=torch.zeros(32, D_IN), loss=torch.tensor(float(k))
        )
        for k in (16, 4, 8)
    }
    with tqdm(total=960) as bar:
        ProgressBar(960, n_saes=3).show(bar, 32, outputs)
    assert "loss 4 to 16]" in capsys.readouterr().err


def test_sparse_activations_train_and_count() -> None:
    sae = sae_config("topk", use_sparse_activations=True, rescale_acts_by_decoder_norm=False)
    trainer = make_trainer(random_batches(30), sae=sae, fast_step="never")
    trainer.fit()
    of_group = trainer.group_trainers[GROUP.name]
    assert torch.equal(of_group.statistics.n_fired_LF.sum(dim=0), of_group.act_freq_scores)
