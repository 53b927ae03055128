"""Gathers how layers relate to one another, in one pass over some tokens."""

from collections.abc import Iterable, Mapping
from typing import Any

from sae_lens.config import HfDataset
from transformer_lens import HookedRootModule

from sae_lens_groups.activations.dataset import CountedRows
from sae_lens_groups.activations.store import GroupActivationsStore
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import DatasetError, NonFiniteActivationsError
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.scaling import LayerPair, PairMoments


def pairs_with_middle_layers(groups: Iterable[LayerGroup]) -> set[LayerPair]:
    """Every layer with its group's middle layer; middle layers themselves are left out."""
    return {
        (layer, group.middle) for group in groups for layer in group.layers if layer != group.middle
    }


def moments_of_pairs(
    cfg: GroupSAERunnerConfig[Any],
    model: HookedRootModule,
    dataset: HfDataset | CountedRows,
    pairs: Iterable[LayerPair],
    norm_limits: Mapping[str, float] | None = None,
) -> dict[LayerPair, PairMoments]:
    """The moments of each pair of layers, of raw activations.

    Reads `cfg.plan_tokens` tokens, or all there are, from the dataset's start, without those that
    are beyond a limit at one of these layers; nothing where there are no pairs. Memory is D x D and
    2,048 x D for each pair. Leaves all random generators as they are.

    Raises:
        DatasetError: there are fewer tokens than dimensions.
        NonFiniteActivationsError: a layer's activations are NaN or infinite.
    """
    pairs = sorted(pairs)
    if not pairs:
        return {}
    d_in = int(cfg.sae.d_in)
    device = "cpu" if cfg.llm_device == "mps" else cfg.llm_device  # Apple's GPUs have no float64
    moments = {pair: PairMoments(d_in).to(device or "cpu") for pair in pairs}
    layers = sorted({layer for pair in pairs for layer in pair})
    alone = tuple(LayerGroup(layer, layer) for layer in layers)
    store = GroupActivationsStore.from_group_config(model, cfg, alone, dataset, norm_limits)
    for rows_LBD in store.layer_rows(cfg.plan_tokens, "Aligning layers"):
        rows = dict(zip(layers, rows_LBD))
        for layer, other in pairs:
            moments[layer, other].add(rows[layer], rows[other])
    _require_usable(d_in, moments)
    return {pair: found.to("cpu") for pair, found in moments.items()}


def _require_usable(d_in: int, moments: Mapping[LayerPair, PairMoments]) -> None:
    for (layer, other), found in moments.items():
        if found.n_tokens < d_in:
            raise DatasetError(
                f"{found.n_tokens} tokens are too few to fit maps between layers, of {d_in} x "
                f"{d_in} numbers; use more data, or raise plan_tokens to many times d_in"
            )
        if not found.xy_DD.isfinite().all():
            raise NonFiniteActivationsError(
                f"the activations of layer {layer} or {other} hold NaN or infinite values, "
                "so they cannot be aligned; check the model's dtype and autocast_lm"
            )
