"""`sae-lens-groups publish`: puts a suite on the Hugging Face Hub."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sae_lens_groups import files
from sae_lens_groups.cli.command_line import OwnFlags, announce, require_no_part
from sae_lens_groups.errors import ConfigError, counted

if TYPE_CHECKING:  # they bring SAELens, which takes seconds to import
    from sae_lens_groups.publish import Publication, PublishOptions
    from sae_lens_groups.suite import SAESuite

_NO_MODEL = "no model on the Hub, so that others cannot load it; name it with --base_model"


def publish(args: Sequence[str]) -> int:
    """Publishes a suite and says where, or shows what would be published."""
    flags = _parser().parse_args(list(args))
    if files.exists(flags.repo_id) and not files.exists(flags.suite):
        raise ConfigError(
            f"{flags.suite!r} is not a folder, and {flags.repo_id!r} is one; the suite comes first: "
            f"publish {shlex.join([flags.repo_id, flags.suite])}"
        )
    require_no_part(flags.suite, "publish")
    announce()
    # These import SAELens.
    from sae_lens_groups.publish import PublishOptions, prepared, pretrained_entry
    from sae_lens_groups.saved import require_repo_id
    from sae_lens_groups.suite import SAESuite

    require_repo_id(flags.repo_id)
    options = PublishOptions(
        private=flags.private or None,
        revision=flags.revision,
        token=flags.token,
        create_pr=flags.create_pr,
        base_model=flags.base_model,
        dataset_name=flags.dataset_name,
        license=flags.license,
        allow=flags.allow,
        features=flags.features,
    )
    suite = SAESuite.load(flags.suite)
    if flags.dry_run or flags.yaml:
        with suite.whole_folder("publishing") as folder:
            publication = prepared(folder, suite.manifest, flags.repo_id, options)
            if publication.facts.base_model is None:
                print(f"warning: the card names {_NO_MODEL}", file=sys.stderr)
            shown = pretrained_entry(publication.facts) if flags.yaml else _listing(publication)
            print(shown, end="")
    else:
        _publish(suite, flags.repo_id, options)
    return 0


def _listing(publication: "Publication") -> str:
    contents = publication.with_card()
    sizes = {path: _size(content) for path, content in contents.items()}
    lines = [f"{size:>14,}  {path}" for path, size in sorted(sizes.items())]
    total = f"{sum(sizes.values()):>14,}  bytes in {len(sizes)} files; nothing was published"
    card = contents[files.CARD]
    return "\n".join([*lines, total, "", f"{files.CARD}:", "", str(card)])


def _size(content: Path | str) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content.encode())


def _publish(suite: "SAESuite", repo_id: str, options: "PublishOptions") -> None:
    from sae_lens_groups.publish import publish_suite_folder

    groups = counted(len(suite.groups), "group")
    print(f"Publishing {counted(len(suite), 'layer')} in {groups} to {repo_id} ...", flush=True)
    with suite.whole_folder("publishing") as folder:
        if options.features:
            page = [*(folder / files.FEATURES_FOLDER).rglob("*.*")]
            size = sum(map(_size, page)) / 2**20
            print(f"With the page of features, {size:.1f} MiB, and the dataset's texts on it.")
        published = publish_suite_folder(folder, suite.manifest, repo_id, options)
    if not published.is_changed:
        print(f"Unchanged: {published.url} holds exactly this already, and no commit was made.")
        return
    deleted = f", {published.n_deleted} deleted that are not in it" if published.n_deleted else ""
    print(
        f"Published: {published.url} ({counted(published.n_sent, 'file')} new or changed{deleted})"
    )
    revision = published.pr_revision or options.revision
    if revision in (None, "main"):
        print(f'    SAE.from_pretrained("{repo_id}", "{next(iter(suite))}")')
    else:  # which SAELens does not take
        print(f'    SAESuite.from_pretrained("{repo_id}", revision="{revision}")')
    if published.license is None:
        print("Its card names no licence; add one with --license, such as --license mit.")
    if published.base_model is None:
        print(f"Its card names {_NO_MODEL}.")


def _parser() -> argparse.ArgumentParser:
    parser = OwnFlags(
        "publish",
        description="Puts a suite on the Hugging Face Hub in one commit, with a model card; every "
        "layer then loads in plain SAELens. Publishing again sends what has changed. Local paths "
        "become names, and nothing is sent while a path, a user name or a secret is left.",
    )
    parser.add_argument("suite", metavar="SUITE", help="the output_path of a training run")
    parser.add_argument(
        "repo_id", metavar="REPO_ID", help="owner/name; created if it does not exist"
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", help="the branch (default: main, all that SAELens reads)")
    parser.add_argument(
        "--token",
        help="default: HF_TOKEN, or that of `hf auth login`; others see a command's flags",
    )
    parser.add_argument(
        "--features",
        action="store_true",
        help="publish the page of features too, with the texts of the dataset that it shows",
    )
    parser.add_argument("--create_pr", action="store_true", help="propose it as a pull request")
    _add_said(parser)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--dry_run",
        action="store_true",
        help="publish nothing: list the files that would go up, and show the card",
    )
    shown.add_argument(
        "--yaml",
        action="store_true",
        help="publish nothing; print the suite's entry for SAELens's pretrained_saes.yaml",
    )
    return parser


def _add_said(parser: argparse.ArgumentParser) -> None:
    """What the card says, and what may be public."""
    parser.add_argument(
        "--base_model", metavar="ID", help="the model's id on the Hub, if a local copy was used"
    )
    parser.add_argument(
        "--dataset_name", metavar="ID", help="the training text's id on the Hub, likewise"
    )
    parser.add_argument("--license", help="of the SAEs, as the Hub writes it, such as mit")
    parser.add_argument(
        "--allow",
        metavar="TEXT",
        action="append",
        default=[],
        help="a text that looks private and may be published; may be given several times",
    )
