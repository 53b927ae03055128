"""Whatever `layer_groups` and the files of plans and suites say: it is read, or refused clearly."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_groups import GroupPlan, LayerGroup, SAESuite, plan_groups
from sae_lens_groups.errors import GroupSAEError, LayerGroupsError, PlanError, SuiteError
from sae_lens_groups.files.folder import CheckedFolder
from sae_lens_groups.layers import HookTemplate, format_layer_groups, parse_ranges
from sae_lens_groups.plan.cost import SuiteCost
from sae_lens_groups.plan.distances import LayerDistances
from sae_lens_groups.plan.rule import PartitionRule, parse_layer_groups, resolve
from sae_lens_groups.plan.text import plan_text
from sae_lens_groups.plugins import partitions
from sae_lens_groups.saved.manifest import SuiteManifest
from sae_lens_groups.saved.suite import SavedSuite
from sae_lens_groups.saved.transfer_report import LayerTransfer, TransferReport

from .fuzzing import damaged, damaged_file, fuzzed, message_of, texts

TEMPLATE = HookTemplate("blocks.", ".hook_resid_post")


def distances_of(n_layers: int) -> LayerDistances:
    """Layers on a line."""
    layers = 0.03 * np.arange(n_layers)
    return LayerDistances(
        metric="angular",
        matrix=np.abs(layers[:, None] - layers),
        standard_errors=0.01 * (1 - np.eye(n_layers)),
        n_tokens=1000,
        model_name="tiny",
        hook_template=TEMPLATE,
    )


PLAN = plan_groups(
    distances_of(4),
    "auto:2",
    flops=SuiteCost(unit="FLOPs", lm_forward=10.0, sae_step=1.0, n_layers=4),
    seconds=SuiteCost(unit="seconds", lm_forward=0.1, sae_step=0.01, n_layers=4),
)
MANIFEST = SuiteManifest(
    groups=PLAN.groups,
    hook_template=TEMPLATE,
    scaling_factors={0: 0.5, 1: 1.5, 2: None, 3: None},
    model_name="tiny",
    versions={"sae-lens-groups": "0.7.0"},
    layer_alignment="orthogonal",
    plan=PLAN,
    transfer=TransferReport(
        init_from="source",
        init_direction="nearest",
        init_parameters="all",
        init_alignment="scale",
        layers={
            TEMPLATE.hook_name(layer): LayerTransfer(
                source_hook_name=TEMPLATE.hook_name(source),
                zero_shot={"explained_variance": 0.5},
                final={"explained_variance": 0.75},
            )
            for layer, source in {0: 1, 3: 3}.items()
        },
    ),
    is_model_local=True,
    dataset_rows_read=100,
    sae_step_flops=2.5e6,
    training_step="fast",
)


def require_sound(groups: tuple[LayerGroup, ...], n_layers: int) -> None:
    """Groups are never empty, share no layer, are in order, and lie within the model."""
    layers = [layer for group in groups for layer in group.layers]
    assert layers
    assert layers == sorted(set(layers))
    assert all(type(layer) is int and 0 <= layer < n_layers for layer in layers)
    assert all(list(group.layers) == list(range(group.first, group.last + 1)) for group in groups)


# --- layer_groups ---

_numbers = st.one_of(
    st.integers(0, 13).map(str), st.sampled_from(["", "-1", "007", "1e3", "9" * 30, "9" * 5000])
)
_ranges = st.builds(
    "{}{}{}".format, _numbers, st.sampled_from(["", "-", " - ", "--", ":"]), _numbers
)
_rules = st.builds(
    "{}{}{}".format,
    st.sampled_from(["each", "even", "auto", "optimal", "linkage", "manual", "Even", "even "]),
    st.sampled_from(["", ":", "::", " : "]),
    st.one_of(_numbers, st.sampled_from(["2", "x", "²", "٣"])),
)
layer_groups_texts = st.one_of(
    st.text(max_size=20),
    st.text("0123456789-,: ", max_size=20),
    st.builds(str.join, st.sampled_from([",", ", ", ",,", ";"]), st.lists(_ranges, max_size=5)),
    _rules,
    texts,
    st.builds("{}{}".format, texts, st.sampled_from(["/", "\\", ".json", "/plan.json"])),
)


@fuzzed(300)
@given(text=layer_groups_texts, n_layers=st.integers(2, 14))
def test_layer_groups_are_sound_groups_or_a_clear_error(text: str, n_layers: int) -> None:
    try:
        rule = parse_layer_groups(text)
        if isinstance(rule, PartitionRule):
            groups = resolve(rule, n_layers, partitions(), distances_of(n_layers))
        else:
            groups = GroupPlan.load(rule.path).groups
    except GroupSAEError as error:
        message_of(error)
        return
    require_sound(groups, n_layers)
    assert parse_ranges(format_layer_groups(groups)) == groups


@fuzzed(300)
@given(layers=st.lists(st.one_of(st.integers(-2, 9), st.floats(-1, 3), st.booleans()), max_size=5))
def test_layers_make_a_sound_group_or_a_clear_error(layers: list[Any]) -> None:
    try:
        group = LayerGroup.from_layers(layers)
    except LayerGroupsError as error:
        message_of(error)
        return
    require_sound((group,), 10)
    assert list(group.layers) == sorted(layers)


# --- plan files ---


@fuzzed(150)
@given(content=damaged_file(PLAN.to_dict()))
def test_a_damaged_plan_file_is_a_sound_plan_or_a_plan_error(content: bytes) -> None:
    Path("plan.json").write_bytes(content)
    try:
        plan = GroupPlan.load("plan.json")
    except PlanError as error:
        message_of(error)
        return
    require_sound_plan(plan)


@fuzzed(150)
@given(content=damaged(PLAN.to_dict()))
def test_damaged_plan_content_is_a_sound_plan_or_a_plan_error(content: Any) -> None:
    try:
        plan = GroupPlan.from_dict(content)
    except PlanError as error:
        message_of(error)
        return
    require_sound_plan(plan)


def require_sound_plan(plan: GroupPlan) -> None:
    n_layers = plan.distances.n_layers
    for level in (plan.chosen, *plan.hierarchy):
        require_sound(level.groups, n_layers)
        assert np.isfinite([level.amad, level.weighted_amad, level.max_diameter]).all()
        assert level.cost is None or 0 < level.cost <= 1
    require_file_names(plan.hook_template, plan.groups)
    assert plan_text(plan, 10**6)
    again = GroupPlan.from_json(plan.to_json())
    assert again.to_dict() == plan.to_dict()


# --- suite.json ---


@fuzzed(150)
@given(content=damaged_file(MANIFEST.to_dict()))
def test_a_damaged_suite_json_is_a_sound_manifest_or_a_suite_error(content: bytes) -> None:
    Path("suite.json").write_bytes(content)
    try:
        manifest = SavedSuite(CheckedFolder(Path())).manifest
    except SuiteError as error:
        message_of(error)
        return
    require_sound(manifest.groups, 10**9)
    require_file_names(manifest.hook_template, manifest.groups)
    assert SuiteManifest.from_json(manifest.to_json()) == manifest or manifest.plan is not None
    assert all(factor is None or factor > 0 for factor in manifest.scaling_factors.values())
    assert manifest.trained_groups is not None
    with pytest.raises(SuiteError, match="lacks the folders"):
        SAESuite.load(".")


@fuzzed(300)
@given(template=st.one_of(texts, st.builds("{}{}{}".format, texts, st.just("{layer}"), texts)))
def test_no_hook_template_leads_out_of_the_suite(template: str) -> None:
    text = MANIFEST.to_json().replace(str(TEMPLATE), json.dumps(template)[1:-1])
    text = text.replace('"blocks.', json.dumps(template.partition("{layer}")[0])[:-1])
    text = text.replace('.hook_resid_post"', json.dumps(template.partition("{layer}")[2])[1:])
    try:
        manifest = SuiteManifest.from_json(text)
    except SuiteError as error:
        message_of(error)
        return
    require_file_names(manifest.hook_template, manifest.groups)


def require_file_names(template: HookTemplate, groups: tuple[LayerGroup, ...]) -> None:
    """Each hook's name is that of one entry of a folder, and its layer can be told from it."""
    for group in groups:
        for layer in group.layers:
            name = template.hook_name(layer)
            assert (Path("suite") / name).resolve().parent == Path("suite").resolve()
            assert not {"/", "\\", ":", "\0"} & set(name)
            assert template.layer_of(name) == layer
            Path(name).mkdir(exist_ok=True)
            Path(name).rmdir()
