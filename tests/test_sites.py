"""Several sites in one run: each as a run of it alone, from the passes of the language model of one."""

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from sae_lens import LoggingConfig
from selenium import webdriver
from selenium.webdriver.common.by import By
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupSAETrainingRunner, SAESuite, SweepTrainingRunner, evaluate_sweep
from sae_lens_groups.activations import run_to_last_hook
from sae_lens_groups.cli import main
from sae_lens_groups.demo.model import HOOK_NAME, MODEL_CLASS_NAME, MODEL_FOLDER
from sae_lens_groups.errors import (
    ConfigError,
    GroupSAEError,
    NonFiniteActivationsError,
    OutputFolderError,
    TrainingInterrupted,
)
from sae_lens_groups.evaluate import SweepEvaluation, sweep_text
from sae_lens_groups.saved import read_sweep_index
from sae_lens_groups.train.sites import sites_of

from .test_exact_resume import files_of, stop_after
from .test_report import require_quiet
from .test_sweep_page import drawn, open_page
from .tiny import N_LAYERS, SMALL_LM_BATCHES, group_config, make_model, make_tokens, sae_config

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


# --- what ends a run before its end ---


def newest_first(checkpoint_path: Path, site: str) -> list[Path]:
    """The checkpoints of a site, of all runs that were given the path."""
    return sorted(checkpoint_path.glob(f"{site}/*/*"), key=lambda path: -int(path.name))


@pytest.mark.slow
def test_it_goes_on_as_it_would_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: HookedTransformer
) -> None:
    """Also where a site's newest checkpoint is older than those of others, or gone."""

    def run(out: str, **changes: Any) -> None:
        suites_of(model, output_path=str(tmp_path / out), **OUTLIERS, **changes)

    run("whole")
    saved: dict[str, Any] = {"checkpoint_path": str(tmp_path / "ckpt")}
    for n_steps in (8, 23):
        with monkeypatch.context() as patch:
            stop_after(patch, n_steps)
            with pytest.raises(
                TrainingInterrupted, match="--resume_from_checkpoint auto"
            ) as caught:
                run("resumed", **saved)
        assert caught.value.checkpoint == tmp_path / "ckpt"
        saved["resume_from_checkpoint"] = "auto"
    assert not (tmp_path / "resumed").exists()
    older, none = "hook_resid_post-0-2,3", "mlp.hook_post-each"
    assert len(newest_first(tmp_path / "ckpt", older)) == 2
    shutil.rmtree(newest_first(tmp_path / "ckpt", older)[0])
    shutil.rmtree(tmp_path / "ckpt" / none)
    run("resumed", **saved)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "resumed")


def test_an_error_at_one_site_ends_all_with_their_progress_saved(
    tmp_path: Path, model: HookedTransformer
) -> None:
    sweep = [{**RESID, "layer_groups": "0-2"}, {**HEAD, "layer_groups": "each", "k": 3}]
    saved: dict[str, Any] = {"checkpoint_path": str(tmp_path / "ckpt")}
    broken, n_passes = make_model(), count()

    def break_in_the_last_layer(acts: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
        return acts * torch.nan if next(n_passes) == 30 else acts

    broken.blocks[3].attn.hook_z.add_perma_hook(break_in_the_last_layer)  # pyright: ignore
    with pytest.raises(NonFiniteActivationsError, match=r"layer 3 .* the state before is saved in"):
        suites_of(broken, sweep, output_path=str(tmp_path / "out"), **SMALL_LM_BATCHES, **saved)
    assert next(n_passes) > 30
    assert not list(tmp_path.glob("*out*"))
    for site in ("hook_resid_post-0-2", "attn.hook_z-each-hook_head_index1"):
        assert len(newest_first(tmp_path / "ckpt", site)) == 1
    saved["resume_from_checkpoint"] = "auto"
    suites_of(model, sweep, output_path=str(tmp_path / "out"), **SMALL_LM_BATCHES, **saved)
    suites_of(model, sweep, output_path=str(tmp_path / "whole"), **SMALL_LM_BATCHES)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "out")


def test_suites_that_cannot_be_written_are_not_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: HookedTransformer
) -> None:
    def full(*_: Any) -> None:
        raise OSError("the disk is full")

    folders = {"checkpoint_path": "ckpt", "output_path": "out"}
    saved: dict[str, Any] = {name: str(tmp_path / folder) for name, folder in folders.items()}
    with monkeypatch.context() as patch:
        patch.setattr("sae_lens_groups.train.ranks.suite.write_sweep_index", full)
        with pytest.raises(OutputFolderError, match="the disk is full; the state before is saved"):
            suites_of(model, **saved)
    assert not list(tmp_path.glob("*out*"))
    suites_of(model, resume_from_checkpoint="auto", **saved)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [*NAMES, "sweep.json"]
    )


@pytest.mark.slow
def test_wandb_gets_a_steps_entries_of_all_sites_at_once(
    monkeypatch: pytest.MonkeyPatch, model: HookedTransformer
) -> None:
    logged: dict[int, dict[str, Any]] = {}
    start = wandb.init

    def log(entries: dict[str, Any], step: int) -> None:
        assert step > max(logged, default=-1)  # W&B ignores what comes later
        logged[step] = entries

    def start_and_listen(**kwargs: Any) -> Any:
        run = start(**kwargs)  # a real run, offline; it sets wandb.log
        monkeypatch.setattr(wandb, "log", log)
        return run

    monkeypatch.setattr(wandb, "init", start_and_listen)
    logger = LoggingConfig(wandb_log_frequency=5, eval_every_n_wandb_logs=2)
    suites_of(model, logger=logger, training_tokens=32 * 12, **OUTLIERS)
    groups = [("0-2", "3"), ("0", "1", "2", "3"), ("0-2", "3"), ("0-1", "2", "3")]
    for name, of_setting in zip(NAMES, groups):
        for group in of_setting:
            assert f"{name}/layers_{group}/metrics/l0" in logged[4]
            assert f"{name}/layers_{group}/metrics/explained_variance/layer_{group[0]}" in logged[9]


# --- what is asked for ---


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"prefetch_llm_batches": True},
            "with several sites in sweep, prefetch_llm_batches is not",
        ),
        ({"compile_llm": True}, "with several sites in sweep, compile_llm is not supported"),
        (
            {"use_cached_activations": True, "cached_activations_path": "x"},
            "with several sites in sweep, use_cached_activations is not supported; leave it out",
        ),
        ({"resume_from_checkpoint": "ckpt/1"}, "resume_from_checkpoint has to be auto"),
        ({"sweep": [RESID, {"hook_name": "blocks.0.hook_nope"}]}, "no hook at blocks.0.hook_nope"),
        ({"sweep": [RESID, {"hook_name": "hook_embed"}]}, "'hook_embed' has no layer number"),
        (
            {"sweep": ["hook_name=blocks.0.hook_mlp_out,blocks.3.hook_mlp_out"]},
            "sweep has the setting hook_mlp_out 2 times",
        ),
        ({"sweep": ["layer_groups=0-1,2-3"]}, "is split at its commas, which groups have too"),
        ({"sweep": [RESID, {**MLP, "d_in": 64}]}, "d_in follows from the hook; leave it out"),
        (
            {"sweep": [RESID, {**RESID, "layer_groups": "0-9"}]},
            "group 0-9 reaches beyond the model",
        ),
    ],
)
def test_mistakes_are_one_line(
    model: HookedTransformer, given: dict[str, Any], message: str
) -> None:
    cfg = group_config(**{"sweep": SETTINGS, **given})
    with pytest.raises(GroupSAEError, match=message) as caught:
        SweepTrainingRunner(cfg, make_tokens(), model)
    assert "\n" not in str(caught.value)


def test_several_processes_are_refused(
    monkeypatch: pytest.MonkeyPatch, model: HookedTransformer
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="there can be one process only"):
        sites_of(group_config(sweep=SETTINGS), model)


def test_a_hook_of_another_width_alone_is_a_site_too(model: HookedTransformer) -> None:
    (suite,) = suites_of(model, ["hook_name=blocks.0.mlp.hook_post"]).values()
    assert next(iter(suite.values())).cfg.d_in == 64


# --- what comes of it ---


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SweepEvaluation:
    """Of two sites with two settings each."""
    sweep = ["hook_name=blocks.0.hook_resid_post,blocks.0.mlp.hook_post", "k=2,8"]
    out, model = tmp_path_factory.mktemp("sites") / "out", make_model()
    suites_of(model, sweep, output_path=str(out))
    return evaluate_sweep(out, model, make_tokens(seed=1), n_batches=2, batch_size_prompts=8)


def test_scores_are_compared_within_a_site(found: SweepEvaluation) -> None:
    sites = ["blocks.{layer}.hook_resid_post"] * 2 + ["blocks.{layer}.mlp.hook_post"] * 2
    assert [of.site for of in found] == sites
    for metric, rows in found.differences.items():
        assert [[of is not None for of in row] for row in rows] == [
            [one == other for other in sites[:n]] for n, one in enumerate(sites)
        ]
        halves = [replace(found, settings=found[:2]), replace(found, settings=found[2:])]
        assert found.front(metric) == halves[0].front(metric) + halves[1].front(metric)
    assert "no other setting at its site has" in sweep_text(found)


@pytest.mark.slow
def test_the_page_has_a_front_for_each_site(
    browser: webdriver.Chrome, tmp_path: Path, found: SweepEvaluation
) -> None:
    open_page(browser, tmp_path, found, "#hook_resid_post-k8")
    for metric in ("explained_variance", "ce_loss_score"):
        fronts = [
            [found[index].setting.name for index in trace["customdata"]]
            for trace in drawn(browser, f"scatter_{metric}")[:2]
        ]
        assert tuple(chain(*fronts)) == found.front(metric)
        assert [name.rpartition("-")[0] for name, *_ in fronts] == [
            "hook_resid_post",
            "mlp.hook_post",
        ]
    assert browser.find_element(By.ID, "colours").get_property("value") == "hook_name"
    cells = (
        "return [...document.querySelectorAll('#layers [data-metric=explained_variance] small')]"
    )
    beside = browser.execute_script(f"{cells}.map(cell => cell.textContent)")
    is_difference = ["+" in text or text[0] in "-▲▼" for text in beside]
    assert is_difference == [True, False, False, False]
    require_quiet(browser)


def test_the_commands_train_and_score_sites(
    text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed, out = tmp_path / "sites.json", tmp_path / "out"
    layers, mlp = HOOK_NAME, f"{HOOK_NAME}.mlp.dense_h_to_4h"
    sites = [{"hook_name": layers}, {"hook_name": mlp, "layer_groups": "0,2", "d_sae": 96}]
    listed.write_text(json.dumps(sites))
    flags = (
        *("--layer_groups", "0-1,2", "--model_name", str(MODEL_FOLDER), "--dataset_path"),
        *(str(text_folder), "--model_class_name", MODEL_CLASS_NAME, "--architecture", "topk"),
        *("--d_sae", "64", "--k", "4", "--context_size", "32", "--train_batch_size_tokens", "64"),
        *("--n_batches_in_buffer", "4", "--store_batch_size_prompts", "2", "--nolog_to_wandb"),
        *("--training_tokens", "640", "--device", "cpu", "--sweep", str(listed)),
    )
    assert main(["train", *flags, "--dry_run"]) == 0
    assert "topk, d_in 384, d_sae 96, k 4" in capsys.readouterr().out
    assert main(["train", *flags, "--output_path", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"Trained 2 SAEs for 3 layers of {layers.replace('0', '{layer}')}.\n" in said
    assert f"Trained 2 SAEs for 2 layers of {mlp.replace('0', '{layer}')}.\n" in said
    names = ["layers-0-1,2-d_sae64", "mlp.dense_h_to_4h-0,2-d_sae96"]
    assert f"The suites lie in {out}, a folder each: {', '.join(names)}" in said
    few = ("--n_eval_batches", "2", "--eval_batch_size_prompts", "4")
    assert main(["evaluate", str(out), "--model_name", str(MODEL_FOLDER), *few]) == 0
    assert (out / "sweep.html").is_file()
    with (out / "sweep.csv").open() as rows:
        layers_of = {(row["setting"], row["hook_name"]) for row in csv.DictReader(rows)}
    assert len(layers_of) == 5
    assert (names[1], f"{HOOK_NAME.replace('0', '2')}.mlp.dense_h_to_4h") in layers_of
