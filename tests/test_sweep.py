"""A sweep: several settings on the same rows, each as a run of it alone would have trained it."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import wandb
from hypothesis import given
from hypothesis import strategies as st
from sae_lens import LoggingConfig
from transformer_lens import HookedTransformer

from sae_lens_groups import (
    GroupSAETrainingRunner,
    SAESuite,
    SweepTrainingRunner,
    cache_activations,
)
from sae_lens_groups.cli import main
from sae_lens_groups.demo.model import HOOK_NAME, MODEL_CLASS_NAME, MODEL_FOLDER
from sae_lens_groups.errors import ConfigError, GroupSAEError, TrainingInterrupted
from sae_lens_groups.saved import read_sweep_index
from sae_lens_groups.train.sweep import swept

from .test_exact_resume import files_of, stop_after
from .tiny import ARCHITECTURES, D_SAE, group_config, make_tokens, sae_config

NORMALISED = {"normalize_activations": "expected_average_only_in"}
SETTINGS = [{"k": 2, "lr": 1e-3}, {"k": 3, "lr": 3e-3, "lr_decay_steps": 9}, {"k": 2, "lr": 3e-3}]
NAMES = ["k2-lr0.001-lr_decay_steps0", "k3-lr0.003-lr_decay_steps9", "k2-lr0.003-lr_decay_steps0"]


def alone(setting: dict[str, Any], **changes: Any) -> Any:
    """The config of a run of one setting."""
    of_sae = {name: setting[name] for name in ("k",) if name in setting}
    of_run = {name: value for name, value in setting.items() if name not in ("k", "architecture")}
    sae = sae_config(setting.get("architecture", "topk"), **{**NORMALISED, **of_sae})
    return group_config(**{"sae": sae, **of_run, **changes})


def suites_of(sweep: list[Any], model: HookedTransformer, **changes: Any) -> dict[str, SAESuite]:
    cfg = group_config(**{"sae": sae_config(**NORMALISED), "sweep": sweep, **changes})
    return SweepTrainingRunner(cfg, make_tokens(), model).run()


@pytest.mark.parametrize("fast_step", ["always", "never"])
def test_each_setting_is_trained_as_alone(
    tmp_path: Path, model: HookedTransformer, fast_step: str
) -> None:
    """Every file but the settings, which name other folders."""
    shared = {"fast_step": fast_step, "feature_sampling_window": 8}
    out = tmp_path / "sweep"
    suites = suites_of(SETTINGS, model, output_path=str(out), **shared)
    assert list(suites) == NAMES
    for name, setting in zip(NAMES, SETTINGS):
        cfg = alone(setting, output_path=str(tmp_path / name), **shared)
        GroupSAETrainingRunner(cfg, make_tokens(), model).run()
        assert files_of(out / name) == files_of(tmp_path / name)
        assert suites[name].path == out / name


def test_architectures_are_trained_as_alone(tmp_path: Path, model: HookedTransformer) -> None:
    names = [
        name for name in ("topk", "jumprelu", "standard", "batchtopk") if name in ARCHITECTURES
    ]
    saes = [sae_config(name, **NORMALISED) for name in names]
    out = tmp_path / "sweep"
    suites = suites_of(saes, model, output_path=str(out), fast_step="never")
    for (name, suite), sae in zip(suites.items(), saes):
        cfg = group_config(sae=sae, output_path=str(tmp_path / name), fast_step="never")
        GroupSAETrainingRunner(cfg, make_tokens(), model).run()
        assert files_of(out / name) == files_of(tmp_path / name)
        assert name.startswith(sae.architecture())
        assert {one.cfg.architecture() for one in map(suite.group, suite.groups)} == {
            sae.architecture()
        }


def test_widths_are_trained_as_alone(tmp_path: Path, model: HookedTransformer) -> None:
    """They draw more initial weights before they shuffle, so each has an order of its own."""
    widths = (D_SAE, 2 * D_SAE, D_SAE + 5)
    out = tmp_path / "sweep"
    suites_of([f"d_sae={','.join(map(str, widths))}", "k=2,3"], model, output_path=str(out))
    for width, k in product(widths, (2, 3)):
        name = f"d_sae{width}-k{k}"
        sae = sae_config(k=k, d_sae=width, **NORMALISED)
        cfg = group_config(sae=sae, output_path=str(tmp_path / name))
        GroupSAETrainingRunner(cfg, make_tokens(), model).run()
        assert files_of(out / name) == files_of(tmp_path / name)


def test_it_goes_on_as_it_would_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: HookedTransformer
) -> None:
    sweep = [*SETTINGS, {"k": 2, "lr": 1e-3, "d_sae": 60}]

    def run(**changes: Any) -> dict[str, SAESuite]:
        return suites_of(sweep, model, lr_warm_up_steps=5, **changes)

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run(output_path=str(whole))
    saved: dict[str, Any] = {}
    for n_steps in (8, 23):
        with monkeypatch.context() as patch:
            stop_after(patch, n_steps)
            with pytest.raises(TrainingInterrupted) as caught:
                run(checkpoint_path=str(tmp_path / "ckpt"), output_path=str(resumed), **saved)
        assert not resumed.exists()
        saved = {"resume_from_checkpoint": str(caught.value.checkpoint)}
    run(output_path=str(resumed), **saved)
    assert files_of(whole) == files_of(resumed)
    for other in ({"sweep": SETTINGS[:2]}, {"sweep": None, **SETTINGS[0]}):
        cfg = group_config(sae=sae_config(k=2, **NORMALISED), sweep=other["sweep"], **saved)
        runner = SweepTrainingRunner if cfg.sweep else GroupSAETrainingRunner
        with pytest.raises(GroupSAEError, match="was made with"):
            runner(cfg, make_tokens(), model)


@pytest.mark.parametrize("cache_rows", ["all", "drawn"])
def test_it_trains_from_cached_activations(
    tmp_path: Path, model: HookedTransformer, cache_rows: str
) -> None:
    cached = {"cached_activations_path": str(tmp_path / "cache")}
    cache_activations(
        alone({}, **cached),
        cache_rows=cache_rows,
        override_dataset=make_tokens(),
        override_model=model,
    )
    cached["use_cached_activations"] = True  # pyright: ignore[reportArgumentType]
    suites_of(["k=2,3"], model, output_path=str(tmp_path / "sweep"), **cached)
    GroupSAETrainingRunner(
        alone({"k": 3}, output_path=str(tmp_path / "alone"), **cached), make_tokens(), model
    ).run()
    assert files_of(tmp_path / "sweep" / "k3") == files_of(tmp_path / "alone")


def test_the_folder_says_what_is_in_it(tmp_path: Path, model: HookedTransformer) -> None:
    suites_of(["k=2,3"], model, output_path=str(tmp_path / "sweep"))
    index = read_sweep_index(tmp_path / "sweep")
    assert [(one.name, one.changes) for one in index.settings] == [
        ("k2", {"k": 2}),
        ("k3", {"k": 3}),
    ]
    names = {path.name for path in (tmp_path / "sweep").iterdir()}
    assert names == {"k2", "k3", "sweep.json"}
    saved = json.loads((tmp_path / "sweep" / "k3" / "runner_cfg.json").read_text())
    assert saved["sweep"] is None  # so that it is the config of a run of this setting
    assert (saved["sae"]["k"], saved["output_path"]) == (3, str(tmp_path / "sweep" / "k3"))


def test_without_a_folder_the_suites_are_in_memory(model: HookedTransformer) -> None:
    suites = suites_of(["k=2,3"], model)
    assert {name: next(iter(one.values())).cfg.k for name, one in suites.items()} == {
        "k2": 2,
        "k3": 3,
    }


@pytest.mark.slow
def test_wandb_gets_entries_of_each_setting(
    monkeypatch: pytest.MonkeyPatch, model: HookedTransformer, tmp_path: Path
) -> None:
    logged: dict[str, Any] = {}
    names: list[str] = []
    start = wandb.init

    def start_and_listen(**kwargs: Any) -> Any:
        run = start(**kwargs)  # a real run, offline; it sets wandb.log
        monkeypatch.setattr(wandb, "log", lambda entries, step: logged.update(entries))  # noqa: ARG005
        monkeypatch.setattr(wandb, "log_artifact", lambda a, **_: names.append(a.name))
        return run

    monkeypatch.setattr(wandb, "init", start_and_listen)
    logger = LoggingConfig(wandb_log_frequency=5, eval_every_n_wandb_logs=2)
    suites_of(["k=2,3"], model, logger=logger, output_path=str(tmp_path / "sweep"))
    for entry in ("metrics/l0", "metrics/explained_variance/layer_1"):
        assert {f"k2/layers_0-2/{entry}", f"k3/layers_0-2/{entry}"} <= logged.keys()
    assert len(names) == len(set(names)) == 8  # two each, of two groups with two settings


# --- what is asked for ---


@given(
    st.dictionaries(
        st.sampled_from(["k", "lr", "aux_loss_coefficient", "adam_beta1"]),
        st.lists(st.sampled_from([1, 2, 3, 4, 5]), min_size=1, max_size=3, unique=True),
        min_size=1,
        max_size=3,
    )
)
def test_every_combination_is_a_setting(axes: dict[str, list[int]]) -> None:
    scale = {"k": 1, "lr": 1e-4, "aux_loss_coefficient": 0.5, "adam_beta1": 0.1}
    values = {name: [n * scale[name] for n in ns] for name, ns in axes.items()}
    texts = [f"{name}={','.join(map(str, of_one))}" for name, of_one in values.items()]
    _, settings = swept(group_config(sweep=texts))
    expected = [dict(zip(values, combination)) for combination in product(*values.values())]
    assert [one.changes for one in settings] == expected
    for one, changes in zip(settings, expected):
        for name, value in changes.items():
            assert getattr(one.cfg if name in ("lr", "adam_beta1") else one.cfg.sae, name) == value


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (
            ["kk=1,2"],
            "in the setting kk1 of sweep: kk is no field that can be swept over; did you mean k?",
        ),
        (["k=2,99"], "in the setting k99 of sweep: k is 99, more than the d_sae"),
        (["k=2,2"], "sweep has the setting k2 2 times"),
        (["k=2", "k=3"], "sweep names k twice"),
        (["k"], "sweep 'k' is not a field with its values, such as k=16,32,64"),
        (["k=2,,3"], "is not a field with its values"),
        (["k=many"], "in the setting many of sweep: sae.k is 'many'; it takes"),
        (["d_in=8,16"], "d_in follows from the hook; leave it out of sweep"),
        (["normalize_activations=none,layer_norm"], "is the same for all settings"),
        (["architecture=topk,batchedtopk"], "architecture 'batchedtopk' is not known"),
        (["k=2,3", {"k": 4}], "sweep has both fields with values and whole settings"),
        ([], "sweep means 0 settings; it takes 1 to 64"),
        (
            [f"k={','.join(map(str, range(1, 21)))}", "lr=1,2,3,4,5,6,7,8,9,10"],
            "sweep means 200 settings",
        ),
        ([{"k": None}], "sweep"),
        ([{"lr": [1]}], "lr"),
    ],
)
def test_mistakes_are_one_line(sweep: list[Any], message: str) -> None:
    with pytest.raises(GroupSAEError, match=message.replace("?", r"\?")) as caught:
        swept(group_config(sweep=sweep))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sweep", "architectures"),
    [
        (
            [{"architecture": "topk", "k": 4}, {"architecture": "jumprelu", "l0_coefficient": 1.0}],
            ["topk", "jumprelu"],
        ),
        (
            [sae_config("topk", k=8), sae_config("standard", l1_coefficient=2.0)],
            ["topk", "standard"],
        ),
        (
            [
                {"hook_head_index": None, "matryoshka_widths": (12, 48)},
                {"matryoshka_widths": [24, 48]},
            ],
            2 * ["matryoshka_batchtopk"],
        ),
    ],
)
def test_settings_have_only_fields_of_their_architecture(
    sweep: list[Any], architectures: list[str]
) -> None:
    base = sae_config("topk" if "topk" in architectures else architectures[0], k=4)
    _, settings = swept(group_config(sae=base, sweep=sweep))
    assert [one.cfg.sae.architecture() for one in settings] == architectures


def test_a_pretrained_sae_keeps_its_own_settings_and_is_not_swept(
    tmp_path: Path, model: HookedTransformer
) -> None:
    GroupSAETrainingRunner(
        group_config("0", output_path=str(tmp_path / "one")), make_tokens(), model
    ).run()
    path = str(tmp_path / "one/groups/layers_0")
    with pytest.raises(ConfigError, match="sweep changes k, and the SAE at from_pretrained_path"):
        SweepTrainingRunner(
            group_config(from_pretrained_path=path, sweep=["k=2,8"]), make_tokens(), model
        )
    rates = group_config("0", from_pretrained_path=path, sweep=["lr=1e-3,2e-3"])
    assert len(SweepTrainingRunner(rates, make_tokens(), model).run()) == 2


@pytest.mark.parametrize(
    "flag", [{"init_from": "x"}, {"refit_tokens": 100}, {"ranks_per_group": 2}]
)
def test_what_a_sweep_cannot_do_is_refused(flag: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"with sweep, {next(iter(flag))} is not supported"):
        swept(group_config(sweep=["k=2,3"], **flag))


def test_each_runner_takes_its_own(model: HookedTransformer) -> None:
    with pytest.raises(ConfigError, match="train them with SweepTrainingRunner"):
        GroupSAETrainingRunner(group_config(sweep=["k=2,3"]), make_tokens(), model)
    with pytest.raises(ConfigError, match="sweep is not given"):
        SweepTrainingRunner(group_config(), make_tokens(), model)


# --- the command ---


@pytest.fixture
def train(text_folder: Path) -> Callable[..., int]:
    """The command on the demo's model, with these flags."""
    usual = (
        *("--layer_groups", "0-1,2", "--hook_name", HOOK_NAME, "--model_name", str(MODEL_FOLDER)),
        *("--model_class_name", MODEL_CLASS_NAME, "--dataset_path", str(text_folder)),
        *("--architecture", "topk", "--d_sae", "64", "--context_size", "32"),
        *("--train_batch_size_tokens", "64", "--n_batches_in_buffer", "4", "--nolog_to_wandb"),
        *("--store_batch_size_prompts", "2", "--training_tokens", "640", "--device", "cpu"),
    )
    return lambda *flags: main(["train", *usual, *flags])


def test_the_command_trains_every_setting(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert train("--sweep", "k=4,8", "--sweep", "lr=1e-3,3e-4", "--output_path", str(out)) == 0
    said = " ".join(capsys.readouterr().out.split())  # long lines are wrapped
    names = "k4-lr0.001, k4-lr0.0003, k8-lr0.001, k8-lr0.0003"
    assert f"sweep 4 settings, SAEs of each as above but for {names}" in said
    assert "Trained 2 SAEs for 3 layers with each of 4 settings." in said
    assert f"The suites lie in {out}, a folder each: {names}" in said
    assert json.loads((out / "k8-lr0.0003" / "runner_cfg.json").read_text())["lr"] == 3e-4


def test_a_file_lists_settings(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "settings.json"
    listed.write_text(json.dumps([{"k": 4, "lr": 1e-3}, {"k": 8, "architecture": "batchtopk"}]))
    assert train("--sweep", str(listed), "--dry_run") == 0
    assert "k4-lr0.001-topk, k8-lr0.0003-batchtopk" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--sweep", "k=4,8", "--k", "4"),
            "k is given by --k and by --sweep; leave one of them out",
        ),
        (("--sweep", "kk=4,8"), "unrecognized arguments: --kk; did you mean --k?"),
        (("--sweep", "k=4,999"), "in the setting k999 of sweep: k is 999, more than the d_sae=64"),
        (("--sweep", "k", "--k", "4"), "sweep 'k' is not a field with its values, such as k=16"),
        (("--sweep", "missing.json"), "sweep 'missing.json' cannot be read"),
        (("--sweep", "k=4,8", "--refit_tokens", "99"), "with sweep, refit_tokens is not supported"),
    ],
)
def test_mistakes_of_the_command_end_in_one_line(
    train: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    message: str,
) -> None:
    assert train(*flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.strip().count("\n") == 0
