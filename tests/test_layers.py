"""Groups of layers and hook names."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_groups import GroupPlan, LayerGroup
from sae_lens_groups.errors import GroupSAEError, HookNameError, LayerGroupsError, PlanError
from sae_lens_groups.layers import HookTemplate, format_layer_groups, parse_ranges
from sae_lens_groups.plan.rule import PartitionRule, PlanFile, parse_layer_groups, resolve
from sae_lens_groups.plugins import partitions


def layers_of(layer_groups: str, n_layers: int) -> list[list[int]]:
    rule = parse_layer_groups(layer_groups)
    assert isinstance(rule, PartitionRule)
    groups = resolve(rule, n_layers, partitions())
    return [list(group.layers) for group in groups]


def test_explicit_groups_are_the_layers_they_name() -> None:
    assert layers_of("0-3,4-7,8-10,11", 12) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10], [11]]


def test_explicit_groups_may_leave_layers_out_and_come_in_any_order() -> None:
    assert layers_of(" 6 - 7 , 2", 12) == [[2], [6, 7]]


def test_each_is_one_group_per_layer() -> None:
    assert layers_of("each", 3) == [[0], [1], [2]]


def test_even_is_near_equal_runs_and_the_last_layer_alone() -> None:
    assert layers_of("even:3", 12) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10], [11]]
    assert layers_of("even:1", 3) == [[0, 1], [2]]


@given(n_layers=st.integers(2, 100), data=st.data())
def test_even_covers_every_layer_once_in_runs_that_differ_by_one(
    n_layers: int, data: st.DataObject
) -> None:
    n_groups = data.draw(st.integers(1, n_layers - 1))
    groups = layers_of(f"even:{n_groups}", n_layers)
    assert [layer for group in groups for layer in group] == list(range(n_layers))
    lengths = [len(group) for group in groups[:-1]]
    assert len(lengths) == n_groups
    assert max(lengths) - min(lengths) <= 1
    assert len(groups[-1]) == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8))
def test_groups_survive_being_written_and_read(gaps_and_lengths: list[tuple[int, int]]) -> None:
    groups: list[LayerGroup] = []
    layer = 0
    for gap, length in gaps_and_lengths:
        groups.append(LayerGroup(layer + gap, layer + gap + length))
        layer += gap + length + 1
    assert parse_ranges(format_layer_groups(groups)) == tuple(groups)


@given(st.text(max_size=20), st.integers(1, 40))
def test_any_text_is_groups_or_a_clear_error(text: str, n_layers: int) -> None:
    with contextlib.suppress(GroupSAEError):
        if isinstance(parse_layer_groups(text), PlanFile):
            return
        layers = [layer for group in layers_of(text, n_layers) for layer in group]
        assert layers == sorted(set(layers))
        assert max(layers) < n_layers


@given(st.sets(st.integers(0, 12), min_size=1))
def test_from_layers_takes_exactly_the_runs_without_gaps(layers: set[int]) -> None:
    has_gap = max(layers) - min(layers) + 1 != len(layers)
    if has_gap:
        with pytest.raises(LayerGroupsError, match="leave a gap"):
            LayerGroup.from_layers(layers)
    else:
        assert set(LayerGroup.from_layers(layers).layers) == layers


@pytest.mark.parametrize(
    ("layer_groups", "message"),
    [
        ("", "layer_groups is empty; give groups such as 0-3,4-7,11"),
        ("0-3,", "has an empty group between its commas"),
        ("0-3,x", "has 'x' between its commas; each part is a layer such as 11 or a range"),
        ("3-0", "the range 3-0 runs backwards; write 0-3"),
        ("0-3,3-5", "groups 0-3 and 3-5 overlap in layer 3"),
        ("0-12", "group 0-12 reaches beyond the model, whose 12 layers are 0-11"),
        ("even", "layer_groups 'even' needs a number of groups, such as even:4"),
        ("even:0", "it must be a whole number of at least 1"),
        ("0-" + "9" * 5000, "each part is a layer such as 11 or a range"),
        ("even:" + "9" * 5000, "it must be a whole number of at least 1"),
        ("even:x", "the number of groups after the colon is 'x'"),
        ("even:12", "asks for 12 groups, and there are 11 layers to group; ask for at most 11"),
        ("each:3", "'each:3' has a number, but each takes none; write each, or even:3"),
        ("manual", "layer_groups 'manual' names no groups; write them out, such as 0-3,4-7,11"),
        (
            "thirds",
            "'thirds' is not known; known rules: auto, each, even, linkage, manual, optimal",
        ),
    ],
)
def test_wrong_layer_groups_say_what_to_write(layer_groups: str, message: str) -> None:
    with pytest.raises(GroupSAEError) as caught:
        layers_of(layer_groups, 12)
    assert message in str(caught.value)


def test_a_path_of_a_json_file_is_a_plan() -> None:
    assert parse_layer_groups(" my_plan/plan.json ") == PlanFile(Path("my_plan/plan.json"))


@pytest.mark.parametrize("path", ["~nobody-here/plan.json", "nul\0.json", "\ud800/"])
def test_a_path_that_cannot_exist_is_a_missing_plan(path: str) -> None:
    rule = parse_layer_groups(path)
    assert isinstance(rule, PlanFile)
    with pytest.raises(PlanError, match="cannot be read"):
        GroupPlan.load(rule.path)


@pytest.mark.parametrize("layers", [[0.5], [True], ["3"], [0, 1.0]])
def test_a_layer_is_a_whole_number(layers: list[Any]) -> None:
    with pytest.raises(LayerGroupsError, match="is not a whole number"):
        LayerGroup.from_layers(layers)


@pytest.mark.parametrize(
    "text", ["blocks", "x{layer}", "a.3.{layer}", "c:d.{layer}", "\x1b.{layer}"]
)
def test_a_hook_template_without_a_usable_place_for_the_layer_is_refused(text: str) -> None:
    with pytest.raises(HookNameError):
        HookTemplate.from_text(text)


def test_a_gap_inside_a_group_names_the_layers() -> None:
    with pytest.raises(LayerGroupsError) as caught:
        LayerGroup.from_layers([3, 5])
    assert str(caught.value) == (
        "layers 3 and 5 leave a gap; a group needs neighbouring layers such as 3-5"
    )


def test_group_names() -> None:
    assert LayerGroup(0, 3).name == "layers_0-3"
    assert LayerGroup(11, 11).name == "layers_11"


@pytest.mark.parametrize(
    ("hook_name", "layer", "at_seven"),
    [
        ("blocks.3.hook_resid_post", 3, "blocks.7.hook_resid_post"),
        ("blocks.10.attn.hook_z", 10, "blocks.7.attn.hook_z"),
        ("gpt_neox.layers.3", 3, "gpt_neox.layers.7"),
        ("model.layers.2.experts.5.out", 2, "model.layers.7.experts.5.out"),
    ],
)
def test_the_layer_number_is_the_variable_part(hook_name: str, layer: int, at_seven: str) -> None:
    template = HookTemplate.from_hook_name(hook_name)
    assert template.layer_of(hook_name) == layer
    assert template.hook_name(7) == at_seven
    assert template.layer_of(at_seven) == 7
    assert template.layer_of("blocks.3.hook_resid_mid") is None


@pytest.mark.parametrize("hook_name", ["hook_embed", "ln_final.hook_normalized", "h3.mlp"])
def test_a_hook_without_a_layer_number_is_refused(hook_name: str) -> None:
    with pytest.raises(HookNameError, match="has no layer number"):
        HookTemplate.from_hook_name(hook_name)
