"""SAEs that start from trained ones compute what those compute, fitted to their own layer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sae_lens import (
    SAE,
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TrainingSAE,
)
from sae_lens.training.activation_scaler import ActivationScaler
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupSAERunnerConfig, GroupSAETrainingRunner, LayerGroup, SAESuite
from sae_lens_groups.errors import CheckpointError, GroupSAEError
from sae_lens_groups.scaling.alignments import affine, orthogonal
from sae_lens_groups.scaling.group_scaling import MEAN_NORM, WHITENING
from sae_lens_groups.scaling.layer_scaler import LayerScaler
from sae_lens_groups.scaling.moments import PairMoments
from sae_lens_groups.train.initial import fresh_sae
from sae_lens_groups.train.prepare import settle
from sae_lens_groups.transfer.resize import RESIZABLE
from sae_lens_groups.transfer.start import DIRECTIONS
from sae_lens_groups.transfer.take import take_parameters

from .test_export import HAS_WHITENING, rows_of
from .tiny import (
    ARCHITECTURES,
    D_IN,
    D_SAE,
    HOOK_NAME,
    TableModel,
    group_config,
    make_model,
    make_tokens,
    sae_config,
    settings,
)

MODES = ["none", MEAN_NORM, *([WHITENING] if HAS_WHITENING else [])]
# A run takes a step at least; this one moves nothing.
NO_TRAINING = {"training_tokens": 32, "lr": 1e-30}


def config_of(architecture: str, mode: str = "none", **changes: Any) -> Any:
    if architecture == "matching_pursuit" and mode == WHITENING:
        pytest.skip("SAELens has no whitening for matching pursuit")
    if "batchtopk" in architecture:
        changes["topk_threshold_lr"] = 0.1
    if architecture == "matching_pursuit":  # a setting in units of the SAE's own input
        changes["residual_threshold"] = 0.0
    return sae_config(architecture, normalize_activations=mode, **changes)


def without_updates(config: Any) -> Any:
    """The same SAE, whose threshold no step moves."""
    if hasattr(config, "topk_threshold_lr"):
        config.topk_threshold_lr = 0.0
    return config


def require_equal(found: torch.Tensor, expected: torch.Tensor, times: float = 1) -> None:
    """Equal up to a millionth of the rows' mean norm, or a few."""
    atol = times * 1e-6 * expected.norm(dim=1).mean().item()
    torch.testing.assert_close(found, expected, atol=atol, rtol=1e-5)


def train(model: Any, tokens: Dataset, layer_groups: str, **changes: Any) -> SAESuite:
    cfg = group_config(layer_groups, **{"plan_tokens": 1000, **changes})
    return GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model).run()


@pytest.fixture(scope="module")
def growing() -> HookedTransformer:
    """A model whose norms grow with depth."""
    return make_model(norms=(1.0, 3.0, 9.0))


# --- copies ---


@pytest.mark.parametrize(
    ("architecture", "source_mode", "target_mode"),
    [
        *((architecture, mode, mode) for architecture in ARCHITECTURES for mode in MODES),
        *(("gated", source, target) for source in MODES for target in MODES if source != target),
    ],
)
def test_a_copy_to_the_same_layer_leaves_outputs_as_they_are(
    growing: HookedTransformer,
    tokens: Dataset,
    tmp_path: Path,
    architecture: str,
    source_mode: str,
    target_mode: str,
) -> None:
    whitens = WHITENING in (source_mode, target_mode)
    # Whitening changes the decoder's norms, so it would change what they rank features by.
    own = {"rescale_acts_by_decoder_norm": False} if whitens and "topk" in architecture else {}
    source = train(
        growing,
        tokens,
        "0-1,2",
        sae=config_of(architecture, source_mode, **own),
        output_path=str(tmp_path / "source"),
    )
    copy = train(
        growing,
        make_tokens(seed=3),  # so that norms are estimated anew
        "0,1,2",
        sae=without_updates(config_of(architecture, target_mode, **own)),
        init_from=str(tmp_path / "source"),
        **NO_TRAINING,
    )
    for layer in range(3):
        rows = rows_of(growing, layer)
        expected = source.layer(layer)(rows)
        require_equal(copy.layer(layer)(rows), expected, times=10 if whitens else 1)


@pytest.mark.seam
@pytest.mark.parametrize("mode", ["none", MEAN_NORM])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_copy_of_an_exported_layer_leaves_outputs_as_they_are(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path, architecture: str, mode: str
) -> None:
    """BatchTopK and Matryoshka are saved as JumpReLU, and come back as what they were."""
    target_config = without_updates(config_of(architecture, mode))
    source_config = config_of(architecture, MEAN_NORM)
    train(growing, tokens, "0-2", sae=source_config, output_path=str(tmp_path / "source"))
    folder = tmp_path / "source" / HOOK_NAME
    copy = train(growing, tokens, "1", sae=target_config, init_from=str(folder), **NO_TRAINING)
    plain, rows = SAE.load_from_disk(folder), rows_of(growing, 1)
    assert (plain.cfg.architecture() == "jumprelu") == (
        "batch" in architecture or architecture == "jumprelu"
    )
    require_equal(copy.layer(1)(rows), plain(rows))
    assert plain(rows).std() > 0.1


@pytest.mark.seam
@pytest.mark.parametrize("mode", ["none", MEAN_NORM])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_copy_of_saelens_own_checkpoint_leaves_outputs_as_they_are(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path, architecture: str, mode: str
) -> None:
    cfg = LanguageModelSAERunnerConfig(
        **settings(
            sae=config_of(architecture, mode),
            checkpoint_path=str(tmp_path / "ckpt"),
            n_checkpoints=1,
        )
    )
    LanguageModelSAETrainingRunner(cfg, override_dataset=tokens, override_model=growing).run()
    (checkpoint,) = (
        path.parent for path in tmp_path.glob("ckpt/*/*/cfg.json") if "final" not in str(path)
    )
    copy = train(
        growing,
        tokens,
        "1",
        sae=without_updates(config_of(architecture, mode)),
        init_from=str(checkpoint),
        **NO_TRAINING,
    )
    scaler = ActivationScaler()
    scaler.load(checkpoint / "activation_scaler.json")
    trained: TrainingSAE[Any] = TrainingSAE.load_from_disk(checkpoint)
    trained.save_inference_model(tmp_path / "inference")
    plain, rows = SAE.load_from_disk(tmp_path / "inference"), rows_of(growing, 1)
    expected = scaler.unscale(plain(scaler.scale(rows)))
    require_equal(copy.layer(1)(rows), expected)


@pytest.mark.parametrize("alignment", ["none", "orthogonal", "affine"])
def test_an_aligned_groups_layer_is_its_source_with_its_map(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path, alignment: str
) -> None:
    topk = sae_config(normalize_activations=MEAN_NORM, rescale_acts_by_decoder_norm=False)
    source = train(
        growing, tokens, "0-2", sae=topk, layer_alignment=alignment, output_path=str(tmp_path / "s")
    )
    copy = train(growing, tokens, "each", sae=topk, init_from=str(tmp_path / "s"), **NO_TRAINING)
    for layer in range(3):
        rows = rows_of(growing, layer)
        require_equal(
            copy.layer(layer)(rows), source.layer(layer)(rows), 10 if alignment == "affine" else 1
        )
    nearest = source.layer(2)(rows_of(growing, 2))
    assert (copy.layer(3)(rows_of(growing, 2)) - nearest).norm() < nearest.norm()


def test_a_suites_groups_folder_is_a_source(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    topk = sae_config(normalize_activations=MEAN_NORM)
    source = train(growing, tokens, "0-1,2", sae=topk, output_path=str(tmp_path / "s"))
    folder = tmp_path / "s/groups/layers_0-1"
    copy = train(growing, tokens, "0,1", sae=topk, init_from=str(folder), **NO_TRAINING)
    for layer in (0, 1):
        rows = rows_of(growing, layer)
        require_equal(copy.layer(layer)(rows), source.layer(layer)(rows))
    (folder / "layer_1/activation_scaler.json").unlink()
    (tmp_path / "s/checksums.json").unlink()
    with pytest.raises(GroupSAEError, match="lacks the scaling of layer 1"):
        train(growing, tokens, "0,1", sae=topk, init_from=str(folder), **NO_TRAINING)


# --- neighbours ---


def tables(image: Callable[[torch.Tensor], torch.Tensor]) -> TableModel:
    """Two layers, of which the upper is an image of the lower."""
    lower = random(0, 50, D_IN).float()
    return TableModel(torch.stack([lower, image(lower)]))


def random(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


ROTATION = torch.linalg.qr(random(1, D_IN, D_IN))[0].float()
MATRIX = ROTATION * torch.linspace(0.5, 2, D_IN)
OFFSET = random(2, D_IN).float()
IMAGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "scale": lambda x: 3 * x,
    "orthogonal": lambda x: 3 * x @ ROTATION,
    "affine": lambda x: x @ MATRIX + OFFSET,
}


@pytest.mark.parametrize("mode", ["none", MEAN_NORM])
@pytest.mark.parametrize("alignment", list(IMAGES))
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_sae_of_an_image_of_its_source_is_the_image_of_the_source(
    tmp_path: Path, direction: str, alignment: str, mode: str
) -> None:
    image = IMAGES[alignment]
    model, tokens = tables(image), make_tokens(highest=50)
    source_layer, target_layer = (0, 1) if direction == "forward" else (1, 0)
    topk = sae_config(normalize_activations=mode, rescale_acts_by_decoder_norm=False)
    source = train(model, tokens, str(source_layer), sae=topk, output_path=str(tmp_path / "s"))
    flags = {"init_direction": direction, "init_from": str(tmp_path / "s"), "sae": topk}
    started = train(
        model, tokens, str(target_layer), init_alignment=alignment, **flags, **NO_TRAINING
    )
    lower, upper = model.tables
    if direction == "forward":
        expected, found = image(source.layer(0)(lower)), started.layer(1)(upper)
    else:
        expected, found = source.layer(1)(upper), image(started.layer(0)(lower))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (expected - image(torch.zeros(D_IN))).norm() > 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(seed=st.integers(0, 10_000), factor=st.floats(0.1, 10))
@hypothesis_settings(max_examples=15, deadline=None)
def test_every_architecture_is_exact_for_images_of_its_source(
    architecture: str, seed: int, factor: float
) -> None:
    own = {"residual_threshold": 0.0} if architecture == "matching_pursuit" else {}
    cfg = group_config("0", sae=sae_config(architecture, **own))
    torch.manual_seed(seed)
    source, started = fresh_sae(cfg), fresh_sae(cfg)
    for parameter in source.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    if "topk_threshold" in source.state_dict():
        source.topk_threshold.fill_(0.1)  # type: ignore[operator]
    x = random(seed, 100, D_IN).float()
    y = factor * x @ torch.linalg.qr(random(seed + 1, D_IN, D_IN))[0].float()
    moments = PairMoments(D_IN)
    moments.add(y, x)
    ratio = ActivationScaler(scaling_factor=moments.norm_ratio)
    rotation = orthogonal(moments.scaled(ratio, ActivationScaler()))
    take_parameters(started, source, LayerScaler.of(ratio, rotation))
    expected = rotation.backward(source(x)) / moments.norm_ratio
    tolerance = 1e-4 * y.norm(dim=1).mean().item()
    is_off = (started(y) - expected).abs() > tolerance + 1e-3 * expected.abs()
    # Rounding may decide which of two features at the border of the top k is kept.
    assert is_off.any(dim=1).sum() <= 3  # of 100 rows


@given(seed=st.integers(0, 10_000))
@hypothesis_settings(max_examples=15, deadline=None)
def test_affine_maps_go_back_and_forth_in_any_encoder(seed: int) -> None:
    for architecture in ("standard", "gated", "jumprelu"):
        cfg = group_config("0", sae=sae_config(architecture))
        torch.manual_seed(seed)
        source, started = fresh_sae(cfg), fresh_sae(cfg)
        for parameter in source.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        x = random(seed, 200, D_IN)
        y = (x + random(seed + 2, D_IN)) @ (MATRIX.double())
        moments = PairMoments(D_IN)
        moments.add(y, x)
        layer_map = affine(moments)
        take_parameters(started, source, LayerScaler.of(ActivationScaler(), layer_map))
        expected = layer_map.backward(source(x.float()))
        torch.testing.assert_close(started(y.float()), expected, atol=1e-3, rtol=1e-3)


def test_scale_follows_the_norms_and_none_copies_bit_for_bit(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    source = train(
        growing, tokens, "0", sae=sae_config("standard"), output_path=str(tmp_path / "s")
    )
    flags = {"init_from": str(tmp_path / "s"), "sae": sae_config("standard"), **NO_TRAINING}
    copied = train(growing, tokens, "2", init_alignment="none", **flags).layer(2).state_dict()
    scaled = train(growing, tokens, "2", **flags).layer(2).state_dict()
    original = source.layer(0).state_dict()
    assert all(torch.equal(copied[name], original[name]) for name in ("W_enc", "W_dec"))
    assert all(torch.equal(scaled[name], original[name]) for name in ("W_enc", "W_dec"))
    torch.testing.assert_close(copied["b_dec"], original["b_dec"], atol=1e-20, rtol=0)
    growth = rows_of(growing, 2).norm(dim=1).mean() / rows_of(growing, 0).norm(dim=1).mean()
    torch.testing.assert_close(scaled["b_dec"], original["b_dec"] * growth, rtol=0.05, atol=0)
    assert growth > 2


@given(
    st.lists(st.integers(0, 12), min_size=1, unique=True),
    st.integers(0, 12),
    st.integers(0, 3),
)
def test_directions_are_what_they_say(layers: list[int], first: int, more: int) -> None:
    group = LayerGroup(first, first + more)
    below, above = DIRECTIONS["forward"](layers, group), DIRECTIONS["backward"](layers, group)
    assert below == max([layer for layer in layers if layer < first], default=None)
    assert above == min([layer for layer in layers if layer > first + more], default=None)
    nearest = DIRECTIONS["nearest"](layers, group)
    assert nearest is not None
    assert all(abs(nearest - group.middle) <= abs(layer - group.middle) for layer in layers)
    if 2 * group.middle - nearest in layers:
        assert nearest >= group.middle


# --- parts of an SAE ---


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "matching_pursuit"])
def test_an_encoder_alone_fires_as_its_source_does(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path, architecture: str
) -> None:
    config = config_of(architecture)
    flags = {
        "sae": without_updates(config_of(architecture)),
        "init_from": str(tmp_path / "s"),
        **NO_TRAINING,
    }
    source = train(growing, tokens, "1", sae=config, output_path=str(tmp_path / "s")).layer(1)
    started = train(growing, tokens, "1", init_parameters="encoder", **flags).layer(1)
    rows = rows_of(growing, 1)
    torch.testing.assert_close(started.encode(rows), source.encode(rows), atol=1e-5, rtol=1e-5)
    assert source.b_dec.abs().max() > 1e-3  # so that leaving it out had to be made up for
    assert started.b_dec.abs().max() < 1e-20
    cosine_F = torch.nn.functional.cosine_similarity(started.W_dec, source.W_enc.T)
    torch.testing.assert_close(cosine_F, torch.ones(D_SAE))


def test_a_decoder_alone_brings_its_transpose(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    source = train(growing, tokens, "1", output_path=str(tmp_path / "s")).group(LayerGroup(1, 1))
    flags = {"init_parameters": "decoder", "init_from": str(tmp_path / "s"), **NO_TRAINING}
    started = train(growing, tokens, "1", **flags).group(LayerGroup(1, 1))
    assert torch.equal(started.W_dec, source.W_dec)
    assert torch.equal(started.W_enc, source.W_dec.T)
    assert started.b_enc.abs().max() < 1e-20  # type: ignore[union-attr]
    assert source.b_enc.abs().max() > 1e-4  # type: ignore[union-attr]


@pytest.mark.parametrize("applied", [True, False])
def test_what_b_dec_is_applied_to_may_change(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path, applied: bool
) -> None:
    before = sae_config("gated", apply_b_dec_to_input=applied)
    after = sae_config("gated", apply_b_dec_to_input=not applied)
    source = train(growing, tokens, "1", sae=before, output_path=str(tmp_path / "s")).layer(1)
    copy = train(growing, tokens, "1", sae=after, init_from=str(tmp_path / "s"), **NO_TRAINING)
    rows = rows_of(growing, 1)
    require_equal(copy.layer(1)(rows), source(rows))


# --- runs ---


def test_training_goes_on_from_the_start_that_was_given(
    growing: HookedTransformer, tmp_path: Path
) -> None:
    tokens = make_tokens(n_prompts=600)
    topk = sae_config(normalize_activations=MEAN_NORM)
    flags = {"sae": topk, "training_tokens": 32 * 100, "lr": 1e-3}
    train(growing, tokens, "1", output_path=str(tmp_path / "s"), **flags)
    scratch = train(growing, tokens, "0,2", **flags).layer(2)
    suite = train(growing, tokens, "0,2", init_from=str(tmp_path / "s"), **flags)
    rows = rows_of(growing, 2)
    assert (suite.layer(2)(rows) - rows).norm() < 0.9 * (scratch(rows) - rows).norm()


def test_the_suite_tells_where_it_started_and_how_far_it_came(
    growing: HookedTransformer, tmp_path: Path
) -> None:
    tokens = make_tokens(n_prompts=600)
    topk = sae_config(normalize_activations=MEAN_NORM)
    train(growing, tokens, "0-1,3", sae=topk, output_path=str(tmp_path / "s"))
    flags = {"init_from": str(tmp_path / "s"), "sae": topk, "training_tokens": 32 * 100}
    train(growing, tokens, "each", output_path=str(tmp_path / "t"), **flags)
    transfer = json.loads((tmp_path / "t/suite.json").read_text())["transfer"]
    assert transfer["init_from"] == str(tmp_path / "s")
    assert transfer["init_direction"] == "nearest"
    assert transfer["init_alignment"] == "scale"
    assert [entry["source_hook_name"] for entry in transfer["layers"].values()] == [
        f"blocks.{layer}.hook_resid_post" for layer in (0, 1, 3, 3)
    ]
    for entry in transfer["layers"].values():
        before, after = entry["zero_shot"], entry["final"]
        assert after["mse"] < before["mse"]
        assert before["l0"] == after["l0"] == 4
    report = SAESuite.load(tmp_path / "t").manifest.transfer
    assert report is not None
    assert report.mean(report.final, "mse") < report.mean(report.zero_shot, "mse")
    assert "transfer" not in json.loads((tmp_path / "s/suite.json").read_text())


@pytest.mark.seam
def test_the_reported_scores_are_run_evals_of_the_exported_layers(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    from sae_lens import ActivationsStore
    from sae_lens.evals import EvalConfig, run_evals

    train(growing, tokens, "0-1,3", output_path=str(tmp_path / "s"))
    n_batches, prompts = 2, 128  # 2 batches of 16 tokens per prompt are the first 4,000 tokens
    many = make_tokens(n_prompts=1000)
    flags = {"init_from": str(tmp_path / "s"), "store_batch_size_prompts": prompts}
    suite = train(growing, many, "1-2", training_tokens=32 * 128, **flags)
    report = suite.manifest.transfer
    assert report is not None
    for layer in (1, 2):
        store = ActivationsStore.from_sae(
            growing, suite.layer(layer), many, store_batch_size_prompts=prompts, device="cpu"
        )
        config = EvalConfig(
            compute_variance_metrics=True,
            compute_sparsity_metrics=True,
            n_eval_sparsity_variance_batches=n_batches,
        )
        expected, _ = run_evals(
            suite.layer(layer),
            store,
            growing,
            ActivationScaler(),
            config,
            exclude_special_tokens=False,
        )
        found = report.final[layer]
        for name in ("explained_variance", "mse", "cossim"):
            assert found[name] == pytest.approx(expected["reconstruction_quality"][name], rel=1e-5)
        assert found["l0"] == expected["sparsity"]["l0"]


def test_prefetching_changes_nothing(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    topk = sae_config(normalize_activations=MEAN_NORM)
    train(growing, tokens, "1", sae=topk, output_path=str(tmp_path / "s"))
    flags = {"sae": topk, "init_from": str(tmp_path / "s"), "init_alignment": "orthogonal"}
    plain = train(growing, tokens, "0-1,2", **flags)
    prefetched = train(growing, tokens, "0-1,2", prefetch_llm_batches=2, **flags)
    for layer in range(3):
        ours, other = plain.layer(layer).state_dict(), prefetched.layer(layer).state_dict()
        assert all(torch.equal(ours[name], other[name]) for name in ours)


def test_a_resumed_run_keeps_what_it_started_from(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    train(growing, tokens, "1", output_path=str(tmp_path / "s"))
    flags = {
        "init_from": str(tmp_path / "s"),
        "init_alignment": "affine",
        "checkpoint_path": str(tmp_path / "c"),
    }
    first = train(growing, tokens, "0,2", n_checkpoints=1, **flags)
    (checkpoint,) = (path.parent for path in tmp_path.glob("c/*/*/transfer.json"))
    (tmp_path / "s").rename(tmp_path / "gone")  # a checkpoint needs it no more
    resumed = {"resume_from_checkpoint": str(checkpoint)}
    second = train(growing, tokens, "0,2", **flags, **resumed)
    before, after = first.manifest.transfer, second.manifest.transfer
    assert before is not None
    assert after is not None
    assert after.zero_shot == before.zero_shot
    assert after.source_layers == before.source_layers == {0: 1, 2: 1}
    assert after.final == before.final  # a resumed run is the same run
    (checkpoint / "transfer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is damaged"):
        train(growing, tokens, "0,2", **flags, **resumed)


def test_a_suite_can_be_filled_in(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    topk = sae_config(normalize_activations=MEAN_NORM)
    source = train(growing, tokens, "0,2-3", sae=topk, output_path=str(tmp_path / "s"))
    filled = train(
        growing,
        tokens,
        "1",
        sae=topk,
        init_from=str(tmp_path / "s"),
        init_keep_layers=True,
        output_path=str(tmp_path / "t"),
    )
    loaded = SAESuite.load(tmp_path / "t")
    assert [group.name for group in loaded.manifest.groups] == [
        "layers_0",
        "layers_1",
        "layers_2-3",
    ]
    assert loaded.manifest.transfer is not None
    assert list(loaded.manifest.transfer.source_layers) == [1]
    for layer in (0, 2, 3):
        kept, original = loaded.layer(layer).state_dict(), source.layer(layer).state_dict()
        assert all(torch.equal(kept[name], original[name]) for name in original)
        assert torch.equal(loaded.log_sparsity(layer), source.log_sparsity(layer))
        rows = rows_of(growing, layer)
        assert torch.equal(loaded.scaler(layer).scale(rows), source.scaler(layer).scale(rows))
    assert torch.equal(loaded.layer(1).W_dec, filled.layer(1).W_dec)
    # What was filled in can be a source again.
    again = train(growing, tokens, "each", sae=topk, init_from=str(tmp_path / "t"), **NO_TRAINING)
    rows = rows_of(growing, 3)
    require_equal(again.layer(3)(rows), source.layer(3)(rows))


def test_a_fraction_of_the_sources_tokens(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    flags = {"training_tokens": 32 * 50, "sae": sae_config(), "seed": 1}
    train(growing, tokens, "0-1,2", output_path=str(tmp_path / "s"), **flags)
    for init_from in ("s", "s/blocks.1.hook_resid_post", "s/groups/layers_0-1"):
        cfg = group_config("each", init_from=str(tmp_path / init_from), token_fraction=0.2)
        assert settle(cfg).cfg.training_tokens == 320
    cfg = group_config("each", init_from=str(tmp_path / "s"), token_fraction=0.2)
    again = GroupSAERunnerConfig.from_saved(settle(cfg).cfg.to_dict())
    assert settle(again).cfg.training_tokens == 320
    assert str(again.logger.run_name).endswith("-Tokens-3.200e+02")


# --- mistakes ---


@pytest.fixture(scope="module")
def sources(
    growing: HookedTransformer, tokens: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder of suites to start from, and of things that are none."""
    folder = tmp_path_factory.mktemp("sources")
    scaled = sae_config(normalize_activations=MEAN_NORM)
    train(growing, tokens, "0,1-2", sae=scaled, output_path=str(folder / "topk"))
    unfolded = {"layer_alignment": "affine", "output_path": str(folder / "affine")}
    train(growing, tokens, "0-2", sae=scaled, **unfolded)
    train(growing, tokens, "1", sae=sae_config("jumprelu"), output_path=str(folder / "jumprelu"))
    pursuit = sae_config("matching_pursuit")
    train(growing, tokens, "1", sae=pursuit, output_path=str(folder / "matching_pursuit"))
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken/suite.json").write_text("{}")
    (folder / "half").mkdir()
    (folder / "half/cfg.json").write_text('{"architecture": "topk"}')
    (folder / "unscaled").mkdir()
    exported = folder / "topk/blocks.0.hook_resid_post"
    for file in exported.iterdir():
        (folder / "unscaled" / file.name).write_bytes(file.read_bytes())
    cfg = json.loads((exported / "cfg.json").read_text())
    cfg["normalize_activations"] = MEAN_NORM
    (folder / "unscaled/cfg.json").write_text(json.dumps(cfg))
    nowhere = {**cfg, "metadata": {**cfg["metadata"], "hook_name": "resid"}}
    (folder / "nowhere").mkdir()
    (folder / "nowhere/cfg.json").write_text(json.dumps(nowhere))
    (folder / "nowhere/sae_weights.safetensors").write_bytes(
        (exported / "sae_weights.safetensors").read_bytes()
    )
    return folder


def configure_and_start(tokens: Dataset, changes: dict[str, Any]) -> None:
    cfg = group_config(**{"layer_groups": "0,2-3", **changes})
    GroupSAETrainingRunner(cfg, override_dataset=tokens)


@pytest.mark.parametrize(
    ("init_from", "changes", "message"),
    [
        (
            "gone",
            {},
            "gone' does not exist; name a suite's folder, the folder of one or several SAELens SAEs",
        ),
        ("empty", {}, "empty' is neither a suite nor a folder of SAELens SAEs"),
        ("topk/groups", {}, "or one of the SAEs in it: layers_0, layers_1-2"),
        ("broken", {}, "broken': suite.json cannot be read"),
        ("half", {}, "half' holds no SAELens SAE"),
        ("nowhere", {}, "does not say which layer its SAE is for: its hook_name is 'resid'"),
        (
            "matching_pursuit",
            {"sae": sae_config("matching_pursuit", d_sae=64)},
            "has d_sae=48, and the config asks for 64; make them equal, or start from another SAE: of "
            "matching_pursuit SAEs no features can be chosen, only of standard, gated, topk",
        ),
        (
            "topk",
            {"sae": sae_config(d_sae=64), "init_keep_layers": True, "layer_groups": "3"},
            "has d_sae=48, and the config asks for 64; make them equal",
        ),
        ("topk", {"sae": sae_config(d_in=8)}, "has d_in=16, and the config asks for 8"),
        (
            "topk",
            {"sae": sae_config("standard")},
            "has architecture='topk', and the config asks for 'standard'",
        ),
        (
            "jumprelu/blocks.1.hook_resid_post",
            {"sae": sae_config("batchtopk")},
            "is a JumpReLU SAE with a threshold for each feature",
        ),
        (
            "affine/blocks.0.hook_resid_post",
            {},
            "has rescale_acts_by_decoder_norm=False and decoder rows of other norms than 1",
        ),
        ("unscaled", {}, "scaled to a mean norm of sqrt(d_in), by a factor that it does not hold"),
        (
            "topk",
            {"sae": sae_config(normalize_activations="layer_norm")},
            "has normalize_activations='none', and the config asks for 'layer_norm'",
        ),
        ("topk", {"hook_name": "blocks.1.hook_resid_pre"}, "name an SAE of the same hook"),
        ("topk", {"hook_head_index": 1}, "has hook_head_index=None, and the config asks for 1"),
        (
            "topk",
            {"init_direction": "up"},
            "init_direction 'up' is not known; known names: nearest",
        ),
        (
            "topk",
            {"init_parameters": "most"},
            "init_parameters 'most' is not known; known names: all",
        ),
        (
            "topk",
            {"init_alignment": "linear"},
            "init_alignment 'linear' is not known; known names: affine, none, orthogonal, scale",
        ),
        ("topk", {"init_direction": "forward"}, "has no layer below group 0 (it has 0, 1-2)"),
        (
            "topk",
            {"init_direction": "backward"},
            "init_direction is 'backward', and init_from '{folder}/topk' has no layer above group 2-3",
        ),
        (
            "matching_pursuit",
            {"sae": sae_config("matching_pursuit"), "init_alignment": "affine"},
            "init_alignment 'affine' cannot be folded into matching_pursuit",
        ),
        (
            "matching_pursuit",
            {"sae": sae_config("matching_pursuit"), "init_parameters": "encoder"},
            "has no encoder of its own; set init_parameters to all or decoder",
        ),
        (
            "topk",
            {
                "sae": sae_config(normalize_activations="layer_norm"),
                "init_alignment": "orthogonal",
            },
            "init_alignment 'orthogonal' cannot be folded into an SAE with normalize_activations",
        ),
        ("topk", {"from_pretrained_path": "x"}, "init_from and from_pretrained_path both say"),
        ("topk", {"token_fraction": 0.0}, "token_fraction is 0.0; give a positive number"),
        (
            "topk",
            {"token_fraction": 0.2, "lr_warm_up_steps": 2, "lr_decay_steps": 5},
            "token_fraction leaves 6 training steps, and lr_warm_up_steps and lr_decay_steps take 7",
        ),
        ("unscaled", {"token_fraction": 0.5}, "does not say how many tokens it was trained on"),
        ("topk/blocks.1.hook_resid_post", {"init_keep_layers": True}, "needs a suite"),
        (
            "topk",
            {"init_keep_layers": True, "layer_groups": "0,2"},
            "cannot keep a part of group 1-2",
        ),
        ("affine", {"init_keep_layers": True, "layer_groups": "3"}, "beside those of 'none'"),
        (None, {"init_keep_layers": True}, "init_keep_layers needs init_from"),
        (None, {"token_fraction": 0.1}, "name them there, or give training_tokens"),
        ("pythia", {}, "'pythia' does not exist"),
        (
            "nobody/nothing",
            {},
            "'nobody/nothing' is not a folder, and cannot be fetched from the Hub",
        ),
        (
            "nobody:layer_3",
            {},
            "SAELens knows no release 'nobody' to find 'layer_3' in",
        ),
        ("nobody/nothing:layer_3", {}, "SAELens finds no SAE 'layer_3' in 'nobody/nothing'"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(
    sources: Path,
    tokens: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    init_from: str | None,
    changes: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr("sae_lens_groups.train.run.load_hooked_model", None)
    monkeypatch.setattr("sae_lens_groups.train.prepare.n_layers_before_loading", lambda _: 4)
    if (
        init_from is not None and (sources / init_from.split("/")[0]).exists()
    ) or init_from == "gone":
        init_from = str(sources / str(init_from))
    with pytest.raises(GroupSAEError) as caught:
        configure_and_start(tokens, {"init_from": init_from, **changes})
    assert message.replace("{folder}", str(sources)) in str(caught.value)


def test_saes_passed_in_cannot_start_elsewhere_too(
    growing: HookedTransformer, tokens: Dataset, sources: Path
) -> None:
    cfg = group_config("0", init_from=str(sources / "topk"))
    with pytest.raises(GroupSAEError, match="init_from and override_saes both say"):
        GroupSAETrainingRunner(cfg, tokens, growing, override_saes={"layers_0": fresh_sae(cfg)})


# --- more and fewer features ---


def state_of(suite: SAESuite) -> dict[str, torch.Tensor]:
    return suite.group(suite.groups[0]).state_dict()


@pytest.mark.parametrize("architecture", [name for name in RESIZABLE if name in ARCHITECTURES])
def test_the_most_used_features_are_taken_or_new_ones_added(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path, architecture: str
) -> None:
    folder = str(tmp_path / "source")
    source = train(growing, tokens, "1", sae=config_of(architecture), output_path=folder)
    frequency_F = source.log_sparsity(1)
    assert frequency_F is not None
    used = sorted(range(D_SAE), key=lambda n: (-frequency_F[n].item(), n))
    for d_sae, kept in ((32, sorted(used[:32])), (64, list(range(D_SAE)))):
        sae = without_updates(config_of(architecture, d_sae=d_sae))
        fresh = state_of(train(growing, tokens, "1", sae=sae, **NO_TRAINING))
        with pytest.warns(
            UserWarning, match=f"has 48 features, and d_sae is {d_sae}: an SAE starts"
        ):
            suite = train(growing, tokens, "1", sae=sae, init_from=folder, **NO_TRAINING)
        for name, found in state_of(suite).items():
            theirs, new = state_of(source)[name], fresh[name]
            if theirs.shape == found.shape:  # b_dec, a running threshold
                torch.testing.assert_close(found, theirs, rtol=1e-7, atol=1e-20)
                continue
            by_feature = -1 if name == "W_enc" else 0
            taken = theirs.index_select(by_feature, torch.tensor(kept))
            rest = new.narrow(by_feature, len(kept), d_sae - len(kept))
            expected = torch.cat([taken, rest], by_feature)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-20)  # of the one step
        assert suite.manifest.transfer is not None
        (told,) = suite.manifest.transfer.layers.values()
        by = "sparsity.safetensors" if d_sae < D_SAE else None
        assert (told.source_d_sae, told.features_by) == (D_SAE, by)


def test_features_are_counted_where_the_source_does_not_say_how_often_they_fire(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    source = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE))
    source.cfg.metadata.hook_name = HOOK_NAME
    fires_F = torch.arange(D_SAE) % 3 != 0
    source.b_enc.data = torch.where(fires_F, 1e3, -1e3)
    source.save_inference_model(tmp_path / "source")
    cfg = sae_config("standard", d_sae=32)
    with pytest.warns(UserWarning, match="an SAE starts with the 32 features that fire most"):
        suite = train(
            growing, tokens, "1", sae=cfg, init_from=str(tmp_path / "source"), **NO_TRAINING
        )
    assert torch.equal(state_of(suite)["W_dec"], source.W_dec[fires_F])
    rows = rows_of(growing, 1)
    require_equal(suite[1](rows), source(rows), times=10)
    assert suite.manifest.transfer is not None
    assert suite.manifest.transfer.layers[HOOK_NAME].features_by == "tokens"


# --- what two layers have to do with one another ---


@pytest.mark.parametrize("alignment", ["orthogonal", "affine"])
def test_a_neighbours_map_comes_before_the_sources_own(tmp_path: Path, alignment: str) -> None:
    """The source is an aligned group of layers 0 and 1; layer 2 is an image of layer 1."""
    lower, middle = random(0, 50, D_IN).float(), random(5, 50, D_IN).float()
    image = IMAGES["orthogonal"]
    model = TableModel(torch.stack([lower, middle, image(middle)]))
    tokens = make_tokens(highest=50)
    topk = sae_config(rescale_acts_by_decoder_norm=False)
    flags = {"sae": topk, "layer_alignment": "affine"}
    source = train(model, tokens, "0-1", output_path=str(tmp_path / "s"), **flags)
    started = train(
        model,
        tokens,
        "2",
        init_from=str(tmp_path / "s"),
        init_alignment=alignment,
        **flags,
        **NO_TRAINING,
    )
    assert source.scaler(1).layer_map is not None  # type: ignore[attr-defined]
    require_equal(started.layer(2)(image(middle)), image(source.layer(1)(middle)), times=100)


@pytest.mark.filterwarnings("ignore:n_batches_for_norm_estimate")
def test_an_sae_of_unknown_scaling_takes_rows_of_the_mean_norm_it_was_trained_on(
    sources: Path,
) -> None:
    """As SAEs are published that say expected_average_only_in and not by which factor."""
    model, tokens = tables(IMAGES["scale"]), make_tokens(highest=50)
    plain = SAE.load_from_disk(sources / "unscaled")
    scaled = sae_config(normalize_activations=MEAN_NORM)
    flags = {"init_from": str(sources / "unscaled"), "sae": scaled, **NO_TRAINING}
    many = {"n_batches_for_norm_estimate": 60, "plan_tokens": 3000}
    for layer, alignment in ((0, "scale"), (1, "scale"), (1, "orthogonal")):
        suite = train(model, tokens, str(layer), init_alignment=alignment, **flags, **many)
        table = model.tables[layer]
        factor = D_IN**0.5 / table.norm(dim=1).mean()
        expected = plain(table * factor) / factor
        error = (suite.layer(layer)(table) - expected).norm() / expected.norm()
        assert error < 0.05, (layer, alignment)


@pytest.mark.skipif(not HAS_WHITENING, reason="not yet in this SAELens")
def test_whitened_layers_need_a_map(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    whitened = sae_config(normalize_activations=WHITENING)
    train(growing, tokens, "1", sae=whitened, output_path=str(tmp_path / "s"))
    flags = {"sae": whitened, "init_from": str(tmp_path / "s"), **NO_TRAINING}
    for alignment in ("none", "scale"):
        with pytest.raises(GroupSAEError, match="whitened activations of two layers have"):
            train(growing, tokens, "2", init_alignment=alignment, **flags)
    suite = train(growing, tokens, "2", init_alignment="affine", **flags)
    rows = rows_of(growing, 2)
    assert (suite.layer(2)(rows) - rows).norm() < rows.norm()


def test_layers_of_the_source_alone_are_captured_too(tmp_path: Path) -> None:
    """The runner hooks a Hugging Face model only where it has to."""
    from sae_lens_groups.demo.model import stdlib_tokens
    from sae_lens_groups.demo.run import demo_config

    dataset = stdlib_tokens("held_out").select(range(400))
    short = {"n_batches_in_buffer": 16, "n_batches_for_norm_estimate": 2, "lr_decay_steps": 0}

    def run(layer_groups: str, output_path: Path, **flags: Any) -> SAESuite:
        cfg = demo_config(layer_groups, output_path, 2048, **short, **flags)
        return GroupSAETrainingRunner(cfg, override_dataset=dataset).run()

    run("2,5", tmp_path / "s")
    flags = {"init_from": str(tmp_path / "s"), "init_alignment": "orthogonal", "plan_tokens": 2000}
    filled = run("3-4", tmp_path / "t", init_keep_layers=True, **flags)
    assert [group.name for group in filled.manifest.groups] == [
        "layers_2",
        "layers_3-4",
        "layers_5",
    ]
    report = filled.manifest.transfer
    assert report is not None
    assert report.source_layers == {3: 2, 4: 2}


def test_measured_groups_start_from_a_suite(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    train(growing, tokens, "each", output_path=str(tmp_path / "s"))
    suite = train(growing, tokens, "auto:2", init_from=str(tmp_path / "s"), init_alignment="affine")
    report = suite.manifest.transfer
    assert report is not None
    for group in suite.manifest.groups:
        assert {report.source_layers[layer] for layer in group.layers} == {group.middle}


def test_heads_can_be_transferred(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    z = {"hook_name": "blocks.1.attn.hook_z", "sae": sae_config("standard")}
    source = train(growing, tokens, "1", output_path=str(tmp_path / "s"), **z)
    copy = train(growing, tokens, "1", init_from=str(tmp_path / "s"), **z, **NO_TRAINING)
    rows = random(3, 20, D_IN).float()  # two heads of eight
    torch.testing.assert_close(copy.layer(1)(rows), source.layer(1)(rows), atol=1e-6, rtol=1e-5)


# --- what must not get lost ---


def test_a_path_is_as_good_as_its_text(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    train(growing, tokens, "1", output_path=str(tmp_path / "s"))
    train(growing, tokens, "1", init_from=tmp_path / "s", output_path=str(tmp_path / "t"))
    saved = json.loads((tmp_path / "t/runner_cfg.json").read_text())
    assert saved["init_from"] == str(tmp_path / "s")


def test_a_trained_suite_is_saved_without_the_layers_that_got_lost_meanwhile(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(growing, tokens, "0,2", output_path=str(tmp_path / "s"))
    flags = {"init_from": str(tmp_path / "s"), "init_keep_layers": True}
    cfg = group_config("1", output_path=str(tmp_path / "t"), **flags)
    runner = GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=growing)
    (tmp_path / "s/blocks.2.hook_resid_post/sae_weights.safetensors").unlink()
    monkeypatch.setattr("sae_lens_groups.train.evals.SuiteScores.of", scores_that_fail_later())
    with pytest.warns(UserWarning, match="are not kept|could not be scored") as warned:
        runner.run()
    messages = " ".join(str(one.message) for one in warned)
    assert "the layers of init_from are not kept" in messages
    assert "the trained SAEs could not be scored: out of memory" in messages
    suite = SAESuite.load(next(tmp_path.glob("t*")))
    assert list(suite) == [HOOK_NAME]
    assert suite.layer(1).W_dec.shape == (D_SAE, D_IN)


def scores_that_fail_later() -> Callable[..., Any]:
    """Scores before training, and an error after it."""
    answers = iter([{1: {"explained_variance": 0.5}}])

    def of(*_: Any) -> Any:
        try:
            return next(answers)
        except StopIteration:
            raise RuntimeError("out of memory") from None

    return of


def test_what_cannot_be_kept_is_refused_before_training(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    train(growing, tokens, "0,2", output_path=str(tmp_path / "s"))
    (tmp_path / "s/blocks.2.hook_resid_post/sparsity.safetensors").unlink()
    flags = {"init_from": str(tmp_path / "s"), "init_keep_layers": True}
    with pytest.raises(GroupSAEError, match=r"lacks blocks.2.hook_resid_post/sparsity.safetensors"):
        train(growing, tokens, "1", **flags)
    with pytest.raises(GroupSAEError, match="SAEs of the model 'tiny' beside those of 'small'"):
        train(growing, tokens, "1", model_name="small", **flags)
    with pytest.warns(UserWarning, match="was trained on the model 'tiny', and this run trains on"):
        train(growing, tokens, "1", model_name="small", init_from=str(tmp_path / "s"))


def test_a_resumed_fraction_keeps_its_length_and_its_source(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    train(growing, tokens, "1", output_path=str(tmp_path / "s"))
    flags = {"init_from": str(tmp_path / "s"), "token_fraction": 0.5}
    train(growing, tokens, "0,2", n_checkpoints=1, checkpoint_path=str(tmp_path / "c"), **flags)
    (checkpoint,) = (path.parent for path in tmp_path.glob("c/*/*/transfer.json"))
    (tmp_path / "s").rename(tmp_path / "gone")
    resumed = group_config("0,2", resume_from_checkpoint=str(checkpoint), **flags)
    assert settle(resumed).cfg.training_tokens == 480
    saved = json.loads((checkpoint / "runner_cfg.json").read_text())
    assert GroupSAERunnerConfig.from_saved(saved, training_tokens=640).training_tokens == 640
    again = GroupSAERunnerConfig.from_saved(
        {**saved, "resume_from_checkpoint": "c"}, training_tokens=640
    )
    assert again.resume_from_checkpoint is None
    with pytest.raises(CheckpointError, match="was made with init_from='s', and this run asks for"):
        train(growing, tokens, "0,2", resume_from_checkpoint=str(checkpoint))


def test_a_suite_of_an_earlier_version_loads_and_saves_but_is_no_source(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    train(growing, tokens, "0-1", output_path=str(tmp_path / "s"))
    (tmp_path / "s/checksums.json").unlink()
    for scaler in tmp_path.glob("s/groups/*/*/activation_scaler.json"):
        scaler.unlink()
        scaler.parent.rmdir()
    old = SAESuite.load(tmp_path / "s")
    old.save(tmp_path / "t")
    rows = rows_of(growing, 0)
    assert torch.equal(SAESuite.load(tmp_path / "t").layer(0)(rows), old.layer(0)(rows))
    with pytest.raises(GroupSAEError, match="does not hold the scaling of layer 0"):
        old.scaler(0)
    with pytest.raises(GroupSAEError, match="lacks the scaling of layer 0"):
        train(growing, tokens, "0", init_from=str(tmp_path / "t"))
    exported = tmp_path / "t/blocks.0.hook_resid_post"
    copy = train(growing, tokens, "0", init_from=str(exported), **NO_TRAINING)
    require_equal(copy.layer(0)(rows), old.layer(0)(rows))


def test_matching_pursuit_keeps_what_b_dec_is_applied_to(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    train(growing, tokens, "1", sae=sae_config("matching_pursuit"), output_path=str(tmp_path / "s"))
    other = sae_config("matching_pursuit", apply_b_dec_to_input=False)
    with pytest.raises(GroupSAEError, match="has apply_b_dec_to_input=True, and the config asks"):
        train(growing, tokens, "1", sae=other, init_from=str(tmp_path / "s"))


def test_a_resumed_run_still_keeps_the_sources_layers(
    growing: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    train(growing, tokens, "0,2", output_path=str(tmp_path / "s"))
    flags = {"init_from": str(tmp_path / "s"), "init_keep_layers": True}
    train(growing, tokens, "1", n_checkpoints=1, checkpoint_path=str(tmp_path / "c"), **flags)
    (checkpoint,) = (path.parent for path in tmp_path.glob("c/*/*/transfer.json"))
    resumed = {"resume_from_checkpoint": str(checkpoint)}
    suite = train(growing, tokens, "1", **flags, **resumed)
    assert [group.name for group in suite.manifest.groups] == ["layers_0", "layers_1", "layers_2"]


def test_a_filled_in_suite_read_what_either_run_read(
    model: HookedTransformer, tokens_folder: Path, tmp_path: Path
) -> None:
    def run(layer_groups: str, name: str, **changes: Any) -> int | None:
        flags = {"dataset_path": str(tokens_folder), "output_path": str(tmp_path / name)}
        cfg = group_config(layer_groups, **flags, **changes)
        GroupSAETrainingRunner(cfg, override_model=model).run()
        return SAESuite.load(tmp_path / name).manifest.dataset_rows_read

    long = run("0-2,3", "long", training_tokens=32 * 60)
    alone = run("3", "alone", training_tokens=32 * 5)
    assert long is not None
    assert alone is not None
    assert alone < long
    source = {"init_from": str(tmp_path / "long"), "init_keep_layers": True}
    assert run("3", "filled", training_tokens=32 * 5, **source) == long
