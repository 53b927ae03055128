"""`sae-lens-groups plugins`: who registered what."""

import argparse
from collections.abc import Sequence

from sae_lens_groups.plugins import registrations


def plugins(args: Sequence[str]) -> int:
    """Prints each registered name with its hook and the plugin it came from."""
    parser = argparse.ArgumentParser(
        prog="sae-lens-groups plugins",
        description="Lists the names that plugins registered. A package joins by an entry point "
        "in the group 'sae_lens_groups'.",
    )
    parser.parse_args(args)
    rows = [("HOOK", "NAME", "PLUGIN")]
    rows += [(entry.hook, entry.name, entry.plugin) for entry in registrations()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    return 0
