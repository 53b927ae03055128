"""The suites that several processes write, each its groups."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sae_lens_groups import files
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.saved import finish_suite, write_groups, write_sweep_index
from sae_lens_groups.suite import SAESuite
from sae_lens_groups.train.ranks.world import World
from sae_lens_groups.train.sweep import Setting, index_of

Save = Callable[[Setting, str | None], SAESuite]
"""Gives the suite of a setting, written into a folder where one is named."""


def saved_by_all(
    world: World, suite: SAESuite, own: Sequence[LayerGroup], output_path: str
) -> SAESuite:
    """The suite in its folder, complete or absent, of which each process writes its own groups."""
    if world.size == 1:
        suite.save(files.free_folder(output_path))
        return suite
    source = suite.source
    with _new_folder(world, output_path) as (path, folder):
        world.agreed(lambda: write_groups(source, folder, own))
        world.of_first(lambda: finish_suite(source, folder))
    return world.agreed(lambda: SAESuite.load(path))


def all_saved(
    world: World,
    cfg: GroupSAERunnerConfig[Any],
    settings: Sequence[Setting],
    save: Save,
) -> dict[str, SAESuite]:
    """The suites by their settings' names: of a sweep beside one another in a folder, all or none."""
    if cfg.sweep is None or cfg.output_path is None:
        return {one.name: save(one, cfg.output_path) for one in settings}
    with _new_folder(world, cfg.output_path) as (path, folder):
        for setting in settings:
            save(setting, str(folder / setting.name))
        world.of_first(lambda: write_sweep_index(folder, index_of(settings)))
    return world.agreed(lambda: {one.name: SAESuite.load(path / one.name) for one in settings})


@contextmanager
def _new_folder(world: World, output_path: str) -> Iterator[tuple[Path, Path]]:
    """Where a folder is to lie in the end, and where all processes write it until then."""
    with ExitStack() as stack:

        def begin() -> tuple[Path, Path]:
            # Taken while we trained? What is finished is not to be lost to that.
            path = files.free_folder(output_path)
            return path, stack.enter_context(files.new_folder(path))

        yield world.of_first(begin)
        world.of_first(stack.close)
