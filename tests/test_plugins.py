"""Our own choices and other packages' come through the same hooks."""

import inspect
from collections.abc import Callable, Iterator, Sequence

import pytest

from sae_lens_groups import LayerGroup, hookimpl, hookspecs
from sae_lens_groups.cli import main
from sae_lens_groups.errors import ConfigError
from sae_lens_groups.plan.rule import Partition, PartitionRequest
from sae_lens_groups.plugins import partitions, plugin_manager, registrations
from sae_lens_groups.train.prepare import settle

from .tiny import group_config


class Halves:
    """Another package's plugin."""

    def __init__(self, name: str = "halves") -> None:
        self.name = name

    @hookimpl
    def register_partitions(self, register: Callable[[str, Partition], None]) -> None:
        def halves(request: PartitionRequest) -> Sequence[LayerGroup]:
            half = request.n_layers // 2
            return [LayerGroup(0, half - 1), LayerGroup(half, request.n_layers - 1)]

        register(self.name, Partition(halves, takes_n_groups=False, decides_last_layer=True))


@pytest.fixture
def halves() -> Iterator[None]:
    plugin = Halves()
    plugin_manager().register(plugin, name="some-package")
    yield
    plugin_manager().unregister(plugin)


def test_our_own_choices_are_registered_through_the_hooks() -> None:
    assert [(entry.hook, entry.name) for entry in registrations()] == [
        ("register_alignments", "affine"),
        ("register_alignments", "orthogonal"),
        ("register_alignments", "scale"),
        ("register_fast_steps", "abstopk"),
        ("register_fast_steps", "batchtopk"),
        ("register_fast_steps", "jumprelu"),
        ("register_fast_steps", "matryoshka_batchtopk"),
        ("register_fast_steps", "standard"),
        ("register_fast_steps", "topk"),
        ("register_layer_distances", "angular"),
        ("register_layer_distances", "cka"),
        ("register_layer_distances", "cosine"),
        ("register_partitions", "auto"),
        ("register_partitions", "each"),
        ("register_partitions", "even"),
        ("register_partitions", "linkage"),
        ("register_partitions", "manual"),
        ("register_partitions", "optimal"),
    ]
    assert {entry.plugin for entry in registrations()} == {"sae_lens_groups"}


@pytest.mark.usefixtures("halves")
def test_another_packages_partition_works_as_layer_groups() -> None:
    cfg = group_config("halves")
    assert settle(cfg).groups_of(4) == (LayerGroup(0, 1), LayerGroup(2, 3))


def test_a_plugin_is_gone_once_it_is_unregistered() -> None:
    assert "halves" not in partitions()


def test_two_plugins_of_one_name_are_both_named() -> None:
    plugin = Halves("even")
    plugin_manager().register(plugin, name="some-package")
    try:
        with pytest.raises(ConfigError, match=r"'some-package'.*both register 'even'"):
            partitions()
    finally:
        plugin_manager().unregister(plugin)


@pytest.mark.usefixtures("halves")
def test_the_plugins_command_shows_who_registered_what(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["HOOK", "NAME", "PLUGIN"]
    lines = [" ".join(line.split()) for line in lines]
    assert "register_layer_distances angular sae_lens_groups" in lines
    assert "register_fast_steps matryoshka_batchtopk sae_lens_groups" in lines
    assert "register_partitions halves some-package" in lines


def test_every_hook_is_a_typed_function_whose_body_is_its_docstring() -> None:
    hooks = [value for name, value in vars(hookspecs).items() if name.startswith("register_")]
    assert hooks
    for hook in hooks:
        assert inspect.getdoc(hook)
        assert inspect.signature(hook).return_annotation is None
        assert all(
            parameter.annotation is not inspect.Parameter.empty
            for parameter in inspect.signature(hook).parameters.values()
        )
