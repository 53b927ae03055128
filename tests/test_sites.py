"""Several sites in one run: each as a run of it alone, from the passes of the language model of one."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupSAETrainingRunner, SAESuite, SweepTrainingRunner
from sae_lens_groups.activations import run_to_last_hook
from sae_lens_groups.saved import read_sweep_index

from .conftest import N_LAYERS, SMALL_LM_BATCHES, group_config, make_tokens, sae_config
from .test_exact_resume import files_of

NORMALISED = {"normalize_activations": "expected_average_only_in"}
RESID = {"hook_name": "blocks.1.hook_resid_post", "layer_groups": "0-2,3"}
MLP = {"hook_name": "blocks.0.mlp.hook_post", "layer_groups": "each"}
HEAD = {"hook_name": "blocks.2.attn.hook_z", "hook_head_index": 1, "layer_groups": "even:2"}
SETTINGS: list[dict[str, Any]] = [
    {**RESID, "d_sae": 48, "k": 4},
    {**MLP, "d_sae": 96, "k": 8, "architecture": "batchtopk"},
    {**RESID, "d_sae": 64, "k": 4},
    {**HEAD, "d_sae": 24, "k": 3, "lr": 1e-3},
]
WIDTHS = {"blocks.1.hook_resid_post": 16, "blocks.0.mlp.hook_post": 64, "blocks.2.attn.hook_z": 8}
NAMES = [
    "hook_resid_post-0-2,3-d_sae48-k4-topk-lr0.003",
    "mlp.hook_post-each-d_sae96-k8-batchtopk-lr0.003",
    "hook_resid_post-0-2,3-d_sae64-k4-topk-lr0.003",
    "attn.hook_z-even_2-d_sae24-k3-topk-hook_head_index1-lr0.001",
]
OUTLIERS = {"max_activation_norm_multiple": 1.2, **SMALL_LM_BATCHES}
"""So that each site leaves out many tokens of its own, and the sites need LM batches at different steps."""


def suites_of(
    model: HookedTransformer, sweep: Any = SETTINGS, n_prompts: int = 200, **changes: Any
) -> dict[str, SAESuite]:
    cfg = group_config(**{"sae": sae_config(**NORMALISED), "sweep": sweep, **changes})
    return SweepTrainingRunner(cfg, make_tokens(n_prompts), model).run()


def alone(
    model: HookedTransformer, setting: dict[str, Any], n_prompts: int = 200, **changes: Any
) -> SAESuite:
    of_run = {"hook_name", "hook_head_index", "layer_groups", "lr"}
    of_sae = {field: value for field, value in setting.items() if field not in of_run}
    sae = sae_config(
        of_sae.pop("architecture", "topk"),
        d_in=WIDTHS[setting["hook_name"]],
        **{**NORMALISED, **of_sae},
    )
    own = {field: value for field, value in setting.items() if field in of_run}
    cfg = group_config(**{"sae": sae, **own, **changes})
    return GroupSAETrainingRunner(cfg, make_tokens(n_prompts), model).run()


@pytest.mark.filterwarnings("ignore:the dataset ended")
@pytest.mark.parametrize(
    "shared",
    [{"fast_step": "always"}, {"fast_step": "never", **OUTLIERS, "n_prompts": 40}],
    ids=["fast", "other LM batches and epochs"],
)
def test_each_site_is_trained_as_alone(
    tmp_path: Path, model: HookedTransformer, shared: dict[str, Any]
) -> None:
    """Every file but the settings, which name other folders."""
    out = tmp_path / "sweep"
    suites = suites_of(model, output_path=str(out), **shared)
    assert list(suites) == NAMES
    for name, setting in zip(NAMES, SETTINGS):
        alone(model, setting, output_path=str(tmp_path / name), **shared)
        assert files_of(out / name) == files_of(tmp_path / name)
        assert suites[name].path == out / name
    index = read_sweep_index(out)
    assert [*index.names] == NAMES


def test_a_pass_serves_all_sites(monkeypatch: pytest.MonkeyPatch, model: HookedTransformer) -> None:
    n_passes = Counter[int]()

    def counted(model: Any, tokens: Any, hook_names: list[str], *args: Any, **kwargs: Any) -> None:
        n_passes[len(hook_names)] += 1
        run_to_last_hook(model, tokens, hook_names, *args, **kwargs)

    monkeypatch.setattr("sae_lens_groups.activations.store.run_to_last_hook", counted)
    suites_of(model)
    of_all, before_training = n_passes[3 * N_LAYERS], n_passes[N_LAYERS] / 3
    assert set(n_passes) == {N_LAYERS, 3 * N_LAYERS}
    n_passes.clear()
    alone(model, SETTINGS[0])
    assert n_passes == {N_LAYERS: before_training + of_all}
