"""Maps between layers: exact where they can be, folded exactly, and of use to a group."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from sae_lens import SAE
from sae_lens.training.activation_scaler import ActivationScaler
from scipy.linalg import orthogonal_procrustes
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupSAETrainingRunner, LayerGroup, SAESuite, hookimpl
from sae_lens_groups.errors import (
    CheckpointError,
    DatasetError,
    GroupSAEError,
    NonFiniteActivationsError,
)
from sae_lens_groups.files import CheckedFolder
from sae_lens_groups.plugins import plugin_manager
from sae_lens_groups.scaling.alignments import Alignment, affine, orthogonal, scale
from sae_lens_groups.scaling.estimate import WhiteningEstimate
from sae_lens_groups.scaling.group_scaling import MEAN_NORM, WHITENING, GroupScaling
from sae_lens_groups.scaling.layer_scaler import LayerMap, LayerScaler
from sae_lens_groups.scaling.moments import PairMoments
from sae_lens_groups.scaling.stored import load_layer_scaler, save_layer_scalers
from sae_lens_groups.train.prepare import settle

from .test_export import GROUP, HAS_WHITENING, inference_form, rows_of
from .tiny import (
    ARCHITECTURES,
    D_IN,
    TableModel,
    group_config,
    make_model,
    make_tokens,
    sae_config,
)

seeds = st.integers(0, 10_000)


def random(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def moments_of(x_BD: torch.Tensor, y_BD: torch.Tensor) -> PairMoments:
    moments = PairMoments(x_BD.shape[1])
    moments.add(x_BD[:30], y_BD[:30])
    moments.add(x_BD[30:], y_BD[30:])
    return moments


def require_exact(layer_map: LayerMap, x_BD: torch.Tensor, y_BD: torch.Tensor) -> None:
    torch.testing.assert_close(layer_map.forward(x_BD), y_BD, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(layer_map.backward(y_BD), x_BD, atol=1e-6, rtol=1e-6)


# --- fits ---


@given(seeds, st.floats(0.01, 100))
def test_scale_is_exact_for_a_multiple(seed: int, factor: float) -> None:
    x = random(seed, 100, 8)
    require_exact(scale(moments_of(x, factor * x)), x, factor * x)


@given(seeds)
def test_orthogonal_is_exact_for_a_rotation(seed: int) -> None:
    x, rotation = random(seed, 100, 8) + 2, torch.linalg.qr(random(seed + 1, 8, 8))[0]
    require_exact(orthogonal(moments_of(x, x @ rotation)), x, x @ rotation)


@given(seeds)
def test_affine_is_exact_for_an_invertible_affine_image(seed: int) -> None:
    x = random(seed, 100, 8) - 3
    matrix = torch.linalg.qr(random(seed + 1, 8, 8))[0] @ torch.diag(
        torch.linspace(0.5, 2, 8).double()
    )
    y = x @ matrix + random(seed + 2, 8)
    require_exact(affine(moments_of(x, y)), x, y)


@given(seeds)
def test_orthogonal_is_procrustes_and_affine_least_squares(seed: int) -> None:
    x = random(seed, 100, 8) + 1
    y = x @ random(seed + 1, 8, 8) + random(seed + 2, 100, 8)
    rotation, _ = orthogonal_procrustes(x.numpy(), y.numpy())
    torch.testing.assert_close(orthogonal(moments_of(x, y)).matrix_DD, torch.tensor(rotation))
    fitted = affine(moments_of(x, y))
    for source, target, found in ((x, y, fitted.forward(x)), (y, x, fitted.backward(y))):
        with_one = torch.cat([source, torch.ones(100, 1, dtype=torch.float64)], dim=1)
        expected = with_one @ torch.linalg.lstsq(with_one, target).solution
        torch.testing.assert_close(found, expected)


def scalers(x_BD: torch.Tensor) -> list[ActivationScaler]:
    found = [ActivationScaler(), ActivationScaler(scaling_factor=0.3)]
    if HAS_WHITENING:
        whitening = WhiteningEstimate(x_BD.shape[1])
        whitening.add(x_BD)
        found.append(whitening.scaler(layer=0))
    return found


def test_moments_of_scaled_activations_follow_from_those_of_raw_ones() -> None:
    x, y = random(0, 100, 8) + 1, random(1, 100, 8) - 2
    for scaler_x in scalers(x):
        for scaler_y in scalers(y):
            found = moments_of(x, y).scaled(scaler_x, scaler_y)
            expected = moments_of(scaler_x.scale(x), scaler_y.scale(y))
            if getattr(scaler_x, "whitening", None):  # root mean squares stand in for mean norms
                expected.sum_norm_x = (100 * expected.xx_DD.trace()).sqrt()
            if getattr(scaler_y, "whitening", None):
                expected.sum_norm_y = (100 * expected.yy_DD.trace()).sqrt()
            for name, tensor in vars(expected).items():
                torch.testing.assert_close(getattr(found, name), tensor, msg=name)


def test_a_scaler_with_a_map_survives_being_saved(tmp_path: Path) -> None:
    scaler = LayerScaler.of(
        ActivationScaler(scaling_factor=0.5),
        affine(moments_of(random(0, 100, 8), random(1, 100, 8))),
    )
    save_layer_scalers(tmp_path, {3: scaler})
    loaded = load_layer_scaler(CheckedFolder(tmp_path), "layer_3", d_in=8)
    x = random(2, 5, 8)
    assert torch.equal(loaded.scale(x), scaler.scale(x))
    assert torch.equal(loaded.unscale(x), scaler.unscale(x))
    assert not torch.equal(loaded.scale(x), x * 0.5)


# --- groups ---


def train(
    model: Any, tokens: Dataset, layer_groups: str = "0-2", **changes: Any
) -> tuple[SAESuite, Mapping[str, GroupScaling]]:
    """A suite, and each group's scalers."""
    cfg = group_config(layer_groups, **{"plan_tokens": 1000, **changes})
    runner = GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model)
    trainers: list[Any] = []
    build_trainer = runner._trainer

    def remember(batches: Any) -> Any:
        trainers.append(build_trainer(batches))
        return trainers[-1]

    runner._trainer = remember  # type: ignore[method-assign]
    suite = runner.run()
    return suite, {name: one.scaling for name, one in trainers[0].group_trainers.items()}


@pytest.mark.seam
@pytest.mark.parametrize("mode", ["none", MEAN_NORM, *([WHITENING] if HAS_WHITENING else [])])
@pytest.mark.parametrize("alignment", ["scale", "orthogonal", "affine"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_exported_layer_equals_the_aligned_group_sae(
    model: HookedTransformer,
    tokens: Dataset,
    tmp_path: Path,
    architecture: str,
    alignment: str,
    mode: str,
) -> None:
    if architecture == "matching_pursuit" and (alignment != "orthogonal" or mode == WHITENING):
        pytest.skip("cannot be folded, and is refused")
    config = sae_config(architecture, normalize_activations=mode)
    path = tmp_path / "suite"
    suite, scalings = train(
        model, tokens, sae=config, layer_alignment=alignment, output_path=str(path)
    )
    group_sae = inference_form(suite.group(GROUP), tmp_path / "group")
    for layer, scaler in zip(GROUP.layers, scalings[GROUP.name].scalers):
        rows = rows_of(model, layer)
        expected = scaler.unscale(group_sae(scaler.scale(rows)))
        tolerance = 1e-5 * rows.norm(dim=-1).mean().item()
        torch.testing.assert_close(suite.layer(layer)(rows), expected, rtol=1e-5, atol=tolerance)
        plain = SAE.load_from_disk(path / f"blocks.{layer}.hook_resid_post")
        torch.testing.assert_close(plain(rows), expected, rtol=1e-5, atol=tolerance)
    maps = [scaler.layer_map for scaler in scalings[GROUP.name].scalers]  # type: ignore[attr-defined]
    assert [layer_map is None for layer_map in maps] == [False, True, False]  # the middle one


def rotated_layers(n_layers: int) -> tuple[TableModel, TableModel]:
    """Layers that are rotations of one another, and as many layers that are all the middle one."""
    middle = random(0, 50, D_IN).float()
    tables = torch.stack(
        [
            middle
            if layer == n_layers // 2
            else middle @ torch.linalg.qr(random(layer, D_IN, D_IN))[0].float()
            for layer in range(n_layers)
        ]
    )
    return TableModel(tables), TableModel(middle.repeat(n_layers, 1, 1))


def test_a_group_of_rotations_trains_aligned_like_one_layer() -> None:
    rotated, same = rotated_layers(3)
    tokens = make_tokens(highest=50)

    def decoder(model: TableModel, alignment: str) -> torch.Tensor:
        suite, _ = train(model, tokens, layer_alignment=alignment)
        return suite.group(GROUP).W_dec

    one_layer = decoder(same, "none")
    torch.testing.assert_close(decoder(rotated, "orthogonal"), one_layer, atol=1e-4, rtol=0)
    torch.testing.assert_close(decoder(rotated, "affine"), one_layer, atol=1e-4, rtol=0)
    assert (decoder(rotated, "none") - one_layer).abs().max() > 0.05


def test_each_rotated_layer_is_reconstructed_as_well_as_the_middle_one() -> None:
    rotated, _ = rotated_layers(3)
    suite, _ = train(rotated, make_tokens(highest=50), layer_alignment="orthogonal")
    errors = [
        (suite.layer(layer)(table) - table).norm().item()
        for layer, table in enumerate(rotated.tables)
    ]
    assert max(errors) == pytest.approx(min(errors), rel=1e-4)


@pytest.mark.parametrize("alignment", ["orthogonal", "affine"])
def test_a_group_of_one_layer_is_what_it_is_without_alignment(
    model: HookedTransformer, tokens: Dataset, alignment: str
) -> None:
    plain, _ = train(model, tokens, "0,1,2-3")
    aligned, _ = train(model, tokens, "0,1,2-3", layer_alignment=alignment)
    for group in (LayerGroup(0, 0), LayerGroup(1, 1)):
        weights, others = plain.group(group).state_dict(), aligned.group(group).state_dict()
        assert all(torch.equal(weights[name], others[name]) for name in weights)
    shared = LayerGroup(2, 3)
    assert not torch.equal(plain.group(shared).W_dec, aligned.group(shared).W_dec)


def test_prefetching_changes_nothing(model: HookedTransformer, tokens: Dataset) -> None:
    suite, _ = train(model, tokens, layer_alignment="orthogonal")
    prefetched, _ = train(model, tokens, layer_alignment="orthogonal", prefetch_llm_batches=2)
    assert torch.equal(suite.group(GROUP).W_dec, prefetched.group(GROUP).W_dec)


def test_a_suite_says_how_it_was_aligned(
    model: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    train(model, tokens, layer_alignment="affine", output_path=str(tmp_path / "aligned"))
    train(model, tokens, output_path=str(tmp_path / "plain"))
    assert json.loads((tmp_path / "aligned/suite.json").read_text())["layer_alignment"] == "affine"
    assert "layer_alignment" not in json.loads((tmp_path / "plain/suite.json").read_text())
    assert SAESuite.load(tmp_path / "aligned").manifest.layer_alignment == "affine"


def test_a_resumed_run_keeps_its_maps(
    model: HookedTransformer, tokens: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"layer_alignment": "affine", "checkpoint_path": str(tmp_path), "n_checkpoints": 1}
    _, first = train(model, tokens, **settings)
    (checkpoint,) = tmp_path.glob("*/*")
    resumed = {"resume_from_checkpoint": str(checkpoint)}
    monkeypatch.setattr(PairMoments, "add", None)  # nothing is fitted again
    _, second = train(model, tokens, layer_alignment="affine", **resumed)
    rows = rows_of(model, 0)
    scaler, other = first[GROUP.name].scalers[0], second[GROUP.name].scalers[0]
    assert torch.equal(scaler.scale(rows), other.scale(rows))
    assert not torch.equal(scaler.scale(rows), rows)
    with pytest.raises(CheckpointError, match="was made with layer_alignment='affine'"):
        train(model, tokens, **resumed)


def test_another_packages_alignment_is_used(model: HookedTransformer, tokens: Dataset) -> None:
    class Plugin:
        @hookimpl
        def register_alignments(self, register: Callable[[str, Alignment], None]) -> None:
            register("rotation", Alignment(orthogonal, keeps_lengths=True))

    plugin = Plugin()
    plugin_manager().register(plugin, name="some-package")
    try:
        found, _ = train(model, tokens, layer_alignment="rotation")
    finally:
        plugin_manager().unregister(plugin)
    expected, _ = train(model, tokens, layer_alignment="orthogonal")
    assert torch.equal(found.group(GROUP).W_dec, expected.group(GROUP).W_dec)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layer_alignment": "linear"},
            "layer_alignment 'linear' is not known; known names: affine, none, orthogonal, scale",
        ),
        (
            {
                "layer_alignment": "orthogonal",
                "sae": sae_config(normalize_activations="layer_norm"),
            },
            "cannot be folded into an SAE with normalize_activations='layer_norm'",
        ),
        (
            {"layer_alignment": "affine", "sae": sae_config("matching_pursuit")},
            "cannot be folded into matching_pursuit, whose encoder is its decoder; use orthogonal",
        ),
    ],
)
def test_what_cannot_be_aligned_is_refused_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GroupSAEError) as caught:
        settle(group_config("0-2", **changes))
    assert message in str(caught.value)


def test_too_few_tokens_are_refused() -> None:
    few = {"store_batch_size_prompts": 1, "seqpos_slice": (0, 10), "plan_tokens": 5}
    with pytest.raises(
        DatasetError, match="10 tokens are too few to fit maps between layers, of 16 x 16"
    ):
        train(rotated_layers(3)[0], make_tokens(highest=50), layer_alignment="affine", **few)


def test_activations_that_are_nan_are_refused() -> None:
    rotated, _ = rotated_layers(3)
    rotated.tables[2, 7, 3] = math.nan
    with pytest.raises(NonFiniteActivationsError, match="the activations of layer 2 or 1 hold NaN"):
        train(rotated, make_tokens(highest=50), layer_alignment="affine")


def test_alignment_brings_layers_closer(tokens: Dataset) -> None:
    model = make_model(norms=(1.0, 3.0, 9.0))
    _, scalings = train(
        model, tokens, layer_alignment="orthogonal", sae=sae_config(normalize_activations=MEAN_NORM)
    )
    scaler, middle = scalings[GROUP.name].scalers[0], scalings[GROUP.name].scalers[1]
    rows, target = rows_of(model, 0), middle.scale(rows_of(model, 1))
    unaligned = ActivationScaler(scaler.scaling_factor).scale(rows)
    error, before = (scaler.scale(rows) - target).norm(), (unaligned - target).norm()
    assert error < before
    assert math.isfinite(error.item())
