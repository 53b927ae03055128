"""Partitions, plans and costs: against brute force, by rule, and on disk."""

import importlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_lens import HookedTransformer

from sae_lens_groups import (
    GroupPlan,
    GroupSAETrainingRunner,
    LayerGroup,
    SAESuite,
    hookimpl,
    plan_groups,
)
from sae_lens_groups.errors import (
    CheckpointError,
    ConfigError,
    GroupSAEError,
    LayerGroupsError,
    PlanError,
    UnknownNameError,
)
from sae_lens_groups.layers import HookTemplate, format_layer_groups
from sae_lens_groups.plan.cost import SuiteCost
from sae_lens_groups.plan.distances import LayerDistances
from sae_lens_groups.plan.even import even
from sae_lens_groups.plan.rule import Partition, parse_layer_groups
from sae_lens_groups.plugins import plugin_manager
from sae_lens_groups.train.cost import count_flops, time_steps
from sae_lens_groups.train.prepare import settle

from .tiny import (
    ARCHITECTURES,
    CONTEXT_SIZE,
    D_IN,
    D_SAE,
    N_LAYERS,
    group_config,
    make_model,
    sae_config,
)

TEMPLATE = HookTemplate("blocks.", ".hook_resid_post")


def distances(matrix: Any, model_name: str = "tiny") -> LayerDistances:
    matrix = np.array(matrix, dtype=np.float64)
    return LayerDistances(
        metric="angular",
        matrix=matrix,
        standard_errors=np.full_like(matrix, 0.001) * (1 - np.eye(len(matrix))),
        n_tokens=1000,
        model_name=model_name,
        hook_template=TEMPLATE,
    )


def on_a_line(*positions: float) -> LayerDistances:
    """Layers that lie on a line, so that distances can be read off."""
    line = np.array(positions)
    return distances(np.abs(line[:, None] - line[None]))


def names(plan: GroupPlan) -> str:
    return format_layer_groups(plan.groups)


@st.composite
def random_distances(draw: st.DrawFn, most_layers: int = 8) -> LayerDistances:
    """Whole numbers from a small range, so that ties are common and sums exact."""
    n_layers = draw(st.integers(2, most_layers))
    n_pairs = n_layers * (n_layers - 1) // 2
    values = draw(st.lists(st.integers(0, 6), min_size=n_pairs, max_size=n_pairs))
    matrix = np.zeros((n_layers, n_layers))
    matrix[np.triu_indices(n_layers, 1)] = values
    return distances(matrix + matrix.T)


def all_partitions(n_layers: int, n_groups: int) -> Iterator[list[list[int]]]:
    for cuts in combinations(range(1, n_layers), n_groups - 1):
        yield [list(range(a, b)) for a, b in pairwise((0, *cuts, n_layers))]


def levels(measured: LayerDistances, partition: str) -> list[list[list[int]]]:
    """The groups for 1, 2, ... groups of all layers."""
    plan = plan_groups(measured, f"{partition}:1", last_layer="grouped")
    return [[list(group.layers) for group in level.groups] for level in plan.hierarchy]


# --- linkage ---


def brute_force_linkage(matrix: np.ndarray) -> list[list[list[int]]]:
    """From single layers: of all merges of neighbours, the one of the closest pair; lowest first."""
    runs = [[layer] for layer in range(len(matrix))]
    found = [runs]
    while len(runs) > 1:
        merges = [
            (max(matrix[a, b] for a, b in product(runs[n], runs[n + 1])), n)
            for n in range(len(runs) - 1)
        ]
        n = min(merges)[1]
        runs = [*runs[:n], runs[n] + runs[n + 1], *runs[n + 2 :]]
        found.append(runs)
    return found[::-1]


@given(random_distances())
def test_linkage_is_complete_linkage_of_neighbours(measured: LayerDistances) -> None:
    assert levels(measured, "linkage") == brute_force_linkage(measured.matrix)


@given(random_distances())
def test_linkage_is_nested_and_its_widest_group_shrinks(measured: LayerDistances) -> None:
    plan = plan_groups(measured, last_layer="grouped", amad_threshold=0.5)
    for fewer, more in pairwise(plan.hierarchy):
        assert all(any({*g.layers} <= {*big.layers} for big in fewer.groups) for g in more.groups)
        assert more.max_diameter <= fewer.max_diameter
        assert more.weighted_amad <= fewer.weighted_amad


def test_amad_itself_may_rise_with_more_groups() -> None:
    # Two far pairs that are equally far from each other: merging them leaves a smaller mean.
    measured = distances([[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]])
    amads = [level.amad for level in plan_groups(measured, last_layer="grouped").hierarchy]
    assert amads == [1, 0.5, 0, 0]
    measured = distances([[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]])
    amads = [level.amad for level in plan_groups(measured, last_layer="grouped").hierarchy]
    assert amads == [1, 0.5, 1 / 3, 0]


def test_of_equally_close_pairs_the_lowest_is_merged() -> None:
    assert levels(on_a_line(0, 1, 2, 3), "linkage")[2] == [[0, 1], [2], [3]]


# --- optimal ---


@settings(deadline=None)
@given(random_distances(most_layers=10))
def test_optimal_is_the_best_of_all_partitions(measured: LayerDistances) -> None:
    def inside(groups: list[list[int]]) -> float:
        return sum(measured.matrix[a, b] for group in groups for a, b in combinations(group, 2))

    for n_groups, found in enumerate(levels(measured, "optimal"), start=1):
        # Of equally good ones: the longest last group, then the longest before it, and so on.
        best = min(
            all_partitions(measured.n_layers, n_groups),
            key=lambda groups: (inside(groups), [group[0] for group in reversed(groups)]),
        )
        assert found == best


def test_minimising_amad_itself_would_leave_one_giant_group() -> None:
    measured = on_a_line(*range(12))

    def amad(groups: list[list[int]]) -> float:
        return float(np.mean([group[-1] - group[0] for group in groups]))

    assert min(all_partitions(12, 4), key=amad) == [[0], [1], [2], list(range(3, 12))]
    assert levels(measured, "optimal")[3] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


# --- plans ---


def test_a_level_knows_what_it_gives_up() -> None:
    plan = plan_groups(on_a_line(0, 0.1, 0.2, 0.5, 0.6, 1.6), "0-2,3-4,5")
    assert plan.chosen.n_groups == 2  # the last layer stays alone
    assert plan.chosen.amad == pytest.approx((0.2 + 0.1) / 2)
    assert plan.chosen.weighted_amad == pytest.approx((3 * 0.2 + 2 * 0.1) / 5)
    assert plan.chosen.max_diameter == pytest.approx(0.2)
    assert plan.chosen_by == "as named"


def test_auto_takes_the_fewest_groups_below_the_threshold() -> None:
    measured = on_a_line(0, 0.1, 0.2, 0.5, 0.6, 1.6)
    amads = [level.amad for level in plan_groups(measured).hierarchy]
    np.testing.assert_allclose(amads, [0.6, 0.15, 0.2 / 3, 0.1 / 4, 0], atol=1e-12)
    assert names(plan_groups(measured)) == "0-2,3-4,5"
    assert names(plan_groups(measured, amad_threshold=0.15)) == "0-1,2,3-4,5"
    assert names(plan_groups(measured, amad_threshold=0.01)) == "0,1,2,3,4,5"
    assert plan_groups(measured).chosen_by == "AMAD < 0.2"


def test_a_number_of_groups_may_be_asked_for() -> None:
    measured = on_a_line(0, 0.1, 0.2, 0.5, 0.6, 1.6)
    for name in ("auto", "linkage", "optimal"):
        assert names(plan_groups(measured, f"{name}:2")) == "0-2,3-4,5"
    assert names(plan_groups(measured, "even:3")) == "0-1,2-3,4,5"
    assert plan_groups(measured, "auto:2").chosen_by == "2 groups asked for"
    assert plan_groups(measured, "auto").partition == "linkage"
    assert plan_groups(measured, "even").partition == "even"


def test_the_last_layer_is_grouped_only_where_that_is_asked_for() -> None:
    measured = on_a_line(0, 0.1, 0.2)
    assert names(plan_groups(measured)) == "0-1,2"
    assert names(plan_groups(measured, "auto:1", last_layer="grouped")) == "0-2"
    assert len(plan_groups(measured).hierarchy) == 2
    assert len(plan_groups(measured, last_layer="grouped").hierarchy) == 3


@pytest.mark.parametrize("partition", ["auto", "optimal"])
def test_stability_tells_near_ties_from_clear_cases(partition: str) -> None:
    def stability(standard_error: float, *positions: float) -> float:
        line = np.array(positions)
        matrix = np.abs(line[:, None] - line[None])
        errors = standard_error * (1 - np.eye(len(line)))
        measured = replace(distances(matrix), standard_errors=errors)
        plan = plan_groups(measured, f"{partition}:2")
        assert plan.stability is not None
        return plan.stability

    assert stability(0.01, 0, 0.1, 0.9, 1.0, 2.0) == 1.0
    assert stability(0.0, 0, 0.5, 1.0, 2.0) == 1.0  # a tie, but known exactly
    assert 0.3 < stability(0.01, 0, 0.5, 1.0, 2.0) < 0.7  # a coin toss: 0-1,2 or 0,1-2
    assert plan_groups(on_a_line(0, 1, 2), "even:1").stability is None
    assert plan_groups(on_a_line(0, 1, 2), "0,1-2").stability is None


def test_named_groups_are_shown_against_linkage() -> None:
    plan = plan_groups(on_a_line(0, 0.1, 0.2, 0.5), "0,1-3")
    assert names(plan) == "0,1-3"
    assert plan.partition == "linkage"
    assert plan.chosen not in plan.hierarchy
    assert names(plan_groups(on_a_line(0, 0.1, 0.2, 0.5), "each")) == "0,1,2,3"


@given(random_distances(), st.sampled_from(["auto", "linkage", "optimal", "even", "each"]))
def test_every_plan_covers_every_layer_once(measured: LayerDistances, partition: str) -> None:
    plan = plan_groups(measured, partition)
    for groups in (plan.groups, *(level.groups for level in plan.hierarchy)):
        layers = [layer for group in groups for layer in group.layers]
        assert layers == list(range(measured.n_layers))
        assert groups[-1] == LayerGroup(measured.n_layers - 1, measured.n_layers - 1)


def test_the_message_about_max_cost_names_an_import_that_works() -> None:
    with pytest.raises(ConfigError, match="max_cost needs to know what a suite costs") as error:
        plan_groups(on_a_line(0, 1, 2, 3), "auto", max_cost=0.5)
    module = str(error.value).rpartition("from ")[2]
    assert callable(importlib.import_module(module).count_flops)


@pytest.mark.parametrize(
    ("layer_groups", "flags", "message"),
    [
        ("auto:4", {}, "'auto:4' asks for 4 groups, and there are 3 layers to group"),
        ("auto", {"amad_threshold": 0}, "amad_threshold is 0; it lies above 0"),
        ("auto", {"amad_threshold": 0.51}, "is at most 0.5"),
        ("auto", {"max_cost": 1.5}, "max_cost is 1.5; it is the fraction of what an SAE per layer"),
        ("auto", {"max_cost": 0.5}, "max_cost needs to know what a suite costs"),
        ("auto:2", {"max_cost": 0.5}, "both decide on the number of groups"),
        ("each", {"max_cost": 0.5}, "both decide on the number of groups"),
        ("0-2,3", {"max_cost": 0.5}, "both decide on the number of groups"),
        ("auto", {"last_layer": "Grouped"}, "last_layer is 'Grouped'; it is alone or grouped"),
        ("nearest", {}, "'nearest' is not known; known rules: auto, each, even"),
        ("0-9", {}, "group 0-9 reaches beyond the model, whose 4 layers are 0-3"),
        ("old/plan.json", {}, "'old/plan.json' is a finished plan; train with it"),
    ],
)
def test_what_cannot_be_planned_says_why(
    layer_groups: str, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(GroupSAEError) as caught:
        plan_groups(on_a_line(0, 1, 2, 3), layer_groups, **flags)
    assert message in str(caught.value)


def test_a_partition_may_decide_on_the_last_layer_itself() -> None:
    class Plugin:
        @hookimpl
        def register_partitions(self, register: Callable[[str, Partition], None]) -> None:
            register("all_even", Partition(even, decides_last_layer=True))

    plugin = Plugin()
    plugin_manager().register(plugin, name="some-package")
    try:
        plan = plan_groups(on_a_line(0, 1, 2, 3), "all_even:2")
        assert names(plan) == "0-1,2-3"
        assert [level.n_groups for level in plan.hierarchy] == [1, 2, 3, 4]
        assert names(plan_groups(on_a_line(0, 1, 2, 3), "all_even:4")) == "0,1,2,3"
    finally:
        plugin_manager().unregister(plugin)


# --- cost ---


@pytest.mark.parametrize(
    ("n_layers", "d", "n_groups", "saved"),
    # Pythia 160M, 410M and 1B; the paper's 42.5, 53.3 and 53.7% forget the last layer's SAE.
    [(12, 768, 6, 0.352), (24, 1024, 9, 0.496), (16, 2048, 6, 0.484)],
)
def test_savings_of_the_papers_models_with_every_sae_counted(
    n_layers: int, d: int, n_groups: int, saved: float
) -> None:
    cost = SuiteCost(
        unit="FLOPs",
        lm_forward=24 * n_layers * d**2 + 4 * n_layers * d * 1024,
        sae_step=10 * d * 16 * d,
        n_layers=n_layers,
    )
    assert 1 - cost.relative(n_groups + 1) == pytest.approx(saved, abs=0.0006)


def test_max_cost_takes_the_most_groups_that_it_allows() -> None:
    cost = SuiteCost(unit="FLOPs", lm_forward=100, sae_step=10, n_layers=4)
    measured = on_a_line(0, 1, 2, 3)
    plan = plan_groups(measured, max_cost=0.95, flops=cost)
    assert [level.cost for level in plan.hierarchy] == [120 / 140, 130 / 140, 1]
    assert plan.chosen.n_groups == 2
    assert plan.chosen_by == "cost <= 0.95"
    with pytest.raises(PlanError, match=r"the cheapest suite, 2 SAEs, costs 0\.857"):
        plan_groups(measured, max_cost=0.5, flops=cost)


@pytest.mark.seam
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_flops_are_counted_for_every_architecture(architecture: str, tokens: Dataset) -> None:
    cfg = group_config(sae=sae_config(architecture), fast_step="never")
    cost = count_flops(cfg, make_model(), tokens)
    attention = 4 * N_LAYERS * D_IN * CONTEXT_SIZE
    assert cost.lm_forward == 24 * N_LAYERS * D_IN**2 + attention
    dense_step = cost.sae_step / (D_IN * D_SAE)
    if architecture in ("standard", "topk", "abstopk", "batchtopk", "jumprelu"):
        assert dense_step == 12  # encoder and decoder, the gradients of matrices and inputs
    else:
        assert dense_step > 12


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_flops_of_the_sparse_step_are_the_encoder_and_the_active_latents(
    architecture: str, tokens: Dataset
) -> None:
    cfg = group_config(sae=sae_config(architecture, d_sae=256, k=4))
    cost = count_flops(cfg, make_model(), tokens)
    # The decoder, and the gradients of both matrices and of the activations: 4 sums of k rows.
    assert cost.sae_step == 2 * D_IN * 256 + 4 * 2 * 4 * D_IN


@pytest.mark.skipif("jumprelu" not in ARCHITECTURES, reason="not in this SAELens")
def test_flops_of_jumprelu_are_those_of_the_dense_step_that_it_begins_with(tokens: Dataset) -> None:
    auto, never = (
        count_flops(
            group_config(sae=sae_config("jumprelu", d_sae=256), fast_step=mode),
            make_model(),
            tokens,
        )
        for mode in ("auto", "never")
    )
    assert auto.sae_step == never.sae_step == 12 * D_IN * 256


def test_counting_leaves_random_numbers_alone(tokens: Dataset, model: HookedTransformer) -> None:
    before = torch.get_rng_state()
    cfg = group_config()
    count_flops(cfg, model, tokens)
    assert torch.equal(torch.get_rng_state(), before)


def test_steps_are_timed_per_token(tokens: Dataset, model: HookedTransformer) -> None:
    small, large = (
        time_steps(
            group_config(
                train_batch_size_tokens=n_rows,
                n_batches_in_buffer=n_rows,
                training_tokens=n_rows,
                store_batch_size_prompts=n_rows // 16,
            ),
            model,
            tokens,
        )
        for n_rows in (16, 2048)
    )
    # A token of a large batch takes less than one of a small one; a whole batch would take more.
    assert 0 < large.sae_step < small.sae_step
    assert 0 < large.lm_forward < small.lm_forward


# --- plan.json ---


@pytest.fixture
def plan() -> GroupPlan:
    flops = SuiteCost(unit="FLOPs", lm_forward=100.0, sae_step=10.0, n_layers=4)
    seconds = SuiteCost(unit="seconds", lm_forward=0.1, sae_step=0.2, n_layers=4)
    return plan_groups(on_a_line(0, 0.05, 0.15, 0.4), flops=flops, seconds=seconds)


def test_a_plan_comes_back_from_disk_as_it_was(plan: GroupPlan, tmp_path: Path) -> None:
    path = plan.save(tmp_path / "new" / "plan.json")
    loaded = GroupPlan.load(path)
    assert loaded.to_json() == plan.to_json()
    assert np.array_equal(loaded.distances.matrix, plan.distances.matrix)
    assert (loaded.hierarchy, loaded.chosen) == (plan.hierarchy, plan.chosen)
    assert (loaded.flops, loaded.seconds) == (plan.flops, plan.seconds)
    assert loaded.chosen_by == "AMAD < 0.2"


@given(random_distances(), st.sampled_from(["auto", "optimal", "even:1", "each"]))
def test_any_plan_round_trips(measured: LayerDistances, layer_groups: str) -> None:
    text = plan_groups(measured, layer_groups).to_json()
    assert GroupPlan.from_json(text).to_json() == text


def test_plan_json_holds_what_it_promises(plan: GroupPlan) -> None:
    data = json.loads(plan.to_json())
    assert data["format_version"] == 1
    assert data["groups"][0] == {
        "name": "layers_0-2",
        "layers": [0, 1, 2],
        "hook_names": [f"blocks.{n}.hook_resid_post" for n in range(3)],
    }
    assert data["distances"] == plan.distances.matrix.tolist()
    assert data["standard_errors"] == plan.distances.standard_errors.tolist()
    assert data["metric"] == "angular"
    assert [level["n_groups"] for level in data["hierarchy"]] == [1, 2, 3]
    assert data["hierarchy"][1].keys() == {
        *("n_groups", "groups", "amad", "weighted_amad", "max_diameter", "cost")
    }
    assert data["chosen"].keys() == {
        *("chosen_by", "stability", "n_groups", "amad", "weighted_amad", "max_diameter", "cost")
    }
    assert data["chosen"]["chosen_by"] == "AMAD < 0.2"
    # Readable: a row of a matrix, a group or a level to a line.
    assert max(map(len, plan.to_json().splitlines())) < 250


def edited(plan: GroupPlan, path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**plan.to_dict(), **changes}))
    return path


def test_groups_edited_by_hand_are_the_chosen_ones(plan: GroupPlan, tmp_path: Path) -> None:
    groups = [{"layers": [0, 1]}, {"layers": [2, 3]}]
    loaded = GroupPlan.load(edited(plan, tmp_path / "plan.json", groups=groups))
    assert names(loaded) == "0-1,2-3"
    assert loaded.chosen_by == "edited by hand"
    assert loaded.stability is None
    assert loaded.chosen.max_diameter == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"groups": [{"layers": [0, 1, 2]}, {"layers": [2, 3]}]},
            "cannot be read: groups 0-2 and 2-3 overlap in layer 2",
        ),
        ({"groups": [{"layers": [0, 2]}]}, "layers 0 and 2 leave a gap"),
        ({"groups": []}, "layer_groups names no group"),
        ({"groups": [{"layers": [0, 4]}]}, "leave a gap"),
        ({"groups": [{"layers": [3, 4]}]}, "group 3-4 reaches beyond the model"),
        (
            {"groups": [{"layers": ["a"]}]},
            "groups[0].layers[0] is 'a', which should be a valid integer",
        ),
        ({"groups": None}, "groups is None, which should be a valid list"),
        ({"distances": [[0, 1]]}, "must be layers x layers"),
        ({"distances": [[0, 1], [1]]}, "distances: its rows differ in length"),
        ({"hierarchy": [{}]}, "hierarchy[0].groups is missing"),
        ({"flops": {"unit": "FLOPs"}}, "flops.lm_forward is missing"),
        ({"distances": [[0, 10**400], [10**400, 0]]}, "distances[0][1] is 1000"),
        ({"flops": {"unit": "FLOPs", "lm_forward": 0, "sae_step": 0}}, "lm_forward is 0"),
        ({"hook_template": "../{layer}"}, "which names a path"),
        ({"versions": None}, "cannot be read: versions is None"),
        ({"n_tokens": "1000"}, "n_tokens is '1000'"),
        ({"model_name": None}, "model_name is None"),
        ({"last_layer": "groupd"}, "last_layer is 'groupd'"),
        ({"chosen": {}}, "chosen.chosen_by is missing"),
        (
            {"format_version": 2},
            "format_version is 2, and this version of sae-lens-groups reads up to 1",
        ),
    ],
)
def test_a_plan_that_was_edited_wrongly_says_where(
    plan: GroupPlan, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = edited(plan, tmp_path / "plan.json", **changes)
    with pytest.raises(PlanError, match=re.escape(f"plan '{path}' cannot be read: ")) as caught:
        GroupPlan.load(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "{}", '{"groups": []}', "[" * 100_000, "7" * 5000]
)
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(
        PlanError, match=r"read: (it is not JSON|it is .* object|format_version is miss)"
    ):
        GroupPlan.load(path)
    with pytest.raises(PlanError, match="cannot be read"):
        GroupPlan.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_name": "other"}, "made for the model 'tiny', and this run has 'other'"),
        ({"hook_name": "blocks.0.hook_mlp_out"}, "made for the hook 'blocks.{layer}.hook_resid"),
    ],
)
def test_a_plan_for_something_else_is_refused(
    plan: GroupPlan,
    tmp_path: Path,
    model: HookedTransformer,
    tokens: Dataset,
    changes: dict[str, Any],
    message: str,
) -> None:
    path = plan.save(tmp_path / "plan.json")
    cfg = group_config(str(path), **changes)
    with pytest.raises(PlanError, match=re.escape(message)) as caught:
        GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model)
    assert "--layer_groups 0-2,3" in str(caught.value)


def test_a_plan_for_another_head_is_refused(plan: GroupPlan, tmp_path: Path) -> None:
    cfg = group_config(str(plan.save(tmp_path / "plan.json")), hook_head_index=1)
    with pytest.raises(PlanError, match="made for the hook_head_index None, and this run has 1"):
        settle(cfg).groups_of(4)


def test_a_folder_that_holds_a_plan_will_do(plan: GroupPlan, tmp_path: Path) -> None:
    plan.save(tmp_path / "my_plan" / "plan.json")
    assert settle(group_config(str(tmp_path / "my_plan"))).groups_of(4) == plan.groups


def test_a_plan_for_a_model_of_another_depth_is_refused(plan: GroupPlan, tmp_path: Path) -> None:
    cfg = group_config(str(plan.save(tmp_path / "plan.json")))
    with pytest.raises(PlanError, match="made for the number of layers 4, and this run has 12"):
        settle(cfg).groups_of(12)


# --- training from a plan ---


def trained(
    layer_groups: Any, model: HookedTransformer, tokens: Dataset, **changes: Any
) -> SAESuite:
    cfg = group_config(layer_groups, **{"plan_tokens": 1000, **changes})
    return GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model).run()


def require_equal_weights(suite: SAESuite, other: SAESuite) -> None:
    assert suite.manifest.groups == other.manifest.groups
    for group in suite.manifest.groups:
        weights, others = suite.group(group).state_dict(), other.group(group).state_dict()
        assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("layer_groups", ["auto", "auto:2", "linkage:2", "optimal:2"])
def test_measured_groups_train_as_if_they_had_been_named(
    model: HookedTransformer, tokens: Dataset, layer_groups: str
) -> None:
    suite = trained(layer_groups, model, tokens)
    assert suite.manifest.plan is not None
    named = trained(format_layer_groups(suite.manifest.groups), model, tokens)
    assert named.manifest.plan is None
    require_equal_weights(suite, named)
    assert suite.manifest.plan.distances.n_tokens >= 1000
    assert suite.manifest.plan.flops is not None


def test_a_plan_file_trains_as_if_its_groups_had_been_named(
    plan: GroupPlan, model: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    path = plan.save(tmp_path / "plan.json")
    suite = trained(str(path), model, tokens)
    require_equal_weights(suite, trained("0-2,3", model, tokens))
    assert suite.manifest.plan is not None
    assert suite.manifest.plan.to_json() == plan.to_json()


def test_a_plan_trains_as_its_file_does(
    plan: GroupPlan, model: HookedTransformer, tokens: Dataset
) -> None:
    suite = trained(plan, model, tokens)
    require_equal_weights(suite, trained("0-2,3", model, tokens))
    assert suite.runner_cfg is not None
    assert suite.runner_cfg["layer_groups"] == "0-2,3"
    assert suite.manifest.plan is plan
    of_another = replace(plan, distances=replace(plan.distances, model_name="another"))
    with pytest.raises(PlanError, match="made for the model 'another'"):
        trained(of_another, model, tokens)


def test_another_value_takes_the_place_of_a_plan(plan: GroupPlan) -> None:
    cfg = group_config(cast("str", plan))
    cfg.layer_groups = "0,1"
    assert settle(cfg).groups_of(N_LAYERS) == (LayerGroup(0, 0), LayerGroup(1, 1))


@pytest.mark.parametrize(
    "groups",
    [
        [(0, 2), (3, 3)],
        [range(3), 3],
        ([0, 1, 2], [3]),
        [LayerGroup(3, 3), LayerGroup(0, 2)],
        ["0-2", "3"],
        [np.arange(3), np.int64(3)],
    ],
)
def test_groups_are_named_in_a_list_as_well(groups: Any) -> None:
    assert group_config(groups).layer_groups == "0-2,3"
    assert parse_layer_groups(groups) == parse_layer_groups("0-2,3")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([(3, 0)], "the range 3-0 runs backwards"),
        ([(0, 2, 5)], "layers 0 and 2 leave a gap"),
        ([(0, 2), (2, 3)], "overlap in layer 2"),
        ([[]], "a group needs at least one layer"),
        ([], "layer_groups names no group"),
        ([None], "layer None is not a whole number"),
        (["each"], "layer_groups 'each' has 'each' between its commas"),
        (3, r"layer_groups is 3; it takes text .* or a list of groups such as \[\(0, 3\), 4\]"),
        ("atuo", r"layer_groups 'atuo' is not known; .*; did you mean auto\?"),
        ("my_plan", r"'my_plan' is not known; .*; did you mean my_plan/plan\.json\?"),
    ],
)
def test_groups_that_cannot_be_read_are_named(plan: GroupPlan, given: Any, message: str) -> None:
    plan.save("my_plan/plan.json")
    with pytest.raises((LayerGroupsError, UnknownNameError), match=message):
        plan_groups(plan.distances, given)


def test_a_plan_is_saved_in_a_home_folder(
    plan: GroupPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert plan.save("~/my_plan/plan.json") == tmp_path / "my_plan" / "plan.json"
    assert GroupPlan.load("~/my_plan").to_json() == plan.to_json()


def test_a_misspelt_plan_is_suggested(plan: GroupPlan) -> None:
    plan.save("my_plan/plan.json")
    assert GroupPlan.load("my_plan").to_json() == plan.to_json()
    with pytest.raises(PlanError, match=r"plam\.json' .*; did you mean my_plan/plan\.json\?"):
        GroupPlan.load("my_plan/plam.json")


def test_a_suite_on_disk_keeps_its_plan(
    model: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    suite = trained("auto:2", model, tokens, output_path=str(tmp_path / "suite"))
    data = json.loads((tmp_path / "suite" / "suite.json").read_text())
    assert GroupPlan.from_dict(data["plan"]).groups == suite.manifest.groups
    data["plan"]["note"] = "from another version"
    data["plan"]["hierarchy"][0]["amad"] = 7.0
    (tmp_path / "suite" / "suite.json").write_text(json.dumps(data))
    (tmp_path / "suite" / "checksums.json").unlink()
    loaded = SAESuite.load(tmp_path / "suite").manifest.plan
    assert loaded is not None
    assert suite.manifest.plan is not None
    assert loaded.to_json() == suite.manifest.plan.to_json()
    assert list((tmp_path / "suite").glob("plan*")) == []


def test_amad_threshold_decides_for_auto(model: HookedTransformer, tokens: Dataset) -> None:
    few = trained("auto", model, tokens, amad_threshold=0.5)
    many = trained("auto", model, tokens, amad_threshold=0.001)
    assert len(few.manifest.groups) < len(many.manifest.groups) == N_LAYERS


def test_a_resumed_run_keeps_the_groups_it_measured(
    model: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    settings = {"checkpoint_path": str(tmp_path / "checkpoints"), "n_checkpoints": 2}
    first = trained("auto:2", model, tokens, **settings)
    checkpoint = min((tmp_path / "checkpoints").glob("*/*"), key=lambda path: int(path.name))
    resumed = {"resume_from_checkpoint": str(checkpoint)}
    second = trained("auto:2", model, tokens, **resumed)
    assert second.manifest.plan is not None
    assert first.manifest.plan is not None
    assert second.manifest.plan.to_json() == first.manifest.plan.to_json()
    for change in ({"plan_tokens": 2000}, {"amad_threshold": 0.1}):
        with pytest.raises(CheckpointError, match=f"was made with {next(iter(change))}="):
            trained("auto:2", model, tokens, **resumed, **change)
    with pytest.raises(CheckpointError, match="was made with layer_groups='auto:2'"):
        trained("optimal:2", model, tokens, **resumed)
    (checkpoint / "plan.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged and cannot be resumed"):
        trained("auto:2", model, tokens, **resumed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"amad_threshold": 0.6}, "amad_threshold is 0.6"),
        ({"plan_tokens": 0}, "plan_tokens is 0"),
    ],
)
def test_settings_of_a_plan_are_checked_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        group_config("auto", **changes)


def test_too_many_groups_are_refused_before_anything_is_measured(
    model: HookedTransformer, tokens: Dataset
) -> None:
    with pytest.raises(GroupSAEError, match="'auto:4' asks for 4 groups, and there are 3 layers"):
        trained("auto:4", model, tokens)
    with pytest.raises(GroupSAEError, match="'auto' needs a model of at least 2 layers"):
        trained("auto", make_model(n_layers=1), tokens, hook_name="blocks.0.hook_resid_post")
