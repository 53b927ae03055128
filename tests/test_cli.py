"""The command line, as a user of SAELens meets it."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sae_lens import SAE, LanguageModelSAERunnerConfig, TopKTrainingSAEConfig
from sae_lens.llm_sae_training_runner import _parse_cfg_args
from tqdm import tqdm

import sae_lens_groups
from sae_lens_groups import GroupSAERunnerConfig, SAESuite, __version__
from sae_lens_groups.cli import main
from sae_lens_groups.config import without_run_id
from sae_lens_groups.demo.model import MODEL_FOLDER
from sae_lens_groups.errors import ConfigError

from .processes import run, start
from .tiny import ARCHITECTURES, parse_config, settings

FLAGS = [
    *("--model_name", str(MODEL_FOLDER), "--model_class_name", "AutoModelForCausalLM"),
    *("--hook_name", "gpt_neox.layers.3", "--d_in", "96", "--d_sae", "192", "--k", "8"),
    *("--architecture", "topk", "--context_size", "32", "--training_tokens", "2048"),
    *("--train_batch_size_tokens", "256", "--store_batch_size_prompts", "8"),
    *("--n_batches_in_buffer", "16", "--lr", "1e-3", "--is_dataset_tokenized", "False"),
    *("--nolog_to_wandb", "--seqpos_slice", "1", "32", "--checkpoint_path", "ckpt"),
]


def arguments(*more: str, without: str | None = None) -> list[str]:
    flags = [*FLAGS, *more]
    if without is not None:
        at = flags.index(without)
        flags[at : at + 2] = []
    return flags


def help_flags(text: str) -> set[str]:
    """The flags that a help names, without those that turn another off."""
    flags = set(re.findall(r"(?<![\w-])--\w+(?:\.\w+)?", text))
    return {flag for flag in flags if flag.replace("--no", "--", 1) not in flags - {flag}}


# --- flags ---


@pytest.mark.seam
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_flag_of_saelens_is_a_flag_of_ours(
    architecture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        _parse_cfg_args(["--architecture", architecture, "--help"])
    except argparse.ArgumentError:
        pytest.skip("the command line of this SAELens does not know this architecture")
    except SystemExit:
        pass
    theirs = help_flags(capsys.readouterr().out)
    assert main(["train", "--architecture", architecture, "--help"]) == 0
    ours = help_flags(capsys.readouterr().out)
    assert len(theirs) > 60
    assert theirs - ours == set()
    # SAELens 6.44 reads --architecture and --sae without listing them.
    own = {
        "--layer_groups",
        "--amad_threshold",
        "--plan_tokens",
        "--layers_per_token",
        "--max_activation_norm_multiple",
        "--fast_step",
        "--layer_alignment",
        "--refit_tokens",
        "--ranks_per_group",
        "--init_features",
        "--init_from",
        "--init_direction",
        "--init_parameters",
        "--init_alignment",
        "--init_keep_layers",
        "--sweep",
        "--token_fraction",
        "--checkpoint_every",
        "--keep_checkpoints",
    }
    assert ours - theirs <= own | {"--config_file", "--architecture", "--sae", "--dry_run"}


@pytest.mark.seam
def test_flags_mean_what_they_mean_to_saelens() -> None:
    theirs = _parse_cfg_args(FLAGS)
    ours = parse_config(arguments("--layer_groups", "0-3,11"))
    # Two defaults differ, for reasons that are tested below and in test_settings.py.
    differing = {"dataset_trust_remote_code", "n_batches_for_norm_estimate"}
    for name, value in theirs.to_dict().items():
        if name not in {"checkpoint_path", "logger", "sae", *differing}:
            assert getattr(ours, name) == value or str(getattr(ours, name)) == value, name
    assert ours.sae == theirs.sae
    assert ours.layer_groups == "0-3,11"
    assert ours.seqpos_slice == (1, 32)
    assert ours.logger.log_to_wandb is False
    # SAELens runs a dataset's code unless told otherwise.
    assert (theirs.dataset_trust_remote_code, ours.dataset_trust_remote_code) == (True, False)


@pytest.fixture
def saved_cfg(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """The runner_cfg.json of an earlier SAELens run."""
    changes: dict[str, Any] = {
        "sae": TopKTrainingSAEConfig(d_in=96, d_sae=192, k=5),
        "hook_name": "gpt_neox.layers.3",
        "seqpos_slice": (2, -2),
        "checkpoint_path": "ckpt",
        "model_from_pretrained_kwargs": {"dtype": "float32"},
        "exclude_special_tokens": [0, 1],
    }
    cfg = LanguageModelSAERunnerConfig(**settings(**changes))
    path = tmp_path / "runner_cfg.json"
    path.write_text(json.dumps(cfg.to_dict()))
    return path, json.loads(path.read_text())


def test_a_config_file_gives_every_setting_of_the_earlier_run(
    saved_cfg: tuple[Path, dict[str, Any]],
) -> None:
    path, saved = saved_cfg
    cfg = parse_config(["--config_file", str(path), "--layer_groups", "even:3"])
    found = json.loads(json.dumps(cfg.to_dict()))
    ours = {
        "layer_groups": "even:3",
        "amad_threshold": 0.2,
        "plan_tokens": 200_000,
        "layers_per_token": 1,
        "max_activation_norm_multiple": 10.0,
        "fast_step": "auto",
        "layer_alignment": "none",
        "refit_tokens": 0,
        "ranks_per_group": 1,
        "init_features": "random",
        "init_from": None,
        "init_direction": "nearest",
        "init_parameters": "all",
        "init_alignment": "scale",
        "init_keep_layers": False,
        "sweep": None,
        "token_fraction": None,
        "checkpoint_every": None,
        "keep_checkpoints": None,
    }
    assert {name: found.pop(name) for name in ours} == ours
    # A new run writes its checkpoints beside the earlier one's, not into them.
    assert Path(found["checkpoint_path"]).parent == Path(saved["checkpoint_path"]).parent
    assert found.pop("checkpoint_path") != saved.pop("checkpoint_path")
    assert found == {**saved, "dataset_trust_remote_code": False}


@pytest.mark.parametrize(
    "kwargs",
    [
        {"trust_remote_code": True},
        {"trust_remote_code": "yes"},
        {"weights_only": False},
        {"code_revision": "main", "dtype": "float32"},
        {"attn_implementation": "somebody/kernels"},
        {"of_the_future": 1},
    ],
)
def test_a_config_file_switches_on_no_code_of_a_model(
    saved_cfg: tuple[Path, dict[str, Any]], kwargs: dict[str, Any]
) -> None:
    path, saved = saved_cfg
    path.write_text(json.dumps({**saved, "model_from_pretrained_kwargs": kwargs}))
    args = ["--config_file", str(path), "--layer_groups", "0-3"]
    with pytest.raises(ConfigError) as caught:
        parse_config(args)
    assert str(caught.value).startswith(
        f"config_file asks to load the model with {next(iter(kwargs))}="
    )
    assert "if you trust that, say so with --model_from_pretrained_kwargs" in str(caught.value)
    cfg = parse_config([*args, "--model_from_pretrained_kwargs", json.dumps(kwargs)])
    assert cfg.model_from_pretrained_kwargs == kwargs


def test_a_config_file_switches_on_no_code_of_a_dataset(
    saved_cfg: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, saved = saved_cfg
    assert saved["dataset_trust_remote_code"] is True
    args = ["--config_file", str(path), "--layer_groups", "0-3"]
    assert parse_config(args).dataset_trust_remote_code is False
    assert parse_config([*args, "--dataset_trust_remote_code", "True"]).dataset_trust_remote_code
    # Only there the setting means anything.
    monkeypatch.setattr("datasets.__version__", "3.6.0")
    with pytest.warns(
        UserWarning, match="dataset_trust_remote_code of the config_file is left out"
    ):
        assert parse_config(args).dataset_trust_remote_code is False


def test_flags_beside_a_config_file_win(saved_cfg: tuple[Path, dict[str, Any]]) -> None:
    path, _ = saved_cfg
    flags = ["--layer_groups", "0-3", "--lr", "0.5", "--k", "7", "--checkpoint_path", "elsewhere"]
    cfg = parse_config([*flags, "--config_file", str(path), "--wandb_project=mine"])
    assert (cfg.lr, cfg.sae.k, cfg.logger.wandb_project) == (0.5, 7, "mine")
    assert cfg.checkpoint_path is not None
    assert without_run_id(cfg.checkpoint_path, None) == "elsewhere"
    assert cfg.sae.d_sae == 192
    assert cfg.seqpos_slice == (2, -2)


@pytest.mark.seam
def test_a_config_file_of_ours_brings_its_groups(
    saved_cfg: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    cfg = parse_config(["--config_file", str(saved_cfg[0]), "--layer_groups", "0-3"])
    (tmp_path / "ours.json").write_text(json.dumps(cfg.to_dict()))
    again = parse_config(["--config_file", str(tmp_path / "ours.json")])
    assert again.layer_groups == "0-3"
    other = parse_config(["--config_file", str(tmp_path / "ours.json"), "--layer_groups", "each"])
    assert other.layer_groups == "each"


@pytest.mark.seam
def test_settings_of_another_saelens_version_are_left_out(
    saved_cfg: tuple[Path, dict[str, Any]],
) -> None:
    path, saved = saved_cfg
    path.write_text(json.dumps({**saved, "of_the_future": 1}))
    cfg = parse_config(["--config_file", str(path), "--layer_groups", "0-3"])
    assert cfg.lr == saved["lr"]


@pytest.mark.seam
def test_what_saelens_derives_follows_the_flags_beside_a_config_file(
    saved_cfg: tuple[Path, dict[str, Any]],
) -> None:
    path, saved = saved_cfg
    assert (saved["llm_device"], saved["lr_end"]) == ("cpu", saved["lr"] / 10)
    flags = ["--config_file", str(path), "--layer_groups", "0-3", "--device", "meta", "--lr", "1"]
    cfg = parse_config(flags)
    assert (cfg.device, cfg.llm_device, cfg.act_store_device) == ("meta", "meta", "meta")
    assert (cfg.lr, cfg.lr_end) == (1, 0.1)
    kept = parse_config([*flags, "--llm_device", "cpu", "--lr_end", "0.5"])
    assert (kept.device, kept.llm_device, kept.lr_end) == ("meta", "cpu", 0.5)


@pytest.mark.seam
def test_what_saelens_derives_follows_the_flags_of_from_sae_lens() -> None:
    theirs = _parse_cfg_args([*FLAGS, "--model_class_name", "HookedTransformer"])
    assert theirs.model_from_pretrained_kwargs == {"center_writing_weights": False}
    cfg = GroupSAERunnerConfig.from_sae_lens(
        theirs, layer_groups="0-3", model_class_name="AutoModelForCausalLM", device="meta"
    )
    assert cfg.model_from_pretrained_kwargs == {}
    assert cfg.llm_device == "meta"


def test_abbreviated_flags_beside_a_config_file_are_not_ignored(
    saved_cfg: tuple[Path, dict[str, Any]],
) -> None:
    args = ["--config_file", str(saved_cfg[0]), "--layer_groups", "0-3", "--training_tok", "99999"]
    assert parse_config(args).training_tokens == 99_999


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config_file", "nowhere.json"], "config_file 'nowhere.json' cannot be read"),
        (["--config_file"], "expected one argument"),
    ],
)
def test_a_config_file_that_cannot_be_read_is_named(args: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(args)
    assert message in str(caught.value)


def test_the_architecture_is_the_config_files_own(
    saved_cfg: tuple[Path, dict[str, Any]],
) -> None:
    with pytest.raises(ConfigError, match="--architecture cannot be changed together"):
        parse_config(["--config_file", str(saved_cfg[0]), "--architecture", "standard"])


# --- mistakes: exit status 2, one message, no traceback ---


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (arguments(), "the following arguments are required: --layer_groups"),
        (arguments("--layer_groups", "0-3,2"), "groups 0-3 and 2 overlap in layer 2"),
        (
            arguments("--layer_groups", "halves"),
            "'halves' is not known; known rules: auto, each, even",
        ),
        (arguments("--layer_groups", "0-12"), "reaches beyond the model, whose 12 layers are 0-11"),
        (arguments("--layer_groups", "0-3", "--lr", "fast"), "argument --lr: invalid float value"),
        (arguments("--layer_groups", "0-3", "--learning_rate", "1"), "--learning_rate"),
        (
            arguments("--layer_groups", "0-3", "--architecture", "dense"),
            "architecture 'dense' is not known; known architectures: ",
        ),
        (
            arguments("--layer_groups", "0-3", "--hook_name", "gpt_neox.embed_in"),
            "hook_name 'gpt_neox.embed_in' has no layer number",
        ),
        (
            arguments("--layer_groups", "0-3", "--use_cached_activations"),
            "use_cached_activations is True, but cached_activations_path is not given",
        ),
        (
            arguments("--layer_groups", "0-3", "--training_tokens", "100"),
            "training_tokens is 100, less than one batch of train_batch_size_tokens=256",
        ),
        (
            arguments("--layer_groups", "0-3", "--n_batches_in_buffer", "2"),
            "prompt = 62 tokens, less than one batch",
        ),
        (
            arguments("--layer_groups", "0-3", "--normalize_activations", "batch_norm"),
            "batch_norm",
        ),
        (
            arguments("--layer_groups", "0-3", "--lr_scheduler_name", "linear"),
            "lr_scheduler_name 'linear' is not known; known names: constant, cosineannealing",
        ),
        (arguments("--layer_groups", "0-3", "--dtype", "int4"), "dtype 'int4' is not known"),
        (
            arguments("--layer_groups", "0-3", "--activations_mixing_fraction", "1.5"),
            "activations_mixing_fraction is 1.5; it is a fraction",
        ),
        (arguments("--layer_groups", "0-3", "--k", "500"), "k is 500, more than the d_sae=192"),
        (arguments("--layer_groups", "0-3", "--device", "gpu"), "device is 'gpu', which cannot"),
        (
            arguments("--layer_groups", "0-3", "--hook_head_index", "1"),
            "hook_head_index is 1, but gpt_neox.layers.0 has no heads",
        ),
        (
            arguments("--layer_groups", "0-3", "--resume_from_checkpoint", "nowhere"),
            "resume_from_checkpoint 'nowhere' is not a checkpoint of a grouped run",
        ),
        (
            arguments("--layer_groups", "0-3", "--model_name", "./no-model"),
            "no-model",
        ),
        (
            arguments("--layer_groups", "0-3", "--from_pretrained_path", "no-sae"),
            "from_pretrained_path 'no-sae' holds no SAE in training form",
        ),
    ],
)
def test_mistakes_give_one_message_and_status_2(
    args: list[str], message: str, text_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *args, "--dataset_path", str(text_folder)]) == 2
    shown = capsys.readouterr().err
    assert "sae-lens-groups train: error: " in shown
    assert message in shown
    assert "Traceback" not in shown


def test_a_message_has_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Where a progress bar stands in the middle of its own."""
    bar = tqdm(total=10, initial=3, disable=False, file=sys.stderr)
    assert main(["train", "--no_such_flag"]) == 2
    bar_line, start, _ = capsys.readouterr().err.partition("\nsae-lens-groups train: error")
    assert "3/10" in bar_line
    assert start
    assert bar.disable  # it is closed


def test_a_missing_dataset_gives_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    args = arguments("--layer_groups", "0-3", "--dataset_path", "./no-data")
    assert main(["train", *args]) == 2
    assert "dataset_path './no-data' cannot be read" in capsys.readouterr().err


def test_an_output_folder_that_holds_something_gives_status_2(
    text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "precious.txt").write_text("keep me")
    args = arguments("--layer_groups", "0-3", "--dataset_path", str(text_folder))
    assert main(["train", *args, "--output_path", str(tmp_path / "output")]) == 2
    assert "already holds other files, which are never overwritten" in capsys.readouterr().err
    assert (tmp_path / "output" / "precious.txt").read_text() == "keep me"


def test_an_unknown_command_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fit"])
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert all(name in shown for name in ("invalid choice: 'fit'", "train", "demo", "plugins"))


def test_the_version_is_the_packages_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"sae-lens-groups {__version__}\n"


# --- whole runs ---


@pytest.mark.seam
def test_a_saelens_command_line_trains_groups_with_one_flag_added(
    text_folder: Path, tmp_path: Path
) -> None:
    args = [*FLAGS, "--dataset_path", str(text_folder)]
    theirs = run(
        *("-m", "sae_lens.llm_sae_training_runner", *args, "--output_path", "theirs"), cwd=tmp_path
    )
    assert theirs.returncode == 0, theirs.stderr
    ours = run(
        *("-m", "sae_lens_groups", "train"),
        *args,
        *("--layer_groups", "0-3,4-7,8-10,11", "--output_path", "ours"),
        cwd=tmp_path,
    )
    assert ours.returncode == 0, ours.stderr
    assert "Trained 4 SAEs for 12 layers." in ours.stdout
    assert 'SAE.load_from_disk("ours/gpt_neox.layers.0")' in ours.stdout
    assert "sae-lens-groups evaluate ours    # scores every layer" in ours.stdout
    plain = SAE.load_from_disk(tmp_path / "theirs")
    suite = SAESuite.load(tmp_path / "ours")
    assert len(suite) == 12
    assert suite["gpt_neox.layers.3"].cfg.to_dict().keys() == plain.cfg.to_dict().keys()
    expected = plain.cfg.metadata.to_dict()
    found = suite["gpt_neox.layers.3"].cfg.metadata.to_dict()
    for name in expected.keys() - {"l0", "num_dead_features"}:
        assert found[name] == expected[name], name


def test_a_python_config_trains_groups_with_one_call(text_folder: Path) -> None:
    theirs = _parse_cfg_args([*FLAGS, "--dataset_path", str(text_folder), "--output_path", "out"])
    before = theirs.to_dict()
    cfg = GroupSAERunnerConfig.from_sae_lens(theirs, layer_groups="0-3,4-7,8-10,11")
    assert theirs.to_dict() == before
    from sae_lens_groups import GroupSAETrainingRunner

    suite = GroupSAETrainingRunner(cfg).run()
    assert [group.name for group in suite.manifest.groups] == [
        "layers_0-3",
        "layers_4-7",
        "layers_8-10",
        "layers_11",
    ]
    assert theirs.to_dict() == before  # also not by the run


def test_ctrl_c_stops_other_commands_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sae_lens_groups.cli.evaluate.evaluate", stopped)
    assert main(["evaluate", "suite"]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "\nsae-lens-groups evaluate: stopped by Ctrl-C\n"


def test_ctrl_c_saves_and_the_printed_flag_resumes(text_folder: Path, tmp_path: Path) -> None:
    args = [
        *("-m", "sae_lens_groups", "train", *FLAGS, "--dataset_path", str(text_folder)),
        *("--layer_groups", "0-3,11", "--output_path", "suite"),
    ]
    long = [*args, "--training_tokens", "2000000"]
    process = start(*long, cwd=tmp_path)
    seen = ""
    while "Training 2 SAEs" not in seen:
        seen += process.stderr.read(1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait() == 128 + signal.SIGINT
    assert "Traceback" not in rest
    message = re.search(r"training stopped by SIGINT; progress is saved in (\S+), continue", rest)
    assert message is not None, rest
    assert not (tmp_path / "suite").exists()
    n_tokens = int(Path(message[1]).name)
    resumed = run(
        *(*args, "--resume_from_checkpoint", message[1]),
        *("--training_tokens", str(n_tokens + 2048)),
        cwd=tmp_path,
    )
    assert resumed.returncode == 0, resumed.stderr
    where = f"goes on from {message[1]}, after {n_tokens:,} of {n_tokens + 2048:,} tokens"
    assert where in " ".join(resumed.stdout.split())
    assert len(SAESuite.load(tmp_path / "suite")) == 5


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the package's wheel installs, in a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip"]
    root = str(Path(__file__).parent.parent)
    command = [*pip, "wheel", "-q", "--no-deps", "-w", str(folder / "dist"), root]
    subprocess.run(command, check=True)
    (file,) = (folder / "dist").iterdir()
    command = [*pip, "install", "-q", "--no-deps", "--target", str(folder / "site"), str(file)]
    subprocess.run(command, check=True)
    return folder / "site"


def test_the_wheel_holds_the_package_and_its_command(wheel: Path) -> None:
    package = Path(sae_lens_groups.__file__).parent

    def files_of(folder: Path) -> set[str]:
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        return {file for file in files if not file.endswith(".pyc")}

    assert files_of(wheel / "sae_lens_groups") == files_of(package)
    (entry_points,) = wheel.glob("*.dist-info/entry_points.txt")
    assert "sae-lens-groups = sae_lens_groups.cli:main" in entry_points.read_text()
    assert (wheel / "bin" / "sae-lens-groups").exists()
    assert {path.name for path in wheel.iterdir()} == {
        *("bin", "sae_lens_groups", entry_points.parent.name)
    }


_RUN_PATH = """
import runpy, sys
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_the_demo_of_the_wheel_prints_a_score_for_every_layer(wheel: Path, tmp_path: Path) -> None:
    def demo(*args: str) -> "subprocess.CompletedProcess[str]":
        command = ["-c", _RUN_PATH, str(wheel / "bin" / "sae-lens-groups"), "demo", *args]
        return run(*command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(wheel)})

    shown = demo("--training_tokens", "20000")
    assert shown.returncode == 0, shown.stderr
    row = r"^ +(\d+)  (layers_\S+) +(\S+) +(\S+) +(\S+) +(\S+) +(\S+)%$"
    rows = re.findall(row, shown.stdout, re.MULTILINE)
    assert [int(row[0]) for row in rows] == list(range(12))
    assert {row[1] for row in rows} == {"layers_0-3", "layers_4-7", "layers_8-10", "layers_11"}
    for _, _, explained_variance, ce_loss_score, _, l0, _ in rows:
        assert 0.5 < float(explained_variance) < 1
        assert 0.7 < float(ce_loss_score) < 1
        assert float(l0) <= 16
    assert "The suite lies in demo_suite" in shown.stdout
    assert 'SAE.load_from_disk("demo_suite/gpt_neox.layers.0")' in shown.stdout
    assert (tmp_path / "demo_suite" / "evaluation.csv").read_text().count("\n") == 13
    page = (tmp_path / "demo_suite" / "report.html").read_text()
    assert "<h1>4 SAEs for 12 layers" in page
    again = "demo --layer_groups even:3 --training_tokens 20000 --output_path demo_suite"
    assert f"<code>sae-lens-groups {again}</code>" in page
    refused = demo()
    assert refused.returncode == 2
    assert "already holds a finished suite" in refused.stderr
