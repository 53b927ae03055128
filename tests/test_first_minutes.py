"""What a user meets first: help, mistakes, what a run is about to do, and what it leaves in a log."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformer_lens import HookedTransformerConfig

from sae_lens_groups import GroupPlan
from sae_lens_groups.activations import known_width, width_before_loading
from sae_lens_groups.cli import main
from sae_lens_groups.cli.fields import architectures, config_fields
from sae_lens_groups.demo.model import MODEL_FOLDER
from sae_lens_groups.errors import ConfigError, HookNameError, TrainingInterrupted
from sae_lens_groups.evaluate import TASKS
from sae_lens_groups.field_values import whole_number
from sae_lens_groups.plan import plan_text

from .test_cli import FLAGS, arguments
from .test_plan_command import synthetic_plan
from .tiny import group_config, parse_config

_TINY_CONFIG = (
    "transformer_lens.loading_from_pretrained.get_pretrained_model_config",
    lambda *_, **__: HookedTransformerConfig(
        n_layers=2, d_model=16, n_ctx=32, d_head=8, n_heads=4, d_mlp=64, act_fn="gelu", d_vocab=50
    ),
)
WITHOUT_WIDTH = [flag for flag in FLAGS if flag not in ("--d_in", "96")]

# Runs commands and prints for each its status, what it showed and what it imported.
_COMMANDS = """
import contextlib, io, json, sys
from sae_lens_groups.cli import main
from sae_lens_groups.cli.fields import architectures, config_fields
for args in json.loads(sys.argv[1]):
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        try:
            status = main(args)
        except SystemExit as end:
            status = end.code
    heavy = sorted({"torch", "sae_lens", "transformers", "datasets"} & set(sys.modules))
    print(json.dumps([status, shown.getvalue(), heavy]))
"""


def shown_by(*commands: list[str], cwd: Path) -> list[tuple[int, str]]:
    """Status and output of each command, none of which may import what takes seconds."""
    process = subprocess.run(
        [sys.executable, "-c", _COMMANDS, json.dumps(commands)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    found = [json.loads(line) for line in process.stdout.splitlines()]
    assert all(heavy == [] for _, _, heavy in found)
    return [(status, shown) for status, shown, _ in found]


def test_help_shows_without_importing_saelens(tmp_path: Path) -> None:
    names = [
        "train",
        "plan",
        "cache",
        "suite",
        "evaluate",
        "refit",
        "features",
        "publish",
        "demo",
        "plugins",
    ]
    for name, (status, shown) in zip(
        names, shown_by(*[[name, "--help"] for name in names], cwd=tmp_path)
    ):
        assert status == 0
        assert shown.startswith(f"usage: sae-lens-groups {name} ")
        if name == "evaluate":
            assert f"some of {', '.join(TASKS)}, with" in " ".join(shown.split())


@pytest.mark.seam
def test_the_help_of_train_begins_with_what_is_needed_and_has_a_line_for_each_flag(
    tmp_path: Path,
) -> None:
    topk, standard = shown_by(
        ["train", "--architecture", "topk", "--help"], ["train", "--help"], cwd=tmp_path
    )
    assert " --k " in topk[1]
    assert " --k " not in standard[1]
    parts = re.findall(r"^[a-z].*", topk[1], re.MULTILINE)
    assert parts[parts.index("the command") :][:4] == [
        "the command",
        "needed (or in --config_file)",
        "usual",
        "groups, starts and checkpoints: what SAELens does not have",
    ]
    needed = re.search(r"\nneeded.*?\n\n", topk[1], re.DOTALL)
    assert needed is not None
    assert re.findall(r"^  (--\w+)", needed[0], re.MULTILINE) == [
        *("--layer_groups", "--model_name", "--hook_name", "--dataset_path")
    ]
    assert len(topk[1].splitlines()) < 180
    assert max(map(len, topk[1].splitlines()[1:])) <= 100
    assert "Config(" not in topk[1]


GROUPS = ["--layer_groups", "0-3"]


def test_mistakes_in_flags_show_without_importing_saelens(tmp_path: Path) -> None:
    plan = tmp_path / "my_plan" / "plan.json"
    plan.parent.mkdir()
    plan.write_text("{}")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "suite.json").write_text("{}")
    (tmp_path / "full" / "runner_cfg.json").write_text("{}")
    (tmp_path / "note.txt").write_text("a note")
    mistakes = {
        ("train", "--layer-groups", "0-3"): "did you mean --layer_groups?",
        ("train", *GROUPS, "--learning_rate", "1"): "did you mean --lr?",
        ("train", *GROUPS, "--dataset", "x"): "--dataset is the beginning of --dataset_path, ",
        ("train", *GROUPS, "--training_token_s", "1"): "did you mean --training_tokens?",
        ("train", *GROUPS, "--confg_file", "x"): "did you mean --config_file?",
        ("train", *GROUPS, "--k", "4"): "--k is a setting of --architecture topk, not of standard",
        ("train", *GROUPS, "--architecture", "topkk"): "did you mean topk?",
        ("train", *GROUPS, "--lr", "fast"): "argument --lr: invalid float value: 'fast'",
        ("train", *GROUPS, "--lr"): "argument --lr: expected one argument",
        ("train", *GROUPS, "--lr", "-1"): "lr is -1.0; it has to be at least 0",
        ("train", *GROUPS, "--context_size", "0"): "context_size is 0; it has to be at least 1",
        ("train", *GROUPS, "--training_tokens", "3.5"): "invalid int value: '3.5'",
        ("train", *GROUPS, "--output_path", "full"): "'full' already holds a finished suite",
        ("train", "--lr", "1"): "the following arguments are required: --layer_groups",
        ("train", "--layer_groups", "0-3,2"): "groups 0-3 and 2 overlap in layer 2",
        ("train", "--layer_groups", "my_plan/plan.jsn.json"): "did you mean my_plan/plan.json?",
        ("train", "--layer_groups", "myplan/plan.json"): "did you mean my_plan/plan.json?",
        ("train", "--layer_groups", "nowhere/plan.json"): "that `sae-lens-groups plan` wrote\n",
        ("train", "--config_file", "my_plan/pln.json"): "did you mean my_plan/plan.json?",
        ("train", "--config_file", "full"): "is a folder; did you mean full/runner_cfg.json?",
        ("train", "--config_file", "my_plan"): "'my_plan' cannot be read: Is a directory; name the",
        (
            "train",
            "--config_file",
            "note.txt",
        ): "not JSON (Expecting value: line 1 column 1 (char 0)); ",
        (
            "train",
            "--sweep",
            "k.json",
            *GROUPS,
        ): "'k.json' cannot be read: No such file or directory; ",
        ("train", "pythia", *GROUPS): "unrecognized arguments: pythia",
        ("plan", "--metrics", "cka"): "did you mean --metric?",
        ("train", *GROUPS, "--output_path", "note.txt"): "'note.txt' is a file, which is never",
        ("plan", "--output_path", "full"): "'full' already holds a finished suite",
        ("plan", "--output_path", "my_plan"): "'my_plan' already holds a plan, which is never",
        ("cache", "--cache-rows", "all"): "did you mean --cache_rows?",
        ("publish", "suite", "a/b", "--dry-run"): "did you mean --dry_run?",
    }
    for (args, message), (status, shown) in zip(
        mistakes.items(), shown_by(*map(list, mistakes), cwd=tmp_path)
    ):
        assert status == 2
        assert shown.startswith(f"sae-lens-groups {args[0]}: error: ")
        assert message in shown
        assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("layer_groups", "meant"), [("my_plan", "my_plan/plan.json"), ("evn:3", "even")]
)
def test_groups_that_are_nearly_a_plan_or_a_rule_say_what_was_meant(
    layer_groups: str, meant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_plan").mkdir()
    (tmp_path / "my_plan" / "plan.json").write_text("{}")
    assert main(["train", *FLAGS, "--layer_groups", layer_groups, "--dataset_path", "."]) == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("3M", 3_000_000), ("3e3", 3000), ("2.3m", 2_300_000), ("64k", 64_000)),
        *(("1B", 10**9), ("3_000", 3000), ("17", 17)),
    ],
)
def test_numbers_of_tokens_are_written_as_people_write_them(text: str, number: int) -> None:
    assert whole_number(text) == number
    cfg = parse_config(
        arguments("--layer_groups", "0-3", "--training_tokens", text, "--plan_tokens=" + text)
        if number >= 256
        else arguments("--layer_groups", "0-3", "--plan_tokens", text)
    )
    assert cfg.plan_tokens == number


@pytest.mark.parametrize("text", ["", "M", "1e", "3.5", "1e-3", "inf", "nan", "1e999", "0x10"])
def test_what_is_no_whole_number_is_none(text: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        whole_number(text)


# --- what a run is about to do ---


def test_a_dry_run_says_what_would_be_trained_and_trains_nothing(
    text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(tmp_path.iterdir())
    args = [*WITHOUT_WIDTH, "--dataset_path", str(text_folder), "--exclude_special_tokens", "True"]
    args += ["--layer_groups", "0-3,11", "--output_path", "suite", "--dry_run"]
    assert main(["train", *args]) == 0
    shown = re.sub(r"\n +", " ", capsys.readouterr().out)
    for text in (
        f"model        {MODEL_FOLDER}, gpt_neox.layers.{{layer}}, on cpu",
        "groups       2 for 5 layers: 0-3 11",
        "SAEs         topk, d_in 96, d_sae 192, k 8; normalize_activations none",
        "step         SAELens's own: d_sae is 192, less than 256; fast_step always takes the fast",
        "tokens       2,048 for each SAE, in 8 steps of 256; learning rate 0.001",
        f"text         {text_folder}, context 32, BOS prepended to text, all special tokens left",
        "suite        suite",
    ):
        assert text in shown
    assert set(tmp_path.iterdir()) == before


def test_settings_that_do_less_than_they_seem_to_are_told(
    text_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [*FLAGS, "--dataset_path", str(text_folder), "--layer_groups", "4", "--dry_run"]
    assert main(["train", *args, "--dtype", "bfloat16"]) == 0
    shown = re.sub(r"\n +", " ", capsys.readouterr().out)
    assert "1 for 1 layer: 4; 4 groups of all layers are even:4" in shown
    assert "(dtype bfloat16 does nothing: use autocast_lm)" in shown
    fast = ["--fast_step", "always", "--sae.dtype", "bfloat16", "--compile_sae", "True"]
    assert main(["train", *args, *fast]) == 0
    shown = re.sub(r"\n +", " ", capsys.readouterr().out)
    assert "fast, the encoder in bfloat16 (sae.dtype); compile_sae compiles SAELens's own" in shown


def test_measured_groups_are_announced_as_measured(
    text_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [*FLAGS, "--dataset_path", str(text_folder), "--layer_groups", "auto", "--dry_run"]
    assert main(["train", *args, "--plan_tokens", "4k"]) == 0
    assert "groups       auto, measured on 4,000 tokens; known once" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("hook_name", "width"),
    [("gpt_neox.layers.3", 96), ("gpt_neox.layers.3.mlp.dense_h_to_4h", 384)],
)
def test_the_width_of_a_transformers_model_is_known_before_it_is_loaded(
    hook_name: str, width: int
) -> None:
    cfg = group_config(
        model_name=str(MODEL_FOLDER), model_class_name="AutoModelForCausalLM", hook_name=hook_name
    )
    assert width_before_loading(cfg) == width


@pytest.mark.parametrize(
    ("hook_name", "head", "width"),
    [
        ("blocks.1.hook_resid_post", None, 16),
        ("blocks.1.attn.hook_z", None, 32),
        ("blocks.1.attn.hook_z", 1, 8),
        ("blocks.1.mlp.hook_post", None, 64),
        ("blocks.1.hook_nowhere", None, None),
    ],
)
def test_the_width_of_a_transformerlens_model_is_known_before_it_is_loaded(
    hook_name: str, head: int | None, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*_TINY_CONFIG)
    assert width_before_loading(group_config(hook_name=hook_name, hook_head_index=head)) == width


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--hook_name", "gpt_neox.layer.3"],
            "the model has no hook named gpt_neox.layer.{layer}; its hooks at layer 0 are: ",
        ),
        (
            ["--hook_name", "gpt_neox.layers.33"],
            "hook_name 'gpt_neox.layers.33' is at layer 33, and the model's 12 layers are 0-11",
        ),
        (
            ["--model_class_name", "HookedTransformer", "--model_name", "no-such-model"],
            "HookedTransformer knows its own models only; give model_class_name AutoModelForCausalLM",
        ),
    ],
)
def test_a_wrong_hook_or_model_is_told_before_the_width_is_asked_for(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *WITHOUT_WIDTH, "--layer_groups", "0-3", *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_model_that_is_nowhere_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--layer_groups", "0-3", "--model_name", str(tmp_path / "nowhere")]
    assert main(["train", *WITHOUT_WIDTH, *flags]) == 2
    error = capsys.readouterr().err
    assert f"the model {str(tmp_path / 'nowhere')!r} cannot be loaded: " in error
    assert error.endswith(", or give --d_in\n")


def test_a_wrong_hook_of_a_transformerlens_model_is_answered_with_those_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(*_TINY_CONFIG)
    with pytest.raises(HookNameError, match=r"at layer 0 are: .*blocks.0.hook_resid_post"):
        known_width(group_config(hook_name="blocks.1.hook_nowhere"))


def test_a_width_that_nobody_knows_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*_TINY_CONFIG)
    cfg = group_config(hook_name="blocks.1.hook_mlp_in")  # computed where the model is told to
    with pytest.raises(ConfigError, match=r"does not tell how wide .* give --d_in"):
        known_width(cfg, ", or give --d_in")


# --- in a log ---


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> "subprocess.CompletedProcess[str]":
    """A run with its output in a log, in a process that imports everything itself."""
    folder = tmp_path_factory.mktemp("logged")
    rows = [{"text": f"def f{n}(x):\n    return x * {n}\n" * 30} for n in range(100)]
    (folder / "text").mkdir()
    (folder / "text" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    args = [*WITHOUT_WIDTH, "--dataset_path", "text", "--layer_groups", "auto:1"]
    args += ["--plan_tokens", "2048"]  # a pass of its own, of which SAELens warns again
    args += ["--normalize_activations", "expected_average_only_in", "--output_path", "suite"]
    args += ["--n_batches_for_norm_estimate", "2"]
    return subprocess.run(
        [sys.executable, "-m", "sae_lens_groups", "train", *args],
        cwd=folder,
        capture_output=True,
        text=True,
    )


def test_a_log_has_lines_in_place_of_bars(logged: "subprocess.CompletedProcess[str]") -> None:
    assert logged.returncode == 0, logged.stderr
    assert "\r" not in logged.stderr
    assert "it/s" not in logged.stderr
    first, *_, last = logged.stderr.splitlines()
    assert first == "Importing torch and SAELens ..."
    assert last.startswith("Training 2 SAEs: 2,048 of 2,048 tokens, loss ")


def test_a_warning_is_one_line_without_a_place_in_the_code(
    logged: "subprocess.CompletedProcess[str]",
) -> None:
    assert logged.stderr.count("\nwarning: Dataset is not tokenized.") == 1
    assert ".py:" not in logged.stderr


def test_a_run_says_what_it_is_about_to_do(logged: "subprocess.CompletedProcess[str]") -> None:
    assert logged.stdout.startswith("model ")
    assert logged.stdout.index("groups  ") < logged.stdout.index("Trained 2 SAEs")


# --- advice ---


def test_a_plan_says_how_many_rows_it_leaves_out() -> None:
    def rows(plan: GroupPlan) -> int:
        return len(re.findall(r"^(?:->|  ) +\d+ +\d+ +\d\.\d{3}", plan_text(plan), re.MULTILINE))

    deep, shallow = synthetic_plan(40), synthetic_plan(12)
    n_left_out = len(deep.hierarchy) - rows(deep)
    assert n_left_out > 0
    assert f"\n   {n_left_out} more rows are on the plan's page" in plan_text(deep)
    assert rows(shallow) == len(shallow.hierarchy)
    assert "more rows" not in plan_text(shallow)


def test_advice_quotes_paths() -> None:
    message = str(TrainingInterrupted(2, Path("my runs/ckpt/512")))
    assert message.endswith("continue with --resume_from_checkpoint 'my runs/ckpt/512'")


# --- pages ---

TUTORIALS = Path(__file__).parent.parent / "tutorials"


def test_every_page_is_in_the_index() -> None:
    index = (TUTORIALS / "README.md").read_text()
    pages = {path.name for pattern in ("*.md", "*.ipynb") for path in TUTORIALS.glob(pattern)}
    assert {page for page in pages - {"README.md"} if f"]({page})" not in index} == set()


@pytest.mark.parametrize("page", ["your_own_model.md", "choosing.md", "trouble.md"])
def test_every_flag_that_a_page_for_beginners_names_is_one(page: str) -> None:
    known = {field.flag for name in architectures() for field in config_fields(name)}
    known |= {flag.replace("--", "--no", 1) for flag in known}
    known |= {"--architecture", "--config_file", "--dry_run", "--help"}
    of_others = {"--n_eval_batches", "--eval_batch_size_prompts", "--base_model", "--license"}
    named = set(re.findall(r"(?<![\w-])--\w+", (TUTORIALS / page).read_text()))
    assert named - known - of_others == set()
    assert named


def test_every_message_on_the_page_about_trouble_is_one_that_somebody_gets() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", (TUTORIALS / "trouble.md").read_text(), re.MULTILINE)
    package = TUTORIALS.parent / "sae_lens_groups"
    code = " ".join(path.read_text() for path in package.rglob("*.py"))
    code = re.sub(r'"\s*f?"', " ", code)  # strings over several lines
    code = " ".join(re.sub(r"\{[^{}]*\}", "", code).split())
    for row in rows:
        parts = [re.escape(part.strip()).replace(r"\ ", r"\s*") for part in row.split("...")]
        assert re.search(".{0,90}".join(parts), code), row
    assert len(rows) > 6
