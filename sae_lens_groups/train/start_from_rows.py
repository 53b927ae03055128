"""Lets the features of new SAEs begin in the directions of rows that they are to reconstruct."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from sae_lens import TrainingSAE

from sae_lens_groups.activations import GroupBatch
from sae_lens_groups.train.group_trainer import GroupTrainer
from sae_lens_groups.train.sharded.group_trainer import change_saes
from sae_lens_groups.train.sweep import Setting


def start_from_rows(
    trainer: GroupTrainer,
    batches: Iterator[dict[str, GroupBatch]],
    settings: Iterable[Setting],
) -> None:
    """Takes a row of the next batches, which are not trained on, for every feature."""
    # Of all settings, as every process takes as many batches, with SAEs or without.
    d_sae = max(int(setting.cfg.sae.d_sae) for setting in settings)
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in trainer.group_trainers}
    for _ in range(-(-d_sae // trainer.cfg.train_batch_size_samples)):
        batch = next(batches)
        for name, one in trainer.group_trainers.items():
            rows_BD, position_B = one.unpack(batch[trainer.hook_names[name]])
            rows[name].append(one.scaling.scale(rows_BD, position_B))

    def start(saes: Mapping[str, TrainingSAE[Any]]) -> None:
        for name, sae in saes.items():
            _start(sae, torch.cat(rows[name]))

    change_saes(trainer, start)


@torch.no_grad()
def _start(sae: TrainingSAE[Any], rows_ND: torch.Tensor) -> None:
    """Features point from the rows' mean, which b_dec becomes, to one row each.

    Norms stay those of the fresh SAE, and the encoder is the decoder's transpose, as there.
    """
    mean_D = rows_ND.mean(0)
    direction_FD = torch.nn.functional.normalize(rows_ND[: sae.cfg.d_sae] - mean_D)
    sae.W_dec.copy_(direction_FD * sae.W_dec.norm(dim=1, keepdim=True))
    if hasattr(sae, "W_enc"):  # not in matching pursuit
        sae.W_enc.copy_(sae.W_dec.T)
    sae.b_dec.copy_(mean_D)
