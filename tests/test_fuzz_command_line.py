"""Whatever the command line is given: status 0 or 2 and one message, before anything is trained."""

import contextlib
import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_groups.cli import main

from .fuzzing import damaged_file, fuzzed, texts
from .test_fuzz import MANIFEST, PLAN
from .test_fuzz_config import FIELDS, LIKELY, SAE_FIELDS
from .tiny import group_config, sae_config

# Settings that are usable but for a model and a text, of which there is neither.
USABLE = [
    *(
        "--layer_groups",
        "0-2,3",
        "--hook_name",
        "blocks.1.hook_resid_post",
        "--architecture",
        "topk",
    ),
    *("--d_in", "16", "--d_sae", "48", "--k", "4", "--context_size", "16", "--nolog_to_wandb"),
    *("--training_tokens", "960", "--train_batch_size_tokens", "32"),
]
NOWHERE = ["--model_name", "./no-model", "--dataset_path", "./no-text"]
# How Python words a mistake of ours.
_INTERNAL = re.compile(r"__init__|object|NoneType|unsupported operand|has no attribute|codec can't")
_VALUES = {name: values.map(str) for name, values in {**LIKELY, **SAE_FIELDS}.items()}
_FLAGS = [f"--{name}" for name in [*FIELDS, *SAE_FIELDS]]
_OWN_FLAGS = {
    "plan": ["--metric", "--max_cost", "--last_layer", "--time"],
    "cache": ["--cache_rows", "--cache_dtype", "--cached_activations_path"],
    "evaluate": ["--baseline", "--n_eval_batches", "--tasks", "--device", "--context_size"],
    "refit": ["--output_path", "--refit_tokens", "--device", "--dataset_path"],
    "suite": ["--budget", "--dry_run", "--refit_tokens", "--layer_groups", "--output_path"],
    "features": ["--features", "--top", "--baseline", "--n_eval_batches", "--no_texts"],
    "publish": [
        "--private",
        "--revision",
        "--token",
        "--allow",
        "--dry_run",
        "--yaml",
        "--license",
    ],
    "demo": ["--layer_groups", "--training_tokens"],
    "plugins": [],
    "train": ["--architecture", "--config_file", "--d_in", "--nolog_to_wandb"],
}
_SUITES = ["suite", "broken", "full", "nowhere", "a/b", "", "."]
_words = st.one_of(
    texts,
    st.text("0123456789.-e", max_size=5),
    st.sampled_from(["--", "-", "-h", "--help", "--version", "=", "True", "None", "all", *_SUITES]),
)


def _flag_with_value(name: str) -> st.SearchStrategy[list[str]]:
    values = _VALUES.get(name.removeprefix("--"), _words)
    return st.one_of(
        values.map(lambda value: [name, value]),
        values.map(lambda value: [f"{name}={value}"]),
        _words.map(lambda word: [name, word]),
        st.just([name]),
        st.just([name[:-1]]),
    )


def arguments_of(command: str) -> st.SearchStrategy[list[str]]:
    """A command with flags of its own and of others, some with a value that they take."""
    own = _OWN_FLAGS[command]
    names = st.sampled_from([*own, *_FLAGS]) if not own else st.sampled_from(own)
    one = st.one_of(names, st.sampled_from(_FLAGS)).flatmap(_flag_with_value)
    pieces = st.lists(st.one_of(one, one, one, _words.map(lambda word: [word])), max_size=4)
    places = st.one_of(
        st.lists(st.sampled_from(_SUITES), max_size=3),
        st.tuples(st.sampled_from(_SUITES), st.just("a/b")).map(list),
        st.sampled_from([["suite"], ["folder"]]),
    )
    return st.builds(
        lambda first, rest: [command, *first, *(word for piece in rest for word in piece)],
        places if command in ("evaluate", "features", "publish") else st.just([]),
        pieces,
    )


def outcome(args: list[str]) -> tuple[int, str]:
    """The exit status and what was written to stderr."""
    errors = io.StringIO()
    with (
        contextlib.redirect_stderr(errors),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # a warning is no failure of a command
        try:
            status = main(args)
        except SystemExit as stop:  # of argparse
            status = int(stop.code or 0)
    return status, errors.getvalue()


def require_clear(args: list[str]) -> None:
    status, shown = outcome(args)
    assert status in (0, 2)
    if status == 2:
        assert "error: " in shown
        assert shown.rpartition("error: ")[2].strip()
    assert "Traceback" not in shown


@pytest.fixture
def _things_to_find(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.json")
    for name in ("full", "suite", "broken", "folder"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "precious.txt").write_text("keep me")
    (tmp_path / "suite" / "suite.json").write_text(MANIFEST.to_json())
    (tmp_path / "broken" / "suite.json").write_text("{")


@pytest.mark.usefixtures("_things_to_find")
@fuzzed(20)
@given(args=st.sampled_from(sorted(_OWN_FLAGS)).flatmap(arguments_of))
def test_any_arguments_give_status_0_or_2_and_a_message(args: list[str]) -> None:
    if args[0] in ("train", "plan", "cache"):
        args = [args[0], *USABLE, *args[1:], *NOWHERE]
    elif args[0] == "demo":
        args = [*args, "--output_path", "full"]
    require_clear(args)
    assert [path.name for path in Path("full").iterdir()] == ["precious.txt"]


@fuzzed(20)
@given(args=st.lists(st.one_of(_words, st.sampled_from(sorted(_OWN_FLAGS))), max_size=3))
def test_any_words_give_status_0_or_2_and_a_message(args: list[str]) -> None:
    if args[:1] in (["train"], ["plan"], ["cache"], ["demo"]):
        args = [args[0], "--output_path", "/dev/null", *args[1:]]
    require_clear(args)


@pytest.mark.usefixtures("_things_to_find")
@pytest.mark.parametrize("name", ["x" * 300, "nul\0"])
@pytest.mark.parametrize(
    "before",
    [
        ["evaluate"],
        ["publish"],
        ["publish", "suite"],
        ["evaluate", "suite", "--baseline"],
        ["train", *USABLE, *NOWHERE, "--init_from"],
        ["train", *USABLE, *NOWHERE, "--output_path"],
        ["train", *USABLE, *NOWHERE, "--dataset_path"],
        ["train", *USABLE, *NOWHERE, "--config_file"],
        ["train", *USABLE, *NOWHERE, "--layer_groups"],
        ["cache", *USABLE, *NOWHERE, "--cached_activations_path"],
    ],
)
def test_a_name_that_no_file_can_have_is_a_mistake(before: list[str], name: str) -> None:
    args = [*before, name, "a/b"] if before == ["publish"] else [*before, name]
    require_clear(args)
    assert outcome(args)[0] == 2


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("plan", "--metric"),
        ("train", "--config_file"),
        ("train", "--architecture"),
        ("train", "--lr"),
        ("cache", "--cache_rows"),
    ],
)
def test_a_flag_whose_value_is_the_separator_has_no_value(command: str, flag: str) -> None:
    status, shown = outcome([command, *USABLE, *NOWHERE, f"{flag}=--"])
    assert status == 2
    assert f"argument {flag}: expected one argument" in shown


def _saved() -> dict[str, Any]:
    cfg = group_config(sae=sae_config(), checkpoint_path="checkpoints")
    return json.loads(json.dumps(cfg.to_dict()))


@pytest.mark.usefixtures("_things_to_find")
@fuzzed(20)
@given(
    content=damaged_file(_saved()), flags=st.lists(st.sampled_from(["--lr=1", "--k=8"]), max_size=2)
)
def test_any_config_file_gives_status_2_and_a_message(content: bytes, flags: list[str]) -> None:
    Path("runner_cfg.json").write_bytes(content)
    status, shown = outcome(["train", "--config_file", "runner_cfg.json", *flags, *NOWHERE])
    assert status == 2
    message = shown.partition("train: error: ")[2]
    assert message.strip()
    assert not _INTERNAL.search(message.partition("cannot be ")[0])
