"""`sae-lens-groups evaluate`: scores a suite's layers, compares them with a baseline, shows both."""

import argparse
from collections.abc import Sequence

from sae_lens_groups import files
from sae_lens_groups.cli.command_line import OwnFlags, announce, require_no_part


def evaluate(args: Sequence[str]) -> int:
    """Scores every layer, prints the table, and writes CSV, JSON and `report.html`."""
    flags = _parser().parse_args(list(args))
    require_no_part(flags.suite, "evaluate")
    announce()
    # These import SAELens.
    from sae_lens_groups.cli.scoring import score_suite, score_sweep
    from sae_lens_groups.saved import is_sweep_folder

    is_sweep = is_sweep_folder(files.expanded(flags.suite))
    return (score_sweep if is_sweep else score_suite)(flags, args)


def _parser() -> argparse.ArgumentParser:
    parser = OwnFlags(
        "evaluate",
        description="Scores every layer of a suite with SAELens's metrics, on text that training "
        "has not read; prints the table and writes evaluation.csv, the folder evaluation and "
        "report.html into the suite. Of a sweep, does so for every suite on the same tokens, and writes "
        "sweep.html, the page to choose a setting from, and sweep.csv beside them.",
    )
    parser.add_argument(
        "suite", metavar="SUITE", help="the output_path of a training run or a sweep"
    )
    parser.add_argument(
        "--baseline",
        metavar="SUITE_OR_SAELENS_FOLDER",
        help="another suite, the folder of a SAELens SAE or one that holds several, or on the Hub "
        "owner/repo or release:sae_id (with * for several layers): layers that both have are compared on the same tokens",
    )
    add_text_flags(parser, n_batches=8)
    parser.add_argument(
        "--tasks",
        default="none",
        help="circuit tasks to measure faithfulness on: all, none (default), or some of "
        "closing_bracket, greater_than, ioi, subject_verb, with commas",
    )
    add_model_flags(parser)
    return parser


def add_text_flags(parser: argparse.ArgumentParser, n_batches: int) -> None:
    """The flags that say which text a command reads, and how much of it."""
    text = "other text, on the Hub or in a folder (default: rows that training has not read)"
    parser.add_argument("--dataset_path", help=text)
    parser.add_argument("--context_size", type=positive_number, help="default: as in training")
    for flag, default, what in (
        ("--n_eval_batches", n_batches, "LM batches"),
        ("--eval_batch_size_prompts", 16, "prompts per LM batch"),
    ):
        shown = f"{what} (default: {default})"
        parser.add_argument(flag, type=positive_number, default=default, help=shown)


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say which language model a command runs on a suite's text, and how."""
    parser.add_argument("--model_name", help="default: the model that the suite was trained on")
    parser.add_argument("--model_class_name", help="default: as in training")
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run code that comes with the model or the dataset; never because the suite says so",
    )
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument(
        "--autocast_lm",
        type=_yes_or_no,
        nargs="?",
        const=True,
        help="whether the language model computes in bfloat16, True or False (default: as in training)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="of the language model's weights (default: as they were loaded for training)",
    )


def _yes_or_no(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return text.lower() == "true"


def positive_number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)
