"""BatchTopK's threshold after few steps: what is exported fires as often as what was trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, TrainingSAE
from safetensors.torch import load_file

from sae_lens_groups import GroupSAETrainingRunner, SAESuite
from sae_lens_groups.train.trainer import GroupSAETrainer

from .tiny import CONTEXT_SIZE, D_IN, group_config, make_model, make_tokens, sae_config

ARCHITECTURES = ("batchtopk", "matryoshka_batchtopk")


def rows_and_suite(
    architecture: str, n_steps: int, fast_step: str, **changes: Any
) -> tuple[torch.Tensor, SAESuite]:
    """Raw rows of layer 1 that its SAE was trained on, and the suite of all layers."""
    model, tokens = make_model(), make_tokens(600)
    cfg = group_config(
        "each",
        sae=sae_config(architecture, normalize_activations="expected_average_only_in", **changes),
        training_tokens=32 * n_steps,
        fast_step=fast_step,
    )
    suite = GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model).run()
    prompts = torch.tensor(tokens["tokens"][:128])[:, :CONTEXT_SIZE]
    _, cache = model.run_with_cache(prompts)
    return cache["blocks.1.hook_resid_post"].reshape(-1, D_IN), suite


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("n_steps", "tolerance"), [(32, 0.6), (100, 0.1)])
def test_a_short_run_exports_an_sae_with_the_l0_that_it_was_trained_for(
    architecture: str, n_steps: int, tolerance: float, tmp_path: Path
) -> None:
    rows, suite = rows_and_suite(architecture, n_steps, "auto")
    suite.save(tmp_path / "suite")
    sae: Any = SAE.load_from_disk(tmp_path / "suite" / "blocks.1.hook_resid_post")
    l0 = sae.encode(rows).count_nonzero(dim=-1).double().mean().item()
    assert l0 == pytest.approx(4, rel=tolerance)  # k; SAELens's own is 37 and 10
    assert sae.cfg.metadata.l0 == pytest.approx(l0, rel=tolerance)


@pytest.mark.parametrize("fast_step", ["auto", "always"])
def test_the_threshold_is_an_average_of_no_less_than_a_sixteenth_of_the_steps(
    monkeypatch: pytest.MonkeyPatch, fast_step: str
) -> None:
    smallest: dict[str, list[float]] = {}
    step = GroupSAETrainer.step

    def remembered(trainer: GroupSAETrainer, batch: Any) -> Any:
        with torch.no_grad():  # the k * B largest pre-activations, of the weights before the step
            rows_BD, position_B = trainer.unpack(batch)
            sae: Any = trainer.sae
            hidden_BF = sae.process_sae_in(trainer.scaling.scale(rows_BD, position_B)) @ sae.W_enc
            hidden_BF = (hidden_BF + sae.b_enc) * sae.W_dec.norm(dim=-1)
            chosen = hidden_BF.flatten().topk(4 * len(rows_BD)).values
            smallest.setdefault(trainer.group.name, []).append(chosen.min().item())
        return step(trainer, batch)

    monkeypatch.setattr(GroupSAETrainer, "step", remembered)
    _, suite = rows_and_suite("batchtopk", 40, fast_step, topk_threshold_lr=0.25)
    for group in suite.manifest.groups:
        expected = 0.0
        for n_steps, value in enumerate(smallest[group.name][-40:]):  # flops are counted before
            expected += max(0.25, 16 / (n_steps + 16)) * (value - expected)
        trained: Any = suite.group(group)
        assert trained.topk_threshold.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("fast_step", ["auto", "never"])
def test_the_threshold_of_a_loaded_sae_in_bfloat16_moves_as_one_of_float64(fast_step: str) -> None:
    moved = []
    for dtype in (torch.float64, torch.bfloat16):  # SAELens makes the one, and loads the other
        torch.manual_seed(0)
        sae: Any = TrainingSAE.from_dict(sae_config("batchtopk", dtype="bfloat16").to_dict())
        sae.topk_threshold = torch.tensor(0.75, dtype=dtype)
        cfg = group_config("0-3", sae=sae.cfg, training_tokens=32 * 20, fast_step=fast_step)
        suite = GroupSAETrainingRunner(
            cfg, make_tokens(), make_model(), override_saes={"layers_0-3": sae}
        ).run()
        trained: Any = suite.group(suite.groups[0])
        moved.append(trained.topk_threshold.item())
    assert moved[1] == pytest.approx(moved[0], rel=1e-3)


def test_with_fast_step_never_it_is_saelenss_moving_average_from_zero(tmp_path: Path) -> None:
    rows, suite = rows_and_suite("batchtopk", 32, "never")
    suite.save(tmp_path / "suite")
    state = load_file(tmp_path / "suite" / "blocks.1.hook_resid_post" / "sae_weights.safetensors")
    sae: Any = suite.layer(1)
    assert (state["threshold"] == sae.threshold).all()
    assert sae.encode(rows).count_nonzero(dim=-1).double().mean().item() > 30
