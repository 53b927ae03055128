"""Decoders refitted to each layer: the mathematics, and suites that hold them."""

import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import SAE, TopKSAEConfig

from sae_lens_groups import GroupSAETrainingRunner, SAESuite, refit_suite
from sae_lens_groups.cli import main
from sae_lens_groups.demo.model import stdlib_tokens
from sae_lens_groups.demo.run import demo_config
from sae_lens_groups.scaling import layer_map_of
from sae_lens_groups.train.refit.decoder import refit_decoder
from sae_lens_groups.train.refit.solve import LeastSquares

from .tiny import ARCHITECTURES, D_IN, D_SAE, group_config, make_model, make_tokens, sae_config

LINEAR = [name for name in ARCHITECTURES if name != "matching_pursuit"]
CONTEXT = 128  # of the demo
HOOK = "blocks.{}.hook_resid_post".format


# --- the mathematics ---


@settings(max_examples=40)
@given(
    n_rows=st.integers(0, 60),
    n_latents=st.integers(1, 40),
    share_active=st.floats(0, 1),
    duplicated=st.booleans(),
    ridge=st.floats(0.3, 1e4),
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize("largest_gram", [0, 64])
def test_both_ways_give_what_a_dense_solver_gives(
    largest_gram: int,
    n_rows: int,
    n_latents: int,
    share_active: float,
    duplicated: bool,
    ridge: float,
    seed: int,
) -> None:
    """With dead latents, latents that are one another's copies, and no rows at all."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.rand(n_rows, n_latents, generator=generator) + 0.5
    latents *= torch.rand(n_rows, n_latents, generator=generator) < share_active
    latents[:, n_latents // 2] = 0
    if duplicated:
        latents[:, -1] = latents[:, 0]
    residual = torch.randn(n_rows, 7, generator=generator)
    ridge_F = ridge * (torch.rand(n_latents, generator=generator) + 0.5)
    decoder = torch.randn(n_latents, 7, generator=generator)
    target = latents @ decoder + residual
    with mock.patch("sae_lens_groups.train.refit.solve._LARGEST_GRAM", largest_gram):
        found = LeastSquares(latents.to_sparse(), target, decoder).solution(ridge_F)
    exact = torch.linalg.solve(
        latents.T.double() @ latents.double() + torch.diag(ridge_F.double()),
        latents.T.double() @ (target.double() - latents.double() @ decoder.double()),
    )
    assert (found - exact).norm() <= 1e-5 * exact.norm().clamp(min=1e-30)


def planted(seed: int, shift: float, n_rows: int) -> tuple[SAE[Any], torch.Tensor]:
    """A TopK SAE, and rows made of its features as this layer has them, with noise."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    d_in, d_sae, k = 32, 128, 4
    sae = SAE.from_dict(TopKSAEConfig(d_in=d_in, d_sae=d_sae, k=k).to_dict())
    W_dec = torch.nn.functional.normalize(normal(d_sae, d_in), dim=1)
    sae.load_state_dict({**sae.state_dict(), "W_dec": W_dec, "W_enc": W_dec.T.contiguous()})
    own = W_dec + shift * normal(d_sae, d_in) / d_in**0.5
    often = torch.arange(1, d_sae + 1) ** -1.0  # as often as words are used
    active = torch.multinomial(often.expand(n_rows, -1), k, generator=generator)
    strength = torch.rand(n_rows, k, generator=generator) + 0.5
    rows = torch.einsum("nk,nkd->nd", strength, own[active]) + 0.1 * normal(n_rows, d_in)
    return sae, rows


def squared_error(sae: SAE[Any], rows: torch.Tensor) -> float:
    with torch.no_grad():
        return (sae(rows) - rows).square().mean().item()


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("seed", range(4))
def test_with_5000_rows_it_is_never_worse_on_others(seed: int, shift: float) -> None:
    sae, rows = planted(seed, shift, 15_000)
    before = squared_error(sae, rows[5000:])
    refit_decoder(sae, rows[:5000], [sae.cfg.d_sae])
    assert squared_error(sae, rows[5000:]) <= before


def test_more_rows_are_worth_more() -> None:
    errors = []
    for n_rows in (500, 5000, 20_000):
        sae, rows = planted(0, 0.4, 25_000)
        refit_decoder(sae, rows[:n_rows], [sae.cfg.d_sae])
        errors.append(squared_error(sae, rows[20_000:]))
    assert errors == sorted(errors, reverse=True)


def test_a_decoder_that_rows_say_nothing_about_is_left_alone() -> None:
    sae, rows = planted(0, 0.4, 3)
    before = sae.W_dec.clone()
    scores = refit_decoder(sae, rows, [sae.cfg.d_sae])
    assert scores.ridge == 0
    assert torch.equal(sae.W_dec, before)


# --- suites ---


def trained(architecture: str = "topk", layer_groups: str = "0-2,3", **changes: Any) -> SAESuite:
    sae = sae_config(architecture, normalize_activations="expected_average_only_in")
    cfg = group_config(layer_groups, **{"sae": sae, "training_tokens": 32 * 60, **changes})
    return GroupSAETrainingRunner(cfg, make_tokens(), make_model()).run()


def rows_of(layer: int, seed: int) -> torch.Tensor:
    _, cache = make_model().run_with_cache(torch.tensor(make_tokens(150, seed)["tokens"]))
    return cache[HOOK(layer)].reshape(-1, D_IN)


@pytest.fixture(scope="module")
def plain() -> SAESuite:
    return trained()


@pytest.fixture(scope="module")
def refitted(plain: SAESuite) -> SAESuite:
    return refit_suite(plain, make_model(), make_tokens(), 3000)


@pytest.mark.parametrize("architecture", LINEAR)
def test_each_layer_keeps_its_latents_and_reconstructs_better(architecture: str) -> None:
    before = trained(architecture)
    after = refit_suite(before, make_model(), make_tokens(), 3000)
    for layer in range(4):
        rows, old, new = rows_of(layer, seed=0), before[layer], after[layer]
        with torch.no_grad():
            torch.testing.assert_close(new.encode(rows), old.encode(rows), rtol=1e-4, atol=1e-4)
        assert squared_error(new, rows) <= squared_error(old, rows)
    assert any(after[n].cfg.metadata.sae_lens_groups["refit"]["ridge"] for n in range(4))


@pytest.mark.parametrize("layer_alignment", ["orthogonal", "affine"])
def test_aligned_layers_and_whitened_ones_too(layer_alignment: str) -> None:
    before = trained(layer_alignment=layer_alignment, plan_tokens=2000)
    after = refit_suite(before, make_model(), make_tokens(), 3000)
    rows = rows_of(0, seed=0)
    assert layer_map_of(before.scaler(0)) is not None
    assert squared_error(after[0], rows) < squared_error(before[0], rows)


def test_every_part_of_a_matryoshka_sae_reconstructs_better() -> None:
    before = trained("matryoshka_batchtopk")
    after = refit_suite(before, make_model(), make_tokens(), 3000)
    rows = rows_of(1, seed=0)

    def nested_error(sae: SAE[Any]) -> float:
        with torch.no_grad():
            latents = sae.encode(rows)
            parts = [latents * (torch.arange(D_SAE) < width) for width in (12, 24, D_SAE)]
            return sum((sae.decode(part) - rows).square().mean().item() for part in parts)

    assert nested_error(after[1]) < nested_error(before[1])


def test_a_group_shares_its_encoder_and_no_longer_its_decoder(
    plain: SAESuite, refitted: SAESuite
) -> None:
    assert torch.equal(refitted[0].W_enc, refitted[2].W_enc)
    assert not torch.equal(refitted[0].W_dec, refitted[2].W_dec)
    torch.testing.assert_close(refitted[0].W_enc, plain[0].W_enc)


def test_saelens_loads_it_and_files_say_what_it_is(refitted: SAESuite, tmp_path: Path) -> None:
    refitted.save_copy(tmp_path / "suite")
    sae, rows = SAE.load_from_disk(tmp_path / "suite" / HOOK(1)), rows_of(1, seed=1)
    with torch.no_grad():
        assert torch.equal(sae(rows), refitted[1](rows))
    facts = sae.cfg.metadata.sae_lens_groups["refit"]
    assert facts["tokens"] == 3000
    assert facts["before"] <= facts["after"]
    assert json.loads((tmp_path / "suite" / "suite.json").read_text())["refit_tokens"] == 3000
    assert SAESuite.load(tmp_path / "suite").manifest.refit_tokens == 3000


@pytest.mark.seam
@pytest.mark.parametrize("changes", [{}, {"fast_step": "never"}])
def test_training_with_refit_tokens_ends_with_the_same(
    plain: SAESuite, refitted: SAESuite, changes: dict[str, Any]
) -> None:
    suite = trained(refit_tokens=3000, **changes)
    assert suite.manifest.refit_tokens == 3000
    torch.testing.assert_close(suite[1].W_dec, refitted[1].W_dec, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(suite[1].W_enc, plain[1].W_enc, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "gated", "batchtopk"])
@pytest.mark.parametrize("layer_alignment", ["none", "orthogonal"])
def test_a_run_that_starts_from_it_starts_from_its_decoders(
    architecture: str, layer_alignment: str, tmp_path: Path
) -> None:
    first = trained(architecture, layer_alignment=layer_alignment, plan_tokens=2000)
    source = refit_suite(first, make_model(), make_tokens(), 3000)
    source.save(tmp_path / "first")
    second = trained(architecture, layer_groups="each", init_from=str(tmp_path / "first"), lr=1e-9)
    for layer in range(4):
        rows = rows_of(layer, seed=0)
        if "topk" not in architecture:  # in training they rank latents by the new norms too
            error = squared_error(source[layer], rows)
            assert squared_error(second[layer], rows) == pytest.approx(error, rel=1e-3)
        cosine_F = torch.nn.functional.cosine_similarity(second[layer].W_dec, source[layer].W_dec)
        assert cosine_F.min().item() == pytest.approx(1, abs=1e-4)


# --- the command ---


@pytest.fixture(scope="module")
def demo_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups of the model that ships with the package, which a command can load."""
    folder = tmp_path_factory.mktemp("demo") / "suite"
    cfg = demo_config("3-4,11", folder, 8192, train_batch_size_tokens=256, lr=3e-3)
    GroupSAETrainingRunner(cfg, stdlib_tokens("train", CONTEXT)).run()
    return folder


def test_the_command_writes_a_new_suite_and_says_what_it_is_worth(
    demo_suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(demo_suite), "--output_path", str(tmp_path / "new"), "--refit_tokens", "4096"]
    assert main(["refit", *words]) == 0
    shown = capsys.readouterr().out
    assert "gpt_neox.layers.4" in shown
    assert "other text" not in shown
    old, new = SAESuite.load(demo_suite), SAESuite.load(tmp_path / "new")
    assert new.manifest.refit_tokens == 4096
    facts = new[4].cfg.metadata.sae_lens_groups["refit"]
    assert facts["after"] > facts["before"] + 0.01
    assert torch.equal(new[3].W_enc, new[4].W_enc)
    assert old.manifest.refit_tokens is None


def test_the_command_says_which_rows_of_another_dataset_it_read(
    demo_suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stdlib_tokens("held_out", CONTEXT).select(range(40)).save_to_disk(tmp_path / "mine")
    words = ["--dataset_path", str(tmp_path / "mine"), "--output_path", str(tmp_path / "new")]
    assert main(["refit", str(demo_suite), *words, "--refit_tokens", "1024"]) == 0
    said = (
        "fitted to the first 32 rows of mine, which the suite does not remember: score it on other"
    )
    assert said in capsys.readouterr().out


def test_mistakes_are_one_line(
    plain: SAESuite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.save_copy(tmp_path / "suite")
    shutil.copytree(tmp_path / "suite", tmp_path / "taken")
    plain[0].save_model(tmp_path / "alone" / HOOK(0))
    for words, told in {
        ("suite",): "required: --output_path",
        ("suite", "--output_path", "taken"): "already",
        ("nowhere", "--output_path", "new"): "nowhere",
        ("suite", "--output_path", "new", "--refit_tokens", "0"): "not a positive whole number",
        ("alone", "--output_path", "new"): "were not trained by sae-lens-groups",
        ("suite", "--output_path", "new"): "give --dataset_path",
    }.items():
        assert main(["refit", *words]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if "Importing" not in line]
        assert len(lines) == 1
        assert told in lines[0]


def test_matching_pursuit_is_refused_before_training() -> None:
    cfg = group_config(sae=sae_config("matching_pursuit"), refit_tokens=100)
    with pytest.raises(ValueError, match="encoder is its decoder"):
        GroupSAETrainingRunner(cfg, make_tokens(), make_model())
