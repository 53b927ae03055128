"""The sparse step is SAELens's own step: same active latents, losses, gradients and statistics."""

import copy
import itertools
from collections.abc import Iterator
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from sae_lens import (
    JumpReLUTrainingSAE,
    StandardTrainingSAE,
    TopKTrainingSAE,
    TrainingSAE,
    TrainingSAEConfig,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupSAETrainingRunner, LayerGroup, SAESuite
from sae_lens_groups.activations.shuffle_buffer import GroupBatch
from sae_lens_groups.errors import ConfigError, UnknownNameError
from sae_lens_groups.train.fast_step import (
    ALWAYS,
    AUTO,
    NEVER,
    Scratch,
    SparseStep,
    make_step,
    step_of_config,
    step_of_sae,
    why_not,
)
from sae_lens_groups.train.fast_step.largest import largest_per_row
from sae_lens_groups.train.group_trainer import GroupSAE, GroupTrainer
from sae_lens_groups.train.prepare import settle
from sae_lens_groups.train.trainer import GroupSAETrainer

from .tiny import ARCHITECTURES, group_config, sae_config

pytestmark = pytest.mark.seam

MATRYOSHKA = "matryoshka_batchtopk"
SPARSE = [n for n in ("topk", "batchtopk", "abstopk", MATRYOSHKA) if n in ARCHITECTURES]
WINDOW = 40
GROUP = LayerGroup(0, 0)
# Wide enough for bundles of 8 columns, and with k rows of which none repeats.
WIDE = {"d_in": 24, "d_sae": 160, "k": 6}


def wide_config(architecture: str, **changes: Any) -> TrainingSAEConfig:
    """The last level of Matryoshka ends at a feature that is no start of a bundle."""
    levels = {"matryoshka_widths": [20, 61, 160]} if architecture == MATRYOSHKA else {}
    return sae_config(architecture, **{**WIDE, **levels, **changes})


def step_for(sae: TrainingSAE[Any], autocast: bool = False) -> SparseStep[Any]:
    step = make_step(sae, ALWAYS, trainer_config(sae, autocast), Scratch())
    assert step is not None
    return step


def trainer_config(sae: TrainingSAE[Any], autocast: bool = False) -> SAETrainerConfig:
    cfg = group_config("0", sae=sae.cfg, autocast=autocast, dead_feature_window=WINDOW)
    return cfg.to_sae_trainer_config()


def set_apart(sae: Any) -> None:
    """Gives the decoder's rows very different norms, and biases that are not zero."""
    with torch.no_grad():
        sae.W_dec.mul_(0.2 + 3 * torch.rand(sae.cfg.d_sae, 1))
        sae.W_enc.mul_(5)
        sae.b_enc.normal_(0, 0.2)
        sae.b_dec.normal_(0, 0.2)


def make_sae(architecture: str, **changes: Any) -> TopKTrainingSAE:
    """An SAE whose decoder rows have very different norms and whose biases are not zero."""
    torch.manual_seed(0)
    sae = TrainingSAE.from_dict(wide_config(architecture, **changes).to_dict())
    assert isinstance(sae, TopKTrainingSAE)
    set_apart(sae)
    return sae


def steps_since_fired(n_dead: int, d_sae: int = WIDE["d_sae"]) -> torch.Tensor:
    """As many dead features as asked for, others that are nearly dead, and living ones."""
    n_steps_F = torch.randint(0, WINDOW + 1, (d_sae,), generator=torch.Generator().manual_seed(2))
    n_steps_F[torch.randperm(d_sae, generator=torch.Generator().manual_seed(3))[:n_dead]] = 99
    return n_steps_F.float()


COEFFICIENTS = {"l0": 0.3, "l1": 0.2}


def saelens_step(
    sae: TrainingSAE[Any], rows_BD: torch.Tensor, n_steps_F: torch.Tensor
) -> TrainStepOutput:
    """SAELens's forward and backward pass, as its trainer calls them."""
    output = sae.training_forward_pass(
        TrainStepInput(
            sae_in=rows_BD,
            dead_neuron_mask=n_steps_F > WINDOW,
            coefficients=COEFFICIENTS,
            n_training_steps=0,
            is_logging_step=False,
        )
    )
    output.loss.backward()
    return output


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, relative: float = 1e-6) -> None:
    """Equal to this part of the tensor's norm."""
    difference = (ours.detach() - theirs.detach()).norm()
    assert difference <= relative * theirs.detach().norm(), float(difference)


@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
@pytest.mark.parametrize("rescale_acts_by_decoder_norm", [True, False])
# None; fewer than SAELens's k_aux of 12, so that all are taken; more; and all.
@pytest.mark.parametrize("n_dead", [0, 5, 60, 160])
@pytest.mark.parametrize("architecture", SPARSE)
def test_losses_and_gradients_are_saelens_own(
    architecture: str,
    n_dead: int,
    rescale_acts_by_decoder_norm: bool,
    apply_b_dec_to_input: bool,
) -> None:
    theirs = make_sae(
        architecture,
        rescale_acts_by_decoder_norm=rescale_acts_by_decoder_norm,
        apply_b_dec_to_input=apply_b_dec_to_input,
        aux_loss_coefficient=0.7,
    )
    ours = copy.deepcopy(theirs)
    rows_BD = torch.randn(64, WIDE["d_in"])
    expected = saelens_step(theirs, rows_BD, steps_since_fired(n_dead))
    output, _ = step_for(ours)(rows_BD, steps_since_fired(n_dead), {})
    assert (expected.losses["auxiliary_reconstruction_loss"] > 0) == (n_dead > 0)
    assert_same_step(ours, theirs, output, expected)


def assert_same_step(
    ours: TrainingSAE[Any],
    theirs: TrainingSAE[Any],
    output: TrainStepOutput,
    expected: TrainStepOutput,
) -> None:
    """Losses, what is active, every gradient and what is logged."""
    assert_close(output.loss, expected.loss)
    assert output.losses.keys() == expected.losses.keys()
    for name, loss in expected.losses.items():
        assert_close(output.losses[name], loss)
    assert_close(output.sae_out, expected.sae_out)
    assert torch.equal(output.feature_acts.to_dense() != 0, expected.feature_acts != 0)
    assert_close(output.feature_acts.to_dense(), expected.feature_acts)
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    for name, parameter in theirs.named_parameters():
        gradient = gradients[name]
        assert gradient is not None
        assert parameter.grad is not None
        assert_close(gradient, parameter.grad)
    for name, value in expected.metrics.items():
        assert isinstance(value, torch.Tensor)
        assert output.metrics[name] == pytest.approx(value.item(), rel=1e-6)
    assert {*ours.state_dict()} == {*theirs.state_dict()}


@pytest.mark.parametrize("use_matryoshka_aux_loss", [True, False])
@pytest.mark.parametrize("rescale_acts_by_decoder_norm", [True, False])
# Dead features in the first level alone, in the others alone, and in all.
@pytest.mark.parametrize(("first", "last"), [(0, 15), (30, 160), (0, 160), (0, 0)])
def test_the_auxiliary_loss_of_each_level_is_saelens_own(
    first: int, last: int, rescale_acts_by_decoder_norm: bool, use_matryoshka_aux_loss: bool
) -> None:
    theirs = make_sae(
        MATRYOSHKA,
        use_matryoshka_aux_loss=use_matryoshka_aux_loss,
        rescale_acts_by_decoder_norm=rescale_acts_by_decoder_norm,
    )
    ours = copy.deepcopy(theirs)
    n_steps_F = steps_since_fired(0)
    n_steps_F[first:last] = 99
    rows_BD = torch.randn(64, WIDE["d_in"])
    output, _ = step_for(ours)(rows_BD, n_steps_F, {})
    assert_same_step(ours, theirs, output, saelens_step(theirs, rows_BD, n_steps_F))


@pytest.mark.parametrize("architecture", SPARSE)
@pytest.mark.parametrize(("lowest", "highest"), [(-4, -4), (-4, 4), (4, 4)])
def test_rows_of_any_norm_give_saelens_gradients(
    architecture: str, lowest: float, highest: float
) -> None:
    theirs = make_sae(architecture)
    ours = copy.deepcopy(theirs)
    norm_B = torch.logspace(lowest, highest, 64)[torch.randperm(64)]
    rows_BD = torch.nn.functional.normalize(torch.randn(64, WIDE["d_in"])) * norm_B[:, None]
    output, _ = step_for(ours)(rows_BD, steps_since_fired(30), {})
    assert_same_step(ours, theirs, output, saelens_step(theirs, rows_BD, steps_since_fired(30)))


HAS_JUMPRELU = why_not(sae_config("jumprelu")) is None
needs_jumprelu = pytest.mark.skipif(not HAS_JUMPRELU, reason="SAELens has a log_threshold")


def make_jumprelu(threshold: float, **changes: Any) -> JumpReLUTrainingSAE:
    """An SAE of which some thresholds are 0, and one would be below."""
    torch.manual_seed(0)
    changes = {**{name: WIDE[name] for name in ("d_in", "d_sae")}, **changes}
    sae = TrainingSAE.from_dict(sae_config("jumprelu", **changes).to_dict())
    assert isinstance(sae, JumpReLUTrainingSAE)
    set_apart(sae)
    with torch.no_grad():
        sae.threshold.copy_(torch.rand(sae.cfg.d_sae) * threshold)
        sae.threshold[:3] = torch.tensor([0.0, 0.0, -0.1])
    return sae


SPARSITY = [
    {"jumprelu_sparsity_loss_mode": "step"},
    {"jumprelu_sparsity_loss_mode": "step", "jumprelu_ste_to_input": True},
    {"jumprelu_sparsity_loss_mode": "tanh"},
    {"jumprelu_sparsity_loss_mode": "tanh", "jumprelu_ste_to_input": True},
    {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": 9.0},
]


@needs_jumprelu
@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
@pytest.mark.parametrize("pre_act_loss_coefficient", [None, 0.3])
@pytest.mark.parametrize("n_dead", [0, 5, 60, 160])
# Nearly all latents active, and few; a bandwidth that few of them or most lie in.
@pytest.mark.parametrize(("threshold", "bandwidth"), [(0.01, 0.05), (2.0, 0.05), (2.0, 3.0)])
@pytest.mark.parametrize("sparsity", SPARSITY, ids=lambda one: "-".join(map(str, one.values())))
def test_losses_and_gradients_of_jumprelu_are_saelens_own(
    sparsity: dict[str, Any],
    threshold: float,
    bandwidth: float,
    n_dead: int,
    pre_act_loss_coefficient: float | None,
    apply_b_dec_to_input: bool,
) -> None:
    theirs = make_jumprelu(
        threshold,
        jumprelu_bandwidth=bandwidth,
        pre_act_loss_coefficient=pre_act_loss_coefficient,
        apply_b_dec_to_input=apply_b_dec_to_input,
        **sparsity,
    )
    ours = copy.deepcopy(theirs)
    rows_BD = torch.randn(64, WIDE["d_in"])
    expected = saelens_step(theirs, rows_BD, steps_since_fired(n_dead))
    output, _ = step_for(ours)(rows_BD, steps_since_fired(n_dead), COEFFICIENTS)
    assert_same_step(ours, theirs, output, expected)
    assert torch.equal(ours.threshold, theirs.threshold)


@needs_jumprelu
@pytest.mark.parametrize(("lowest", "highest"), [(-4, -4), (-4, 4), (4, 4)])
def test_rows_of_any_norm_give_saelens_gradients_of_jumprelu(lowest: float, highest: float) -> None:
    theirs = make_jumprelu(2.0, jumprelu_ste_to_input=True, pre_act_loss_coefficient=0.3)
    ours = copy.deepcopy(theirs)
    norm_B = torch.logspace(lowest, highest, 64)[torch.randperm(64)]
    rows_BD = torch.nn.functional.normalize(torch.randn(64, WIDE["d_in"])) * norm_B[:, None]
    output, _ = step_for(ours)(rows_BD, steps_since_fired(30), COEFFICIENTS)
    assert_same_step(ours, theirs, output, saelens_step(theirs, rows_BD, steps_since_fired(30)))


def make_standard(bias: float, **changes: Any) -> StandardTrainingSAE:
    """An SAE of which the bias decides how many latents are active: at -1.3, one in 200."""
    torch.manual_seed(0)
    changes = {**{name: WIDE[name] for name in ("d_in", "d_sae")}, **changes}
    sae = TrainingSAE.from_dict(sae_config("standard", **changes).to_dict())
    assert isinstance(sae, StandardTrainingSAE)
    set_apart(sae)
    sae.b_enc.data += bias
    return sae


@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
# Nearly all latents active, few, and none.
@pytest.mark.parametrize("bias", [2.0, -1.3, -100.0])
@pytest.mark.parametrize(("lowest", "highest"), [(0, 0), (-4, 4), (4, 4)])
def test_losses_and_gradients_of_standard_are_saelens_own(
    lowest: float, highest: float, bias: float, apply_b_dec_to_input: bool
) -> None:
    theirs = make_standard(bias, apply_b_dec_to_input=apply_b_dec_to_input)
    ours = copy.deepcopy(theirs)
    norm_B = torch.logspace(lowest, highest, 64)[torch.randperm(64)]
    rows_BD = torch.randn(64, WIDE["d_in"]) * norm_B[:, None]
    n_steps_F = steps_since_fired(0)
    output, _ = step_for(ours)(rows_BD, n_steps_F, COEFFICIENTS)
    expected = saelens_step(theirs, rows_BD, n_steps_F)
    assert (expected.losses["l1_loss"] > 0) == (bias > -100 or highest > 0)
    assert_same_step(ours, theirs, output, expected)


@needs_jumprelu
def test_jumprelu_has_saelens_step_until_few_latents_take_part() -> None:
    """Decided by the batch before, whichever step it had, and by the first for itself.

    With the bandwidth, not only by what fires.
    """
    rows_BD, n_steps_F = torch.randn(64, WIDE["d_in"]), steps_since_fired(0)
    for threshold, bandwidth, is_due in (
        (0.01, 0.05, False),
        (30.0, 0.05, True),
        (30.0, 60.0, False),
    ):
        sae = make_jumprelu(threshold, jumprelu_bandwidth=bandwidth)
        step = step_for(sae)
        assert step.is_due(rows_BD) == is_due
        assert step_for(copy.deepcopy(sae).to(torch.bfloat16)).is_due(rows_BD) == is_due
        step.saw(saelens_step(sae, rows_BD, n_steps_F))
        after = 1e6 * rows_BD  # of which too many take part, whatever the threshold
        assert step.is_due(after) == is_due
        again = step_for(sae)
        again.load_state_dict(step.state_dict())
        assert again.is_due(after) == is_due
        again.load_state_dict({})
        again(rows_BD, n_steps_F, COEFFICIENTS)
        assert again.is_due(after) == is_due


TRAINED = [*SPARSE, "standard", pytest.param("jumprelu", marks=needs_jumprelu)]


def any_sae(architecture: str, jumprelu_threshold: float) -> TrainingSAE[Any]:
    """Few of its latents are active."""
    if architecture == "jumprelu":
        return make_jumprelu(jumprelu_threshold)
    return make_standard(-1.3) if architecture == "standard" else make_sae(architecture)


@pytest.mark.slow
@pytest.mark.parametrize("n_dead", [0, 30])
@pytest.mark.parametrize("architecture", TRAINED)
def test_gradients_of_an_sae_in_bfloat16_are_nearer_to_float64_than_saelens_own(
    architecture: str, n_dead: int
) -> None:
    """Which takes all sums in bfloat16; here only the product and each gradient are rounded.

    Standard's are as near: what is rounded decides which of many small latents are active.
    """
    most = 1.05 if architecture == "standard" else 0.85
    theirs = any_sae(architecture, jumprelu_threshold=2.0)
    theirs.to(torch.bfloat16)
    exact, ours = copy.deepcopy(theirs).to(torch.float64), copy.deepcopy(theirs)
    rows_BD, n_steps_F = torch.randn(8192, WIDE["d_in"]), steps_since_fired(n_dead)
    saelens_step(exact, rows_BD.double(), n_steps_F)
    saelens_step(theirs, rows_BD, n_steps_F)
    step_for(ours)(rows_BD, n_steps_F, COEFFICIENTS)
    for name, parameter in exact.named_parameters():
        mine, others = (_distance(sae.get_parameter(name), parameter) for sae in (ours, theirs))
        assert 1e-4 < mine < most * others, name


@pytest.mark.parametrize("n_dead", [0, 30])
@pytest.mark.parametrize("architecture", SPARSE)
def test_under_autocast_it_is_as_near_to_float64_as_saelens_own_step(
    architecture: str, n_dead: int
) -> None:
    """Which is about a hundredth: both choose by pre-activations in bfloat16."""
    exact, theirs, ours = (make_sae(architecture) for _ in range(3))
    exact.double().dtype = torch.float64
    rows_BD = torch.randn(512, WIDE["d_in"])
    saelens_step(exact, rows_BD.double(), steps_since_fired(n_dead))
    with torch.autocast("cpu", torch.bfloat16):
        saelens_step(theirs, rows_BD, steps_since_fired(n_dead))
    output, _ = step_for(ours, autocast=True)(rows_BD, steps_since_fired(n_dead), {})
    assert output.hidden_pre.dtype == torch.float32
    for name, parameter in exact.named_parameters():
        distances = [_distance(sae.get_parameter(name), parameter) for sae in (ours, theirs)]
        assert 1e-4 < distances[0] < min(0.1, 1.02 * distances[1]), name


def _distance(parameter: torch.nn.Parameter, exact: torch.nn.Parameter) -> float:
    """Of the gradient, relative to its size."""
    assert parameter.grad is not None
    assert exact.grad is not None
    assert parameter.grad.dtype == parameter.dtype
    return float((parameter.grad - exact.grad).norm() / exact.grad.norm())


@pytest.mark.parametrize("fast_step", [ALWAYS, NEVER])
def test_weights_that_lie_transposed_in_memory_train_the_same(fast_step: str) -> None:
    """As those of an SAE that somebody made with `W_enc = W_dec.T`."""
    weights: list[torch.Tensor] = []
    for is_transposed in (False, True):
        sae = make_sae("topk")
        if is_transposed:
            sae.W_enc.data = sae.W_enc.data.T.contiguous().T
        cfg = group_config("0", sae=wide_config("topk")).to_sae_trainer_config()
        trainer = GroupSAETrainer(cfg, sae, GROUP, fast_step)
        for batch in random_batches(5):
            trainer.step(batch[GROUP.name])
        weights.append(sae.W_enc.detach())
    assert_close(weights[1], weights[0], 1e-5)


def test_logs_are_saelens_own() -> None:
    """What W&B is sent, from the sparse activations as from the dense ones."""
    logs: list[dict[str, Any]] = []
    for fast_step in (ALWAYS, NEVER):
        trainer = trained("topk", fast_step, 20).group_trainers[GROUP.name]
        (batch,) = random_batches(1)
        output = trainer.step(batch[GROUP.name])
        logs.append(trainer.build_train_step_log_dict(output, 64))
    assert logs[0].keys() == logs[1].keys()
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)


def random_batches(n_batches: int) -> Iterator[dict[str, GroupBatch]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(n_batches):
        rows_BD = torch.randn(64, WIDE["d_in"], generator=generator)
        yield {GROUP.name: GroupBatch(rows_BD, torch.zeros(64, dtype=torch.long))}


def trained(architecture: str, fast_step: str, n_steps: int, **changes: Any) -> GroupTrainer:
    """A trainer after some steps on random rows."""
    sae = any_sae(architecture, jumprelu_threshold=12.0)
    cfg = group_config("0", sae=sae.cfg, **changes)
    cfg.train_batch_size_tokens = 64
    cfg.training_tokens = 64 * n_steps
    of_trainer = cfg.to_sae_trainer_config()
    trainer = GroupTrainer(
        of_trainer,
        [GroupSAE(sae, GROUP, of_trainer)],
        random_batches(n_steps),
        fast_step=fast_step,
    )
    trainer.fit()
    return trainer


@pytest.mark.parametrize("architecture", TRAINED)
def test_training_goes_the_same_way(architecture: str) -> None:
    """Weights, moments, dead features and firing counts after 40 steps, with features dying."""
    ours, theirs = (
        trained(architecture, mode, 40, dead_feature_window=6, lr=1e-3).group_trainers[GROUP.name]
        for mode in (ALWAYS, NEVER)
    )
    assert ours.sparse_step is not None
    assert ours.sparse_step.is_due(torch.zeros(1, WIDE["d_in"]))
    assert 0 < theirs.dead_neurons.sum() < WIDE["d_sae"]
    assert torch.equal(ours.dead_neurons, theirs.dead_neurons)
    assert torch.equal(ours.n_forward_passes_since_fired, theirs.n_forward_passes_since_fired)
    assert torch.equal(ours.act_freq_scores, theirs.act_freq_scores)
    assert ours.n_frac_active_samples == theirs.n_frac_active_samples == 40 * 64
    assert ours.n_training_samples == theirs.n_training_samples
    assert torch.equal(ours.statistics.n_fired_LF, theirs.statistics.n_fired_LF)
    weights = theirs.sae.state_dict()
    for name, weight in ours.sae.named_parameters():  # BatchTopK's threshold: test_threshold.py
        assert_close(weight, weights[name], 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "autocast"),
    list(itertools.product(("jumprelu", MATRYOSHKA), (False, True))),
)
@needs_jumprelu
def test_trained_saes_explain_as_much_as_saelens_own(architecture: str, autocast: bool) -> None:
    """The mean over seeds is no lower than seeds make it, also where rounding parts the ways."""
    ours, theirs = (
        [explained_variance(architecture, mode, seed, autocast=autocast) for seed in range(3)]
        for mode in (ALWAYS, NEVER)
    )
    assert min(theirs) > 0.5
    assert mean(ours) > mean(theirs) - 2 * stdev(theirs)


def explained_variance(architecture: str, mode: str, seed: int, **changes: Any) -> float:
    """Of an SAE trained on rows that few of 60 directions make up, on further ones."""
    torch.manual_seed(seed)
    cfg_of_sae = (
        sae_config(
            architecture,
            d_in=WIDE["d_in"],
            d_sae=512,
            l0_coefficient=0.5,
            l0_warm_up_steps=100,
            jumprelu_bandwidth=0.1,
        )
        if architecture == "jumprelu"
        else wide_config(architecture)
    )
    cfg = group_config("0", sae=cfg_of_sae, lr=5e-3, dead_feature_window=30, **changes)
    cfg.train_batch_size_tokens, cfg.training_tokens = 128, 128 * 300
    sae = TrainingSAE.from_dict(cfg_of_sae.to_dict())
    trainer = GroupSAETrainer(cfg.to_sae_trainer_config(), sae, GROUP, mode)
    for _ in range(300):
        trainer.step(GroupBatch(rows_of_few_directions(), torch.zeros(128, dtype=torch.long)))
        trainer.n_training_steps += 1
    if trainer.sparse_step is not None:
        assert trainer.sparse_step.is_due(rows_of_few_directions())
    rows_BD = rows_of_few_directions()
    with torch.no_grad():
        error_BD = rows_BD - sae(rows_BD)
    return 1 - float(error_BD.pow(2).sum() / (rows_BD - rows_BD.mean(0)).pow(2).sum())


def rows_of_few_directions() -> torch.Tensor:
    direction_SD = torch.randn(60, WIDE["d_in"], generator=torch.Generator().manual_seed(0))
    weight_BS = 8 * torch.rand(128, 60) * (torch.rand(128, 60) < 0.06)
    return weight_BS @ torch.nn.functional.normalize(direction_SD)


@pytest.mark.parametrize("architecture", sorted({*ARCHITECTURES, *SPARSE} - {*SPARSE}))
def test_other_architectures_keep_saelens_step_with_a_faster_optimiser(
    architecture: str, model: HookedTransformer, tokens: Dataset
) -> None:
    suites: list[SAESuite] = []
    for mode in (AUTO, NEVER):
        cfg = group_config("1", sae=sae_config(architecture), fast_step=mode)
        runner = GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model)
        suites.append(runner.run())
    auto, never = (suite.group(GROUP_1) for suite in suites)
    for name, weight in auto.named_parameters():
        assert_close(weight, never.state_dict()[name], 1e-4)


GROUP_1 = LayerGroup(1, 1)


# The wide ones are divided by eight once, twice and three times.
WIDTHS = st.integers(1, 100) | st.sampled_from([96, 256, 2048])


@given(st.integers(1, 20), WIDTHS, st.booleans(), st.integers(0, 2**32), st.data())
def test_the_largest_of_each_row_are_the_largest(
    n_rows: int, width: int, by_magnitude: bool, seed: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, min(width, 100)))
    values_BF = torch.randn(n_rows, width, generator=torch.Generator().manual_seed(seed))
    value_BK, index_BK = largest_per_row(values_BF, k, by_magnitude)
    assert torch.equal(values_BF.gather(1, index_BK), value_BK)
    for row, found in zip(values_BF.tolist(), index_BK.tolist(), strict=True):
        key = (lambda c, row=row: abs(row[c])) if by_magnitude else (lambda c, row=row: row[c])
        assert set(found) == set(sorted(range(width), key=key)[-k:])


def test_the_largest_of_each_row_are_the_same_however_many_rows_there_are() -> None:
    values_BF = torch.randn(8, 2**18 + 1)
    together = largest_per_row(values_BF, 5)[1]
    for row, found in zip(values_BF, together, strict=True):
        assert torch.equal(largest_per_row(row[None], 5)[1][0], found)
        assert set(found.tolist()) == set(torch.topk(row, 5).indices.tolist())


class TestChoice:
    def test_never_is_saelens_own(self) -> None:
        trainer = trained("topk", NEVER, 1).group_trainers[GROUP.name]
        assert trainer.sparse_step is None
        assert not trainer.optimizer.param_groups[0]["fused"]

    @pytest.mark.parametrize(
        ("k", "d_sae", "is_sparse"), [(16, 256, True), (17, 256, False), (8, 255, False)]
    )
    def test_auto_is_sparse_where_few_of_many_are_active(
        self, k: int, d_sae: int, is_sparse: bool
    ) -> None:
        choice = step_of_config(wide_config("topk", k=k, d_sae=d_sae), AUTO)
        assert (choice.step is not None) == is_sparse

    def test_a_subclass_is_left_alone(self) -> None:
        class Own(TopKTrainingSAE):
            pass

        own = Own(make_sae("topk").cfg)
        assert str(step_of_sae(own, ALWAYS)) == "SAELens's own: Own may compute anything"

    def test_an_sae_with_hooks_is_left_alone(self) -> None:
        sae = make_sae("topk")
        sae.hook_sae_acts_post.add_hook(lambda acts, **_: acts)  # pyright: ignore[reportArgumentType]
        assert str(step_of_sae(sae, ALWAYS)) == "SAELens's own: the SAE has hooks"

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"sae": sae_config("gated")}, "architecture gated is none of topk, batchtopk,"),
            ({"sae": sae_config("topk", dtype="float64")}, "the SAE's dtype is float64, not"),
            (
                {"sae": sae_config("topk", normalize_activations="layer_norm")},
                "normalize_activations is layer_norm",
            ),
        ],
    )
    def test_always_says_why_it_cannot(self, changes: dict[str, Any], reason: str) -> None:
        with pytest.raises(ConfigError) as caught:
            settle(group_config(fast_step="always", **changes))
        assert str(caught.value).startswith(f"fast_step is always, but {reason}")
        assert str(caught.value).endswith(
            "set fast_step to auto, which is SAELens's own step there"
        )
        settle(group_config(fast_step="auto", **changes))

    @needs_jumprelu
    def test_a_step_says_when_it_is_taken(self) -> None:
        jumprelu = step_of_config(sae_config("jumprelu", d_in=24, d_sae=512), AUTO)
        assert str(jumprelu) == "fast, but SAELens's own while over 1 latent in 16 takes part"
        assert str(step_of_config(wide_config("topk", d_sae=512), AUTO)) == "fast"
        never = step_of_config(wide_config("topk", d_sae=512), NEVER)
        assert str(never) == "SAELens's own: fast_step is never"

    def test_an_unknown_mode_lists_the_known_ones(self) -> None:
        with pytest.raises(UnknownNameError) as caught:
            group_config(fast_step="yes")
        assert str(caught.value) == (
            "fast_step 'yes' is not known; known names: auto, always, never"
        )

    def test_layers_per_token_is_at_least_one(self) -> None:
        with pytest.raises(ConfigError, match="layers_per_token is 0"):
            group_config(layers_per_token=0)

    def test_a_gated_sae_in_bfloat16_is_refused_unless_saelens_can_train_it(self) -> None:
        """Its loss multiplies what it is given with its weights, whatever dtypes they have."""
        sae = sae_config("gated", dtype="bfloat16")
        with pytest.raises(ConfigError, match="a gated SAE in bfloat16 needs autocast"):
            settle(group_config(sae=sae))
        settle(group_config(sae=sae, autocast=True))

    @pytest.mark.parametrize("architecture", SPARSE)
    def test_these_can_be_trained_with_it(self, architecture: str) -> None:
        assert why_not(sae_config(architecture)) is None
