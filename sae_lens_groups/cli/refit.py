"""`sae-lens-groups refit`: gives every layer of a suite a decoder of its own."""

import argparse
from collections.abc import Sequence
from typing import Any

from sae_lens_groups import files
from sae_lens_groups.cli.command_line import OwnFlags, announce, require_no_part
from sae_lens_groups.cli.evaluate import add_model_flags, positive_number


def refit(args: Sequence[str]) -> int:
    """Writes the refitted suite to a new folder, and prints what it was worth."""
    flags = _parser().parse_args(list(args))
    flags.output_path = files.expanded(flags.output_path)
    files.require_free(flags.output_path)
    require_no_part(flags.suite, "refit")
    announce()
    # These import SAELens.
    from sae_lens_groups.activations import CountedRows
    from sae_lens_groups.cli.flags import as_mistakes
    from sae_lens_groups.cli.scoring import model_of_suite, opened_text
    from sae_lens_groups.field_values import require_device
    from sae_lens_groups.suite import SAESuite
    from sae_lens_groups.train import (
        is_text_of_training,
        refit_suite,
        refit_text,
        require_refittable_suite,
    )

    require_device("--device", flags.device)
    suite = SAESuite.load(flags.suite, flags.device)
    require_refittable_suite(suite)
    with as_mistakes():
        text = opened_text(flags, suite, "train")
        model = model_of_suite(flags, suite, text)
        rows: Any = CountedRows.of(text.rows)
        refitted = refit_suite(suite, model, rows, flags.refit_tokens, flags.autocast_lm)
        refitted.save(flags.output_path)
    print(refit_text(refitted))
    print(
        f"\nThe refitted suite lies in {flags.output_path}; score it with sae-lens-groups evaluate."
    )
    if not is_text_of_training(suite, text.rows):
        print(
            f"The decoders were fitted to the first {rows.n_read:,} rows of {text.name}, which the "
            "suite does not remember: score it on other text."
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OwnFlags(
        "refit",
        description="Gives every layer of a suite a decoder of its own: W_dec and b_dec are refitted "
        "to some tokens of that layer by ridge least squares, the latents stay as they are. Writes "
        "a new suite.",
    )
    parser.add_argument("suite", metavar="SUITE", help="the output_path of a training run")
    parser.add_argument("--output_path", required=True, help="the folder of the new suite")
    default = 20_000
    parser.add_argument(
        "--refit_tokens",
        type=positive_number,
        default=default,
        help=f"how many tokens each decoder is refitted to (default: {default})",
    )
    text = "other text, on the Hub or in a folder (default: that of the training)"
    parser.add_argument("--dataset_path", help=text)
    add_model_flags(parser)
    return parser
