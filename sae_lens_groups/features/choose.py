"""Which features are looked at: all, the ones named, or the most of a kind."""

import re

import torch

from sae_lens_groups.errors import ConfigError, quoted
from sae_lens_groups.layers import LayerGroup, parse_ranges
from sae_lens_groups.suite import SAESuite

KINDS = ("dense", "rare", "layer-specific", "random")
_USUAL = 200


def chosen_features(
    suite: SAESuite, features: str | None, top: str | None, seed: int = 0
) -> dict[LayerGroup, torch.Tensor]:
    """The features of each group that are looked at, in order.

    Args:
        features: `0-99,512`; of every group. All where this and `top` are None.
        top: `dense`, `rare`, `layer-specific` or `random`, with how many after a colon; by how often
            they fired in training.

    Raises:
        ConfigError: there is no such feature or kind.
        SuiteError: the suite does not say how often features fire.
    """
    if features is not None and top is not None:
        raise ConfigError("features and top both say which features; give one of them")
    widths = {group: suite[group.first].cfg.d_sae for group in suite.groups}
    if features is not None:
        return {group: _named(features, group, d_sae) for group, d_sae in widths.items()}
    if top is None:
        return {group: torch.arange(d_sae) for group, d_sae in widths.items()}
    kind, n = _kind(top)
    draws = torch.Generator().manual_seed(seed)
    return {group: _top(suite, group, kind, draws)[:n].sort().values for group in widths}


def _named(features: str, group: LayerGroup, d_sae: int) -> torch.Tensor:
    try:
        ranges = parse_ranges(features)
    except ValueError as error:
        raise ConfigError(
            f"features {quoted(features)} cannot be read; name them as in 0-99,512"
        ) from error
    if ranges[-1].last >= d_sae:
        raise ConfigError(
            f"features {quoted(features)} reach beyond {group.name}, whose {d_sae:,} features are "
            f"0-{d_sae - 1}"
        )
    return torch.tensor([n for each in ranges for n in each.layers])


def _kind(top: str) -> tuple[str, int]:
    match = re.fullmatch(r"([a-z-]+?)(?::([1-9]\d{0,8}))?", top)
    if match is None or match[1] not in KINDS:
        raise ConfigError(
            f"top {quoted(top)} is none of {', '.join(KINDS)}; how many follows a colon, as in "
            "random:200"
        )
    return match[1], int(match[2] or _USUAL)


def _top(suite: SAESuite, group: LayerGroup, kind: str, draws: torch.Generator) -> torch.Tensor:
    """All features of a kind, the best first."""
    if kind == "random":
        return torch.randperm(suite[group.first].cfg.d_sae, generator=draws)
    log_LF = torch.stack([suite.log_sparsity(layer) for layer in group.layers])
    frequency_LF = 10.0 ** log_LF.double()
    total_F = frequency_LF.sum(0)
    # SAELens writes 1e-10 for a feature that never fired.
    is_alive_F = frequency_LF.max(0).values > 1e-9
    by_F = frequency_LF.max(0).values / total_F if kind == "layer-specific" else total_F
    order = by_F.argsort(descending=kind != "rare", stable=True)
    return order[is_alive_F[order]]
