"""A group's SAE as shards on several ranks: the step, the run and the files of the whole SAE."""

import copy
import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens.saes.sae import TrainStepOutput

from sae_lens_groups import LayerGroup, SAESuite
from sae_lens_groups.train.fast_step import ActiveLatents, Scratch, new_sharded_step
from sae_lens_groups.train.ranks.placement import owners, placement_text

from .test_fast_step import WIDE, make_sae, step_for, steps_since_fired, trainer_config
from .test_ranks import told, trained
from .tiny import ARCHITECTURES, made_once

SHARDED = [name for name in ("topk", "batchtopk", "abstopk") if name in ARCHITECTURES]
FEATURE_DIM = {"W_enc": 1, "W_dec": 0, "b_enc": 0}


class Meeting:
    """What so many threads hand one another, as ranks do."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._barrier = threading.Barrier(size, timeout=20)
        self._given: list[Any] = [None] * size

    def gathered(self, index: int, own: torch.Tensor) -> torch.Tensor:
        self._given[index] = own
        self._barrier.wait()
        found = torch.stack(self._given)
        self._barrier.wait()
        return found


class Thread:
    """One of the shards."""

    def __init__(self, meeting: Meeting, index: int) -> None:
        self.index, self.size, self._meeting = index, meeting.size, meeting

    def gathered(self, own: torch.Tensor) -> torch.Tensor:
        return self._meeting.gathered(self.index, own)

    def summed(self, own: torch.Tensor) -> torch.Tensor:
        return self.gathered(own).sum(0)

    def least(self, own: torch.Tensor) -> torch.Tensor:
        return self.gathered(own).amin(0)


def part_of(sae: Any, low: int, high: int) -> Any:
    part = copy.deepcopy(sae)
    part.cfg.d_sae = high - low
    for name, dim in FEATURE_DIM.items():
        whole = getattr(sae, name).detach()
        setattr(part, name, torch.nn.Parameter(whole.narrow(dim, low, high - low).clone()))
    return part


class Stepped:
    """What several shards of an SAE make of a step."""

    def __init__(self, sae: Any, size: int, rows_BD: torch.Tensor, silent_F: torch.Tensor) -> None:
        d_sae, meeting, cfg = sae.cfg.d_sae, Meeting(size), trainer_config(sae)
        self.bounds = [(n * d_sae // size, (n + 1) * d_sae // size) for n in range(size)]
        self.saes = [part_of(sae, *bounds) for bounds in self.bounds]

        def step(index: int) -> tuple[TrainStepOutput, ActiveLatents]:
            of_shard = Thread(meeting, index)
            one = new_sharded_step(self.saes[index], d_sae, of_shard, cfg, Scratch())
            found = one(rows_BD, silent_F[slice(*self.bounds[index])], {})
            self.grads[index] = {
                name: p.grad.clone() for name, p in self.saes[index].named_parameters()
            }
            one.clip_gradients()
            return found

        self.grads: dict[int, dict[str, torch.Tensor]] = {}
        with ThreadPoolExecutor(size) as threads:
            found = list(threads.map(step, range(size)))
        self.outputs = [output for output, _ in found]
        self.active = [active for _, active in found]

    def gradient(self, name: str, of: Callable[[int], torch.Tensor]) -> torch.Tensor:
        parts = [of(index) for index in range(len(self.saes))]
        if name not in FEATURE_DIM:
            assert all(torch.equal(part, parts[0]) for part in parts)
            return parts[0]
        return torch.cat(parts, FEATURE_DIM[name])


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    relative = 1e-6 if theirs.dtype == torch.float32 else 1e-2  # two roundings
    assert (ours - theirs).norm() <= relative * theirs.norm() + 1e-12


def assert_same(sae: Any, size: int, rows_BD: torch.Tensor, silent_F: torch.Tensor) -> Stepped:
    stepped = Stepped(copy.deepcopy(sae), size, rows_BD, silent_F)
    whole = step_for(sae)
    output, active = whole(rows_BD, silent_F, {})
    for ours in stepped.outputs:
        for name, loss in output.losses.items():
            assert_close(ours.losses[name], loss)
        assert_close(ours.sae_out, output.sae_out)
    acts = [one.to_sparse().to_dense() for one in stepped.active]
    assert_close(torch.cat(acts, 1), active.to_sparse().to_dense())
    for name, parameter in sae.named_parameters():
        ours = stepped.gradient(name, lambda n, name=name: stepped.grads[n][name])
        assert_close(ours, parameter.grad)
    whole.clip_gradients()
    for name, parameter in sae.named_parameters():
        ours = stepped.gradient(name, lambda n, name=name: getattr(stepped.saes[n], name).grad)
        assert_close(ours, parameter.grad)
    if sae.cfg.architecture() == "batchtopk":
        for part in stepped.saes:
            assert_close(part.topk_threshold, sae.topk_threshold)
    return stepped


@pytest.mark.parametrize("size", [1, 2, 3, 4])
# None; fewer than k_aux of 12; more; as many as all.
@pytest.mark.seam
@pytest.mark.parametrize("n_dead", [0, 5, 60, WIDE["d_sae"]])
@pytest.mark.parametrize("architecture", SHARDED)
def test_shards_step_as_the_whole_sae_does(architecture: str, n_dead: int, size: int) -> None:
    sae = make_sae(architecture, aux_loss_coefficient=0.7, apply_b_dec_to_input=True)
    stepped = assert_same(sae, size, torch.randn(64, WIDE["d_in"]), steps_since_fired(n_dead))
    assert (stepped.outputs[0].losses["auxiliary_reconstruction_loss"] > 0) == (n_dead > 0)


@pytest.mark.parametrize("architecture", SHARDED)
def test_shards_in_bfloat16_step_as_the_whole_sae_does(architecture: str) -> None:
    sae = make_sae(architecture, aux_loss_coefficient=0.7).to(torch.bfloat16)
    assert_same(sae, 3, torch.randn(64, WIDE["d_in"]), steps_since_fired(60))


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("architecture", SHARDED)
def test_a_shard_may_have_fewer_features_than_are_active(architecture: str, rescale: bool) -> None:
    """All that are active lie in one of four shards, and dead ones in another."""
    sae = make_sae(architecture, d_sae=22, k=6, rescale_acts_by_decoder_norm=rescale)
    with torch.no_grad():
        sae.b_enc[:6] = 40
    silent_F = torch.zeros(22)
    silent_F[16:] = 99
    assert_same(sae, 4, torch.randn(32, WIDE["d_in"]), silent_F)


@pytest.mark.parametrize("architecture", SHARDED)
def test_of_equal_values_as_many_are_chosen(architecture: str) -> None:
    """Every feature is there four times, once in each shard, so k of 6 cuts through equal ones."""
    sae = make_sae(architecture, aux_loss_coefficient=0.7)
    n_features = WIDE["d_sae"] // 4
    with torch.no_grad():
        for name, dim in FEATURE_DIM.items():
            whole = getattr(sae, name)
            first = whole.narrow(dim, 0, n_features)
            whole.copy_(torch.cat([first] * 4, dim))
    rows_BD, silent_F = torch.randn(64, WIDE["d_in"]), steps_since_fired(0)
    stepped = Stepped(copy.deepcopy(sae), 4, rows_BD, silent_F)
    output, active = step_for(sae)(rows_BD, silent_F, {})
    assert sum(len(one.value_N) for one in stepped.active) == len(active.value_N)
    assert_close(stepped.outputs[0].loss, output.loss)
    # Which of the equal ones were chosen makes no difference to the sum over them.
    for name, dim in FEATURE_DIM.items():
        ours = stepped.gradient(name, lambda n, name=name: stepped.grads[n][name])
        theirs = getattr(sae, name).grad
        shape = (4, n_features)
        assert_close(ours.unflatten(dim, shape).sum(dim), theirs.unflatten(dim, shape).sum(dim))


# --- runs ---

STOPPED = {"run": "shards", "stop": [0, 100]}


def assert_same_suite(folder: Path, other: Path, relative: float) -> None:
    ours, theirs = SAESuite.load(folder), SAESuite.load(other)
    assert ours.keys() == theirs.keys()
    for name, sae in theirs.items():
        for key, tensor in sae.state_dict().items():
            difference = (ours[name].state_dict()[key] - tensor).norm()
            assert difference <= relative * tensor.norm(), (name, key)
    for path in sorted(other.rglob("sparsity.safetensors")):
        assert path.read_bytes() == (folder / path.relative_to(other)).read_bytes()
    for path in other.glob("groups/*/cfg.json"):
        assert path.read_bytes() == (folder / path.relative_to(other)).read_bytes()


def explained_variance(folder: Path) -> dict[str, float]:
    points = SAESuite.load(folder).training_curves
    return {point.group: point.explained_variance for point in points}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks write of SAEs of which each has a shard."""
    saved, other = {"checkpoint_path": "two ckpt"}, {"fast_step": "never"}
    runs: list[dict[str, Any]] = [
        *({"run": f"shards {name}"} for name in (*SHARDED, "bfloat16")),
        {"run": "shards topk", "as": "logged", "wandb": True},
        {"run": "shards topk", "as": "rows", "init_features": "rows"},
        {"run": "shards"},
        {**STOPPED, "as": "two stopped", **saved},
        {"run": "shards", "as": "two again", "resume": "two ckpt"},
        {"run": "shards", "as": "own step", **other},
        {"run": "standard fast", "as": "standard", "fast_step": "always"},
        {"run": "shards", "as": "no memory", "step": [1, 90]},
    ]
    runs += [
        {
            "run": "shards begun",
            "init_from": "shards batchtopk",
            "init_parameters": which,
            "as": which,
        }
        for which in ("all", "decoder")
    ]
    runs = [{**run, "ranks_per_group": 2} for run in runs]
    return made_once(tmp_path_factory, "shards", lambda folder: trained(2, folder, runs))


@pytest.fixture(scope="module")
def alone(two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process does, beside it."""
    runs: list[dict[str, Any]] = [
        *({"run": f"shards {name}", "as": f"alone {name}"} for name in (*SHARDED, "bfloat16")),
        {"run": "shards topk", "as": "alone logged", "wandb": True},
        {"run": "shards topk", "as": "alone rows", "init_features": "rows"},
        {"run": "shards", "as": "alone"},
        {"run": "shards", "as": "alone again", "resume": "two ckpt"},
        {**STOPPED, "as": "alone stopped", "checkpoint_path": "alone ckpt"},
    ]
    runs += [
        {
            "run": "shards begun",
            "init_from": "shards batchtopk",
            "init_parameters": which,
            "as": f"alone {which}",
        }
        for which in ("all", "decoder")
    ]
    made_once(tmp_path_factory, "shards alone", lambda _: trained(1, two, runs))
    return two


@pytest.mark.slow
@pytest.mark.parametrize("architecture", SHARDED)
def test_two_ranks_train_the_sae_of_one_process(alone: Path, architecture: str) -> None:
    """Of 63 features, of which one rank has 31."""
    assert_same_suite(alone / f"shards {architecture}", alone / f"alone {architecture}", 1e-5)


@pytest.mark.slow
def test_shards_begin_with_the_rows_of_one_process(alone: Path) -> None:
    assert_same_suite(alone / "rows", alone / "alone rows", 1e-5)


@pytest.mark.slow
def test_after_200_steps_sae_and_curves_are_those_of_one_process(alone: Path) -> None:
    ours, theirs = explained_variance(alone / "shards"), explained_variance(alone / "alone")
    assert ours == pytest.approx(theirs, abs=1e-3)
    points = SAESuite.load(alone / "shards").training_curves
    expected = SAESuite.load(alone / "alone").training_curves
    assert [(p.training_tokens, p.group) for p in points] == [
        (p.training_tokens, p.group) for p in expected
    ]
    assert [p.l0 for p in points] == pytest.approx([p.l0 for p in expected], abs=0.1)


@pytest.mark.slow
def test_checkpoints_know_nothing_of_shards(alone: Path) -> None:
    """Of two ranks, gone on with by two and by one."""
    theirs = explained_variance(alone / "alone")
    for name in ("two again", "alone again"):
        assert explained_variance(alone / name) == pytest.approx(theirs, abs=1e-3)
        points = SAESuite.load(alone / name).training_curves
        assert points[0].l0 == SAESuite.load(alone / "alone").training_curves[0].l0
    names = [
        sorted(path.relative_to(one).as_posix() for path in one.rglob("*"))
        for one in (next((alone / of).glob("*/*")) for of in ("two ckpt", "alone ckpt"))
    ]
    assert names[0] == names[1]


@pytest.mark.slow
def test_wandb_has_the_entries_of_the_whole_sae(alone: Path) -> None:
    read = partial(json.loads, parse_constant=str)
    logged = read((alone / "logged.0.json").read_text())
    expected = read((alone / "alone logged.0.json").read_text())
    compared = [name for name, value in expected.items() if isinstance(value, float | int)]
    assert {"9 layers_0-3/metrics/l0", "9 layers_0-3/sparsity/dead_features"} <= {*compared}
    compared = [name for name in compared if name in logged]
    assert "9 layers_0-3/sparsity/mean_passes_since_fired" in compared
    assert [logged[n] for n in compared] == pytest.approx([expected[n] for n in compared], rel=1e-3)


@pytest.mark.slow
def test_in_bfloat16_after_30_steps_the_sae_is_as_good(alone: Path) -> None:
    ours = explained_variance(alone / "shards bfloat16")
    assert ours == pytest.approx(explained_variance(alone / "alone bfloat16"), abs=3e-3)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["all", "decoder"])
def test_shards_start_from_a_trained_sae(alone: Path, which: str) -> None:
    """Of another scale, and with a threshold."""
    assert_same_suite(alone / which, alone / f"alone {which}", 1e-5)
    ours, theirs = (SAESuite.load(alone / name).manifest for name in (which, f"alone {which}"))
    assert ours.transfer is not None
    assert theirs.transfer is not None
    for layer, scores in theirs.transfer.zero_shot.items():
        assert ours.transfer.zero_shot[layer] == pytest.approx(scores, rel=1e-4)


@pytest.mark.slow
def test_what_cannot_be_sharded_is_refused(two: Path) -> None:
    assert told(two, "own step") == (
        "ConfigError: with 2 processes ranks_per_group is 2, but the step would be SAELens's own: "
        "fast_step is never; leave ranks_per_group out"
    )
    assert "architecture standard is none of topk, batchtopk, abstopk" in told(two, "standard")


@pytest.mark.slow
def test_an_error_in_one_shard_is_told_by_all(two: Path) -> None:
    assert re.fullmatch(
        "TrainingError: in training step 29 on rank 1: RuntimeError: out of memory; there is no checkpoint yet .*",
        told(two, "no memory"),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("size", "each"), [(4, 2), (3, 3)])
def test_more_ranks_train_it_too(alone: Path, tmp_path: Path, size: int, each: int) -> None:
    """With a set of ranks for each of several groups as well, from a checkpoint of one process."""
    runs: list[dict[str, Any]] = [
        {"run": "shards topk"},
        {"run": "shards", "resume": str(alone / "alone ckpt")},
    ]
    trained(size, tmp_path, [{**run, "ranks_per_group": each} for run in runs])
    assert_same_suite(tmp_path / "shards topk", alone / "alone topk", 1e-5)
    ours, theirs = explained_variance(tmp_path / "shards"), explained_variance(alone / "alone")
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_neighbouring_ranks_have_the_same_groups() -> None:
    groups = [LayerGroup(n, n) for n in range(3)]
    placed = owners(groups, 4, 2)
    assert placed == [(groups[0], groups[2])] * 2 + [(groups[1],)] * 2
    assert placement_text(placed, 2) == (
        "ranks 0-1, a shard each: 0 2; ranks 2-3, a shard each: 1. 4 groups would take no longer on "
        "4 ranks"
    )
