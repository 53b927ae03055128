"""From a group's whole SAE and its training state to a shard of them, and back."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from sae_lens import TrainingSAE

from sae_lens_groups.train.fast_step import ALWAYS
from sae_lens_groups.train.ranks.shards import ShardRanks
from sae_lens_groups.train.trainer import GroupSAETrainer

_FEATURE_DIM = {"W_enc": 1, "W_dec": 0, "b_enc": 0}
"""Of the parameters that are cut up; every shard has all of the others."""
_COUNTS = ("n_training_samples", "n_training_steps", "n_frac_active_samples", "started_fine_tuning")
_INDEX = "dead_candidates.index"


def own_part(sae: TrainingSAE[Any], shards: ShardRanks | None) -> TrainingSAE[Any]:
    """An SAE of this rank's features, with weights of its own; the SAE itself without shards."""
    if shards is None:
        return sae
    part = copy.copy(sae)
    part.cfg = copy.deepcopy(sae.cfg)
    low, high = shards.bounds(sae.cfg.d_sae)
    part.cfg.d_sae = high - low
    part._parameters = {}
    for name, whole in sae.named_parameters():
        dim = _FEATURE_DIM.get(name)
        own = whole.detach() if dim is None else whole.detach().narrow(dim, low, high - low)
        part._parameters[name] = torch.nn.Parameter(own.clone())
    part._buffers = {
        name: tensor.clone() for name, tensor in sae._buffers.items() if tensor is not None
    }
    return part


def empty_whole(trainer: GroupSAETrainer, d_sae: int) -> GroupSAETrainer:
    """A trainer of the whole SAE in the host's memory, to be filled."""
    cfg = copy.deepcopy(trainer.sae.cfg)
    cfg.d_sae, cfg.device = d_sae, "cpu"
    with torch.random.fork_rng():
        sae = type(trainer.sae)(cfg)
    return GroupSAETrainer(replace(trainer.cfg, device="cpu"), sae, trainer.group, ALWAYS)


@torch.no_grad()
def whole_around(trainer: GroupSAETrainer, d_sae: int, shards: ShardRanks) -> TrainingSAE[Any]:
    """A whole SAE in the host's memory that has a shard's weights; those of others are fresh."""
    whole, own = empty_whole(trainer, d_sae).sae, trainer.sae.state_dict()
    low, high = shards.bounds(d_sae)
    for name, tensor in whole.state_dict().items():
        dim = _FEATURE_DIM.get(name)
        (tensor if dim is None else tensor.narrow(dim, low, high - low)).copy_(own[name])
    return whole


@torch.no_grad()
def joined(trainer: GroupSAETrainer, d_sae: int, shards: ShardRanks) -> GroupSAETrainer | None:
    """A shard's trainer and those of the others as one; on the first of these ranks, else None."""
    whole = empty_whole(trainer, d_sae) if shards.index == 0 else None
    if whole is not None:
        _take_undivided(whole, trainer)
    targets = None if whole is None else _divided(whole)
    for own, dim in _divided(trainer):
        found = shards.joined(own, dim, d_sae)
        if targets is not None and found is not None:
            next(targets)[0].copy_(found)
    is_candidate_F = torch.zeros(trainer.sae.cfg.d_sae)
    assert trainer.sparse_step is not None
    state = trainer.sparse_step.state_dict()
    is_candidate_F[state.get(_INDEX, torch.empty(0).long()).cpu()] = 1
    found = shards.joined(is_candidate_F, 0, d_sae)
    if whole is None or found is None:
        return None
    assert whole.sparse_step is not None
    whole.sparse_step.load_state_dict({**state, _INDEX: found.nonzero().squeeze(1)})
    metadata = whole.sae.cfg.metadata
    if getattr(metadata, "num_dead_features", None) is not None:  # SAELens counted the shard's
        metadata.num_dead_features = int(whole.dead_neurons.sum())
    return whole


@torch.no_grad()
def take(trainer: GroupSAETrainer, whole: GroupSAETrainer, shards: ShardRanks) -> None:
    """Gives a shard's trainer its part of what a whole one holds."""
    _take_undivided(trainer, whole)
    low, high = shards.bounds(whole.sae.cfg.d_sae)
    for (own, dim), (of_whole, _) in zip(_divided(trainer), _divided(whole), strict=True):
        own.copy_(of_whole.narrow(dim, low, high - low))
    assert trainer.sparse_step is not None
    assert whole.sparse_step is not None
    state = whole.sparse_step.state_dict()
    index_C = state.get(_INDEX, torch.empty(0).long())
    own_C = index_C[(index_C >= low) & (index_C < high)] - low
    state = {**state, _INDEX: own_C.to(trainer.sae.device)}
    trainer.sparse_step.load_state_dict(state)


def _divided(trainer: GroupSAETrainer) -> Iterator[tuple[torch.Tensor, int]]:
    """All that has an entry for each feature, and the dimension of that."""
    for name, dim in _FEATURE_DIM.items():
        parameter = getattr(trainer.sae, name)
        yield parameter.data, dim
        state = trainer.optimizer.state.get(parameter, {})
        yield from ((state[key], dim) for key in ("exp_avg", "exp_avg_sq") if key in state)
    yield trainer.act_freq_scores, 0
    yield trainer.n_forward_passes_since_fired, 0
    for tensor in trainer.statistics.state_dict().values():
        if tensor.dim() == 2:
            yield tensor, 1


def _take_undivided(to: GroupSAETrainer, of: GroupSAETrainer) -> None:
    """Everything else, and room for what the optimiser keeps of each feature."""
    for name in _COUNTS:
        setattr(to, name, getattr(of, name))
    to.scaling = of.scaling
    to.lr_scheduler.load_state_dict(of.lr_scheduler.state_dict())
    for name, scheduler in of.coefficient_schedulers.items():
        to.coefficient_schedulers[name].load_state_dict(scheduler.state_dict())
    to.sae.b_dec.data.copy_(of.sae.b_dec.data)
    for (_, buffer), (_, theirs) in zip(to.sae.named_buffers(), of.sae.named_buffers()):
        buffer.copy_(theirs)
    known = of.statistics.state_dict()
    for name, tensor in to.statistics.state_dict().items():
        if tensor.dim() == 1:
            tensor.copy_(known[name])
    _lay_optimizer(to, of)


def _lay_optimizer(to: GroupSAETrainer, of: GroupSAETrainer) -> None:
    saved = of.optimizer.state_dict()
    for number, (name, parameter) in enumerate(to.sae.named_parameters()):
        if name in _FEATURE_DIM and number in saved["state"]:
            empty = {key: torch.empty_like(parameter.data) for key in ("exp_avg", "exp_avg_sq")}
            saved["state"][number] = saved["state"][number] | empty
    to.optimizer.load_state_dict(saved)
    to.place_counts_of_optimizer()
