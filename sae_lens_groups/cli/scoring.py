"""What `evaluate` does once its flags are read: finds text and model, scores, prints.

Of a sweep all suites are scored on the same tokens.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from datasets import IterableDataset
from transformer_lens import HookedRootModule

from sae_lens_groups import files
from sae_lens_groups.activations import (
    DatasetId,
    as_stream,
    fingerprint,
    held_out_rows,
    known_column,
    load_with_hooks,
    open_train_split,
    require_no_remote_code,
    require_usable_rows,
)
from sae_lens_groups.cli.flags import as_mistakes
from sae_lens_groups.demo import DATASET_NAME, stdlib_tokens
from sae_lens_groups.errors import ConfigError, DatasetError
from sae_lens_groups.evaluate import (
    TASKS,
    Baseline,
    OpenedSweep,
    evaluate_suite,
    evaluate_sweep,
    evaluation_text,
    open_baseline,
    public,
    sweep_text,
    task_named,
    with_baseline,
)
from sae_lens_groups.field_values import require_device
from sae_lens_groups.suite import SAESuite

_PLACING = ("device_map", "max_memory", "n_devices")


def score_suite(flags: argparse.Namespace, args: Sequence[str]) -> int:
    """Scores every layer, prints the table, and writes CSV, JSON and `report.html`."""
    require_device("--device", flags.device)
    task_names = _task_names_of(flags.tasks)
    suite = SAESuite.load(flags.suite, flags.device)
    folder = suite.require_folder()
    files.require_writable(folder, "the suite")
    with as_mistakes():
        baseline, _ = with_baseline(suite, asked_baseline(flags))  # refused before the model loads
        text = suite_text(flags, suite, [] if baseline is None else [baseline])
        model = model_of_suite(flags, suite, text, _hooks_of_baseline(suite, baseline))
        evaluation = evaluate_suite(
            suite,
            model,
            text.rows,
            baseline=baseline,
            tasks=task_names,
            commands=_commands(suite, args),
            **_measured_as(flags, text),
        )
    print(evaluation_text(evaluation))
    print(
        f"\nLook at it: {folder / files.REPORT}\n"
        f"Figures:    {folder / files.EVALUATION}, and more in {folder / files.EVALUATION_FOLDER}"
    )
    if evaluation.kept_earlier is not None:
        print(f"Earlier:    {folder / evaluation.kept_earlier}, whose settings were others")
    return 0


def score_sweep(flags: argparse.Namespace, args: Sequence[str]) -> int:
    """Scores every suite of a sweep, prints a line for each, and writes its files and the page."""
    require_device("--device", flags.device)
    task_names = _task_names_of(flags.tasks)
    sweep = OpenedSweep(flags.suite, flags.device)
    files.require_writable(sweep.folder, "the sweep")
    first, *others = sweep.suites()
    with as_mistakes():
        baseline = asked_baseline(flags)
        read = [*map(Baseline.of, others), *([] if baseline is None else [baseline])]
        text = suite_text(flags, first, read)
        hooks = [name for of in others for name in of] + _hooks_of_baseline(first, baseline)
        model = model_of_suite(flags, first, text, hooks)
        found = evaluate_sweep(
            sweep,
            model,
            text.rows,
            baseline=baseline,
            tasks=task_names,
            commands=[_command_again(args)],
            **_measured_as(flags, text),
        )
    print(sweep_text(found))
    print(
        f"\nChoose one: {sweep.folder / files.SWEEP_PAGE}\n"
        f"Figures:    {sweep.folder / files.SWEEP_SCORES}, and {files.REPORT} in each suite's folder"
    )
    return 0


def _task_names_of(given: str) -> list[str]:
    """The circuit tasks that `--tasks` names."""
    if given == "none":
        return []
    names = list(TASKS) if given == "all" else [name.strip() for name in given.split(",")]
    return [task_named(name).name for name in names]


def asked_baseline(flags: argparse.Namespace) -> Baseline | None:
    """What `--baseline` names."""
    return None if flags.baseline is None else open_baseline(flags.baseline, flags.device)


class Text(NamedTuple):
    """What is evaluated on; its path is where it was opened, None for what comes with Python."""

    name: str
    path: str | None
    rows: IterableDataset


def opened_text(
    flags: argparse.Namespace,
    suite: SAESuite,
    of_demo: Literal["train", "held_out"],
    context_size: int | None = None,
) -> Text:
    """The text that is asked for, or that of the training, from its first row; of the demo's a part."""
    path = flags.dataset_path or _own_path(suite)
    if path == DATASET_NAME:
        context_size = context_size or int(_metadata(suite).context_size)
        return Text(path, None, as_stream(stdlib_tokens(of_demo, context_size)))
    if not path:
        raise DatasetError("the suite does not say what it was trained on; give --dataset_path")
    streaming = (suite.runner_cfg or {}).get("streaming", True)
    rows = open_train_split(path, streaming=streaming, trust_remote_code=flags.trust_remote_code)
    known_column(rows, path)  # a text without one shows before the model loads
    return Text(Path(path).name, path, rows)


def _measured_as(flags: argparse.Namespace, text: Text) -> dict[str, Any]:
    """How much of the text is read, and how, as `evaluate_suite` and `evaluate_sweep` take it."""
    return {
        "n_batches": flags.n_eval_batches,
        "batch_size_prompts": flags.eval_batch_size_prompts,
        "context_size": flags.context_size,
        "dataset_name": text.name,
        "autocast_lm": flags.autocast_lm,
    }


def suite_text(flags: argparse.Namespace, suite: SAESuite, others: Sequence[Baseline] = ()) -> Text:
    """The text that is asked for; of the suite's own, only what no training has read.

    `others` are evaluated on it too.
    """
    text = opened_text(flags, suite, "held_out", flags.context_size)
    path, rows = text.path, text.rows
    if path is None:
        return text
    given = DatasetId(path, fingerprint(rows))
    own = DatasetId(_own_path(suite), suite.manifest.dataset_fingerprint)
    of_suite = _read_by_suite(suite, path) if given.is_same(own) else 0
    n_rows_read = max([of_suite, *(_read_by_baseline(given, of) for of in others)])
    if n_rows_read:
        print(f"Held out: the rows of {path} after the first {n_rows_read:,}, which training read.")
        return text._replace(rows=held_out_rows(rows, n_rows_read))
    return text


def _metadata(suite: SAESuite) -> Any:
    """What its SAEs say of their training, alike."""
    return next(iter(suite.values())).cfg.metadata


def _own_path(suite: SAESuite) -> str | None:
    """Of the dataset that it was trained on."""
    return (suite.runner_cfg or {}).get("dataset_path") or _metadata(suite).dataset_path


def _read_by_suite(suite: SAESuite, path: str) -> int:
    """How many rows of its dataset, which now lies there, the suite was trained on."""
    n_rows_read = suite.manifest.rows_trained_on
    if n_rows_read is None:
        raise DatasetError(
            f"the suite does not say which rows of {path!r} it was trained on, so none are "
            "known to be held out; give other text with --dataset_path"
        )
    return n_rows_read


def _read_by_baseline(given: DatasetId, baseline: Baseline) -> int:
    """How many of them the baseline was trained on, as far as it says."""
    if not given.is_same(baseline.dataset):
        return 0
    if baseline.dataset_rows_read is None:
        print(
            f"warning: the baseline was trained on {given.path!r} too and does not say on which "
            "rows, so it may have seen the text of this comparison; other text: --dataset_path",
            file=sys.stderr,
        )
    return baseline.dataset_rows_read or 0


def _hooks_of_baseline(suite: SAESuite, baseline: Baseline | None) -> list[str]:
    """Also those of layers that the suite lacks, because the baseline's cost is counted."""
    layer_of = suite.manifest.hook_template.layer_of
    return [] if baseline is None else [n for n in baseline.saes if layer_of(n) is not None]


def model_of_suite(
    flags: argparse.Namespace, suite: SAESuite, text: Text, others: Sequence[str] = ()
) -> HookedRootModule:
    """The language model, as the suite says and the flags change it, with the suite's hooks.

    Text that it cannot read is refused. `others` are hooks that it is to have too.
    """
    metadata = _metadata(suite)
    model_name = flags.model_name or suite.manifest.model_name
    if flags.model_name is None and suite.manifest.is_model_local:
        raise ConfigError(
            f"the suite was trained on a model in a folder called {model_name!r}, wherever that "
            "lies now; name it with --model_name"
        )
    model = load_with_hooks(
        flags.model_class_name or metadata.model_class_name or "HookedTransformer",
        model_name,
        list(dict.fromkeys([*suite, *others])),
        flags.device,
        _model_kwargs(flags, metadata.model_from_pretrained_kwargs or {}),
    )
    require_usable_rows(text.path, text.rows, model)
    return model if flags.dtype is None else model.to(getattr(torch, flags.dtype))


def _model_kwargs(flags: argparse.Namespace, of_suite: Mapping[str, Any]) -> dict[str, Any]:
    """How the model is loaded; without its code, unless the user asks for that."""
    if not torch.cuda.is_available():  # where it was trained, there may have been several devices
        of_suite = {name: value for name, value in of_suite.items() if name not in _PLACING}
    if flags.trust_remote_code:
        return {**of_suite, "trust_remote_code": True}
    require_no_remote_code(of_suite, "the suite", "say --trust_remote_code")
    return {name: value for name, value in of_suite.items() if name != "trust_remote_code"}


def _commands(suite: SAESuite, args: Sequence[str]) -> list[str]:
    """What makes the suite and its evaluation again, from beside its folder."""
    again = _command_again(args)
    # Without it the dataset was passed in from Python, and no command knows it.
    if suite.path is None or suite.manifest.dataset_rows_read is None:
        return [again]
    name = suite.path.resolve().name
    train = ("--config_file", f"{name}/{files.RUNNER_CFG}", "--output_path", f"{name}-again")
    return [f"sae-lens-groups train {shlex.join(train)}", again]


def _command_again(args: Sequence[str]) -> str:
    """The command line itself, without paths of this machine."""
    return f"sae-lens-groups evaluate {shlex.join(map(_public_word, args))}"


def _public_word(word: str) -> str:
    """A word of the command line; of a local path, its last name."""
    flag, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
    return f"{flag}{equals}{public(value, is_place=True)}"
