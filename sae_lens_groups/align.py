"""Fits how the layers of a group map to its middle layer, from one pass over some tokens."""

from typing import Any

from sae_lens.config import HfDataset
from tqdm.auto import tqdm
from transformer_lens import HookedRootModule

from sae_lens_groups.alignment import PairMoments
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.dataset import as_stream
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.store import GroupActivationsStore


def moments_to_middle_layers(
    cfg: GroupSAERunnerConfig[Any],
    model: HookedRootModule,
    dataset: HfDataset,
    groups: tuple[LayerGroup, ...],
) -> dict[int, PairMoments]:
    """Layer -> moments with its group's middle layer, of raw activations; middle layers are left out.

    Reads `cfg.plan_tokens` tokens, or all there are, from the dataset's start. Memory is D x D for
    each layer and does not grow with tokens. Leaves all random generators as they are.
    """
    pairs = {
        layer: group.middle for group in groups for layer in group.layers if layer != group.middle
    }
    moments = {layer: PairMoments(int(cfg.sae.d_in)) for layer in pairs}
    if not pairs:
        return moments
    store = GroupActivationsStore.from_group_config(model, cfg, groups, as_stream(dataset))
    layers = [layer for group in groups for layer in group.layers]
    n_tokens = 0
    with tqdm(total=cfg.plan_tokens, desc="Aligning layers", unit="tok", leave=False) as bar:
        for rows_LBD in store.layer_rows():
            rows = dict(zip(layers, rows_LBD))
            for layer, middle in pairs.items():
                moments[layer].add(rows[layer], rows[middle])
            n_tokens += len(rows_LBD[0])
            bar.update(min(len(rows_LBD[0]), cfg.plan_tokens - bar.n))
            if n_tokens >= cfg.plan_tokens:
                break
    return moments
