"""Gathers how the layers of a group relate to its middle layer, in one pass over some tokens."""

from collections.abc import Mapping
from typing import Any

from sae_lens.config import HfDataset
from transformer_lens import HookedRootModule

from sae_lens_groups.alignment import PairMoments
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.dataset import as_stream
from sae_lens_groups.errors import DatasetError, NonFiniteActivationsError
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

    Raises:
        DatasetError: there are fewer tokens than dimensions.
        NonFiniteActivationsError: a layer's activations are NaN or infinite.
    """
    pairs = {
        layer: group.middle for group in groups for layer in group.layers if layer != group.middle
    }
    if not pairs:
        return {}
    d_in, device = int(cfg.sae.d_in), _float64_device(cfg.llm_device)
    moments = {layer: PairMoments(d_in).to(device) for layer in pairs}
    store = GroupActivationsStore.from_group_config(model, cfg, groups, as_stream(dataset))
    layers = [layer for group in groups for layer in group.layers]
    for rows_LBD in store.layer_rows(cfg.plan_tokens, "Aligning layers"):
        rows = dict(zip(layers, rows_LBD))
        for layer, middle in pairs.items():
            moments[layer].add(rows[layer], rows[middle])
    _require_usable(cfg, moments, pairs)
    return {layer: found.to("cpu") for layer, found in moments.items()}


def _require_usable(
    cfg: GroupSAERunnerConfig[Any], moments: Mapping[int, PairMoments], pairs: Mapping[int, int]
) -> None:
    d_in = int(cfg.sae.d_in)
    for layer, found in moments.items():
        if found.n_tokens < d_in:
            raise DatasetError(
                f"layer_alignment {cfg.layer_alignment!r} has {found.n_tokens} tokens to fit maps "
                f"of {d_in} x {d_in} numbers; use more data, or raise plan_tokens to many times d_in"
            )
        if not found.xy_DD.isfinite().all():
            raise NonFiniteActivationsError(
                f"the activations of layer {layer} or {pairs[layer]} hold NaN or infinite values, "
                "so they cannot be aligned; check the model's dtype and autocast_lm"
            )


def _float64_device(device: str | None) -> str:
    return "cpu" if device is None or device == "mps" else device  # Apple's GPUs have no float64
