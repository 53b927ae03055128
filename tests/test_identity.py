"""Groups of one layer are SAELens's own training, bit for bit."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sae_lens
import torch
from datasets import Dataset
from packaging.version import Version
from sae_lens import (
    SAE,
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    MultiSAETrainingRunner,
    MultiSAETrainingRunnerConfig,
    TrainingSAE,
)
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupSAETrainingRunner, LayerGroup, SAESuite

from .tiny import (
    ARCHITECTURES,
    D_IN,
    HOOK_NAME,
    group_config,
    sae_config,
    settings,
)

# Before, SAELens averaged the norms batch by batch, which rounds differently.
SAE_LENS_SUMS_NORMS = Version(sae_lens.__version__) >= Version("6.54")
ESTIMATED = [
    mode
    for mode in ("expected_average_only_in", "covariance_whitening")
    if hasattr(TrainingSAE, "fold_activation_whitening") or mode != "covariance_whitening"
]


def train_groups(
    model: HookedTransformer, tokens: Dataset, layer_groups: str, **changes: Any
) -> SAESuite:
    cfg = group_config(layer_groups, **{"fast_step": "never", **changes})
    return GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model).run()


def train_with_sae_lens(
    model: HookedTransformer,
    tokens: Dataset,
    before_fold: Callable[[TrainingSAE[Any]], None] | None = None,
    **changes: Any,
) -> TrainingSAE[Any]:
    cfg = LanguageModelSAERunnerConfig(**settings(**changes))
    torch.manual_seed(cfg.seed)  # which SAELens leaves to its user
    runner = LanguageModelSAETrainingRunner(cfg, override_dataset=tokens, override_model=model)
    if before_fold is not None:
        _call_before_folding(runner.sae, before_fold)
    return runner.run()


def _call_before_folding(
    sae: TrainingSAE[Any], callback: Callable[[TrainingSAE[Any]], None]
) -> None:
    for name in ("fold_activation_norm_scaling_factor", "fold_activation_whitening"):
        fold = getattr(sae, name, None)

        def folding(*args: Any, fold: Any = fold, **kwargs: Any) -> None:
            callback(sae)
            fold(*args, **kwargs)

        setattr(sae, name, folding)


def assert_same_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name]), name


@pytest.mark.seam
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_layer_equals_saelens_single_runner(
    model: HookedTransformer, tokens: Dataset, architecture: str
) -> None:
    theirs = train_with_sae_lens(model, tokens, sae=sae_config(architecture))
    suite = train_groups(model, tokens, "1", sae=sae_config(architecture))
    assert_same_weights(suite.group(LayerGroup(1, 1)).state_dict(), theirs.state_dict())


@pytest.mark.seam
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_equals_saelens_multi_runner(
    model: HookedTransformer, tokens: Dataset, architecture: str
) -> None:
    hook_names = {f"layers_{n}": f"blocks.{n}.hook_resid_post" for n in range(4)}
    shared = settings()
    for name in ("sae", "hook_name", "is_dataset_tokenized", "verbose"):
        shared.pop(name)
    cfg = MultiSAETrainingRunnerConfig(
        saes={name: sae_config(architecture) for name in hook_names},
        hook_names=hook_names,
        **shared,
    )
    torch.manual_seed(cfg.seed)
    theirs = MultiSAETrainingRunner(cfg, override_dataset=tokens, override_model=model).run()
    suite = train_groups(model, tokens, "each", sae=sae_config(architecture))
    for layer in range(4):
        ours = suite.group(LayerGroup(layer, layer))
        assert_same_weights(ours.state_dict(), theirs[f"layers_{layer}"].state_dict())


@pytest.mark.seam
@pytest.mark.parametrize(
    "architecture",
    [n for n in ARCHITECTURES if n in ("topk", "batchtopk", "abstopk", "matryoshka_batchtopk")],
)
def test_with_the_fast_step_weights_differ_from_saelens_own_by_rounding(
    model: HookedTransformer, tokens: Dataset, architecture: str
) -> None:
    theirs = train_with_sae_lens(model, tokens, sae=sae_config(architecture))
    suite = train_groups(model, tokens, "1", sae=sae_config(architecture), fast_step="always")
    ours = suite.group(LayerGroup(1, 1)).state_dict()
    for name, weight in theirs.named_parameters():  # BatchTopK's threshold: test_threshold.py
        # Adam divides by the gradient's size, which blows up the rounding of small ones.
        assert (ours[name] - weight).norm() <= 1e-4 * weight.norm(), name
        assert not torch.equal(ours[name], weight)


@pytest.mark.seam
@pytest.mark.parametrize("mode", ESTIMATED)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_normalised_weights_are_the_same_before_folding_and_the_saes_after(
    model: HookedTransformer, tokens: Dataset, tmp_path: Path, architecture: str, mode: str
) -> None:
    if architecture == "matching_pursuit" and mode == "covariance_whitening":
        pytest.skip("SAELens has no whitening for matching pursuit")
    sae = {"sae": sae_config(architecture, normalize_activations=mode)}
    unfolded: dict[str, torch.Tensor] = {}

    def remember(sae: TrainingSAE[Any]) -> None:
        unfolded.update({name: weight.clone() for name, weight in sae.state_dict().items()})

    theirs = train_with_sae_lens(model, tokens, before_fold=remember, **sae)
    sae = {"sae": sae_config(architecture, normalize_activations=mode)}
    suite = train_groups(model, tokens, "1", **sae)
    ours = suite.group(LayerGroup(1, 1)).state_dict()
    if SAE_LENS_SUMS_NORMS:
        assert_same_weights(ours, unfolded)
    else:
        torch.testing.assert_close(ours, unfolded, rtol=1e-4, atol=1e-6)
    if architecture.endswith("batchtopk") and not SAE_LENS_SUMS_NORMS:
        return  # SAELens did not scale their threshold yet (its issue 763)
    theirs.save_inference_model(tmp_path / "theirs")
    exported = SAE.load_from_disk(tmp_path / "theirs")
    rows = torch.randn(64, D_IN, generator=torch.Generator().manual_seed(1))
    tolerance = 1e-6 if SAE_LENS_SUMS_NORMS else 1e-4
    torch.testing.assert_close(
        suite[HOOK_NAME](rows), exported(rows), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("prefetch_llm_batches", [True, 3])
def test_prefetching_changes_nothing(
    model: HookedTransformer, tokens: Dataset, prefetch_llm_batches: bool | int
) -> None:
    plain = train_groups(model, tokens, "0-2,3")
    threads = threading.active_count()
    prefetched = train_groups(model, tokens, "0-2,3", prefetch_llm_batches=prefetch_llm_batches)
    assert threading.active_count() == threads  # nothing draws random numbers behind our back
    for group in plain.manifest.groups:
        assert_same_weights(prefetched.group(group).state_dict(), plain.group(group).state_dict())


def test_the_seed_decides_the_weights_whatever_the_process_drew_before(
    model: HookedTransformer, tokens: Dataset
) -> None:
    first = train_groups(model, tokens, "0-2,3")
    torch.rand(100)
    again = train_groups(model, tokens, "0-2,3")
    other = train_groups(model, tokens, "0-2,3", seed=8)
    for group in first.manifest.groups:
        ours = first.group(group).state_dict()
        assert_same_weights(again.group(group).state_dict(), ours)
        assert not torch.equal(other.group(group).state_dict()["W_dec"], ours["W_dec"])


def test_training_leaves_the_users_random_numbers_alone(
    model: HookedTransformer, tokens: Dataset
) -> None:
    torch.manual_seed(3)
    train_groups(model, tokens, "3")
    after = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(4))
