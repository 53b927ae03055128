"""What a training step depends on beside what SAELens's checkpoints hold, to the last bit."""

from pathlib import Path
from typing import Any

import torch
from sae_lens import TrainingSAE
from safetensors.torch import load_file, save_file

from sae_lens_groups import files
from sae_lens_groups.train.fast_step import SparseStep

_WEIGHT = "weight."


def save_step_state(
    folder: Path, sae: TrainingSAE[Any], sparse_step: SparseStep[Any] | None
) -> None:
    """Adds to a group's folder what SAELens's own files do not bring back exactly."""
    saved = dict(sae.state_dict())
    sae.process_state_dict_for_saving(saved)
    sae.process_state_dict_for_loading(saved)
    state = {
        f"{_WEIGHT}{name}": weight.contiguous()
        for name, weight in sae.state_dict().items()
        if name not in saved or not torch.equal(saved[name], weight)
    }
    if sparse_step is not None:
        state.update(sparse_step.state_dict())
    save_file(state, folder / files.STEP_STATE)


def load_step_state(
    folder: Path, sae: TrainingSAE[Any], sparse_step: SparseStep[Any] | None
) -> None:
    """Takes over what `save_step_state` wrote, once the SAE's weights are loaded."""
    state = load_file(folder / files.STEP_STATE, device=str(sae.device))
    weights = sae.state_dict()
    for name in [name for name in state if name.startswith(_WEIGHT)]:
        weights[name.removeprefix(_WEIGHT)].copy_(state.pop(name))
    if sparse_step is not None:
        sparse_step.load_state_dict(state)
