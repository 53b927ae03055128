"""`sae-lens-groups features`: shows what a suite's features fire on, on every layer."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sae_lens_groups import files
from sae_lens_groups.cli.command_line import OwnFlags, announce, require_no_part
from sae_lens_groups.cli.evaluate import add_model_flags, add_text_flags

if TYPE_CHECKING:
    from sae_lens_groups.features import SuiteFeatures


def features(args: Sequence[str]) -> int:
    """Looks at the features of every layer, and writes the page and a table."""
    flags = _parser().parse_args(list(args))
    require_no_part(flags.suite, "name")
    announce()
    # These import SAELens.
    from sae_lens_groups.cli.flags import as_mistakes
    from sae_lens_groups.cli.scoring import asked_baseline, model_of_suite, suite_text
    from sae_lens_groups.features import chosen_features
    from sae_lens_groups.field_values import require_device
    from sae_lens_groups.suite import SAESuite

    require_device("--device", flags.device)
    suite = SAESuite.load(flags.suite, flags.device)
    folder = suite.require_folder() / files.FEATURES_FOLDER
    files.require_writable(folder, "the suite")
    chosen_features(suite, flags.features, flags.top)  # a slip in them shows before the model loads
    with as_mistakes():
        baseline = asked_baseline(flags)
        text = suite_text(flags, suite)
        model = model_of_suite(flags, suite, text)
        found = suite.features(
            model,
            text.rows,
            features=flags.features,
            top=flags.top,
            baseline=baseline,
            n_batches=flags.n_eval_batches,
            batch_size_prompts=flags.eval_batch_size_prompts,
            context_size=flags.context_size,
            dataset_name=text.name,
            show_texts=not flags.no_texts,
            autocast_lm=flags.autocast_lm,
        )
    print(_summary(found, folder, text.name))
    return 0


def _summary(found: "SuiteFeatures", folder: Path, dataset_name: str) -> str:
    from sae_lens_groups.errors import counted

    n_features = sum(len(of.feature_C) for of in found.groups)
    return (
        f"{counted(n_features, 'feature')} of {counted(len(found.groups), 'group')} on "
        f"{counted(found.n_tokens, 'token')} of {dataset_name}, in {found.n_bytes / 2**20:,.0f} MiB "
        "however many tokens there are.\n\n"
        f"Look at it: {folder / files.FEATURES_PAGE}\n"
        f"Figures:    {folder / files.FEATURES_TABLE}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = OwnFlags(
        "features",
        description="Shows what the features of a suite fire on, on text that training has not "
        "read: for each feature and layer the strongest examples, how often and how strongly it "
        "fires, the tokens it raises and its nearest features in the other groups. Writes "
        "the folder features into the suite, whose index.html opens without a network.",
    )
    parser.add_argument("suite", metavar="SUITE", help="the output_path of a training run")
    parser.add_argument("--features", help="only these of every group, such as 0-99,512")
    parser.add_argument(
        "--top",
        metavar="KIND[:N]",
        help="only the N (default: 200) of every group that are most dense, rare or layer-specific, "
        "or N random ones",
    )
    parser.add_argument(
        "--baseline",
        metavar="SUITE_OR_SAELENS_FOLDER",
        help="other SAEs, in which the nearest features are looked up too",
    )
    add_text_flags(parser, n_batches=32)
    parser.add_argument(
        "--no_texts", action="store_true", help="leave the dataset's text out of the page"
    )
    add_model_flags(parser)
    return parser
