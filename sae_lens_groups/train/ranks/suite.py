"""The suite that several processes write, each its groups."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from sae_lens_groups import files
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.saved import finish_suite, write_groups
from sae_lens_groups.suite import SAESuite
from sae_lens_groups.train.ranks.world import World


def saved_by_all(
    world: World, suite: SAESuite, own: Sequence[LayerGroup], output_path: str
) -> SAESuite:
    """The suite in its folder, complete or absent, of which each process writes its own groups."""
    if world.size == 1:
        suite.save(files.free_folder(output_path))
        return suite
    source = suite.source
    with ExitStack() as stack:

        def begin() -> tuple[Path, Path]:
            # Taken while we trained? A finished suite is not to be lost to that.
            path = files.free_folder(output_path)
            return path, stack.enter_context(files.new_folder(path))

        path, folder = world.of_first(begin)
        world.agreed(lambda: write_groups(source, folder, own))

        def finish() -> None:
            finish_suite(source, folder)
            stack.close()

        world.of_first(finish)
    return world.agreed(lambda: SAESuite.load(path))
