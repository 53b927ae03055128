"""How large each layer's activations are, and the few tokens whose are enormous.

Real models put massive activations on some tokens, mostly the first (attention sinks: arXiv
2309.17453, 2402.17762). In mean norms, squared errors and least-squares maps these are all that counts.

Shapes: P prompts, T positions, B = P * T tokens, L layers.
"""

import collections
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from sae_lens.config import HfDataset
from transformer_lens import HookedRootModule

from sae_lens_groups import files
from sae_lens_groups.activations.dataset import CountedRows
from sae_lens_groups.activations.store import GroupActivationsStore, norms_of
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.layers import HookTemplate, LayerGroup, in_words

USUAL_MULTIPLE = 10.0
"""What most tokens are far below: 10 times the median, as in dictionary_learning (its PR 52)."""
_MASSIVE_SHARE = 0.15  # of the squared norm in 1% of the tokens; ordinary layers have .01 to .07
_FEWEST_TOKENS, _MOST_TOKENS, _PART_OF_RUN = 1024, 4096, 100
_N_NAMED = 3
_UNLIKE = 2  # one scale for two layers then takes one of them at half the other's


class LayerNorms(files.Entries):
    """The norms of a layer's activations on some text."""

    median: float
    first_position: float | None
    """The mean at the first position of prompts; None where that is not trained on."""
    largest: float
    top_share: float
    """The part of the squared norm that lies in the 1% of tokens with the largest norms."""

    @classmethod
    def of(cls, norm_B: torch.Tensor, is_first_B: torch.Tensor) -> Self:
        """The norms of these tokens."""
        squared_B = norm_B.double().square().sort(descending=True).values
        n_top = math.ceil(len(squared_B) / 100)
        return cls(
            median=norm_B.median().item(),
            first_position=norm_B[is_first_B].mean().item() if is_first_B.any() else None,
            largest=norm_B.max().item(),
            top_share=(squared_B[:n_top].sum() / squared_B.sum().clamp(min=1e-30)).item(),
        )


@dataclass(frozen=True)
class ActivationNorms:
    """The norms of several layers, and which tokens are outliers in any of them."""

    layers: Mapping[int, LayerNorms]
    multiple: float
    """`max_activation_norm_multiple`; 0 where no token is left out."""
    outliers: str = ""
    """How many tokens are far beyond the median, and which, in words; empty where nobody looked."""

    def limit(self, layer: int) -> float | None:
        """The norm beyond which a token is left out of training; None where none is."""
        norms = self.layers.get(layer)
        return self.multiple * norms.median if norms is not None and self.multiple else None

    def limits(self, template: HookTemplate) -> dict[str, float]:
        """The limits by hook name, of the tokens to train on."""
        found = {template.hook_name(layer): self.limit(layer) for layer in self.layers}
        return {name: limit for name, limit in found.items() if limit is not None}

    def ordinary_limits(self, template: HookTemplate) -> dict[str, float]:
        """Those of distances, maps and scores: of ordinary tokens also where training has no limit."""
        return replace(self, multiple=self.multiple or USUAL_MULTIPLE).limits(template)

    def recorded(self, layer: int) -> dict[str, Any]:
        """What a layer's SAE says of them in its metadata."""
        norms = self.layers.get(layer)
        return {
            "max_activation_norm": self.limit(layer),
            "activation_norms": None if norms is None else norms.model_dump(),
        }

    def to_dict(self) -> dict[str, Any]:
        """By layer, as JSON has it."""
        return {str(layer): norms.model_dump() for layer, norms in self.layers.items()}

    def warn_if_unlike(self, groups: Iterable[LayerGroup]) -> None:
        """Says of which groups an SAE would take layers of quite different sizes as they are."""
        unlike = []
        for group in groups:
            medians = [self.layers[layer].median for layer in group.layers if layer in self.layers]
            if medians and max(medians) > _UNLIKE * min(medians):
                unlike.append(f"{group.name} ({min(medians):.3g} to {max(medians):.3g})")
        if unlike:
            warnings.warn(
                f"the layers of {', '.join(unlike[:_N_NAMED])}{' and others' * (len(unlike) > _N_NAMED)} "
                "have activations of quite different norms, and the largest will decide what the SAE "
                "learns: set normalize_activations to expected_average_only_in",
                stacklevel=3,
            )

    def warn_if_massive(self) -> None:
        """Says that few tokens carry most of the norm, which, and what is or can be done."""
        massive = {
            layer: norms.top_share
            for layer, norms in self.layers.items()
            if norms.top_share > _MASSIVE_SHARE
        }
        if not massive:
            return
        what = (
            f"tokens beyond {self.multiple:g} times the median norm of any layer are left out "
            "(max_activation_norm_multiple)"
            if self.multiple
            else "they are trained on, so losses, norm factors, whitening and thresholds are about "
            f"them: set max_activation_norm_multiple to {USUAL_MULTIPLE:g}"
        )
        warnings.warn(
            f"massive activations in {in_words(list(massive))}: 1% of the tokens carry up to "
            f"{max(massive.values()):.1%} of the squared norm; {what}{self.outliers}",
            stacklevel=3,
        )


@torch.no_grad()
def measure_norms(
    cfg: GroupSAERunnerConfig[Any],
    model: HookedRootModule,
    dataset: HfDataset | CountedRows,
    groups: Iterable[LayerGroup],
    n_tokens: int,
) -> ActivationNorms:
    """The norms at the layers of `groups`, on the first tokens that training reads.

    A 100th of `n_tokens` is read, at least 1,024 tokens and at most 4,096. Leaves the dataset and all
    random generators as they are.
    """
    groups = tuple(groups)
    store = GroupActivationsStore.from_group_config(model, cfg, groups, dataset)
    wanted = min(_MOST_TOKENS, max(_FEWEST_TOKENS, n_tokens // _PART_OF_RUN))
    n_prompts = math.ceil(wanted / cfg.rows_per_prompt)
    multiple = cfg.max_activation_norm_multiple
    token_ids, norms = _read(store, n_prompts)
    is_kept_B, is_first_B = _positions(store, cfg, token_ids)
    if not is_kept_B.any():  # too little text, which training refuses
        return ActivationNorms({}, multiple)
    layers = [layer for group in groups for layer in group.layers]
    norm_LB = torch.stack([norms[cfg.hook_template.hook_name(layer)] for layer in layers])
    norm_LB, is_first_B = norm_LB[:, is_kept_B], is_first_B[is_kept_B]
    of_layers = [LayerNorms.of(norm_B, is_first_B) for norm_B in norm_LB]
    median_L = torch.tensor([norms.median for norms in of_layers])
    is_outlier_LB = norm_LB > (multiple or USUAL_MULTIPLE) * median_L[:, None]
    is_outlier_B = is_outlier_LB.any(dim=0)
    token_B = token_ids.reshape(-1)[is_kept_B]
    outliers = f": {is_outlier_B.float().mean():.1%} of them, " + _named(
        model, token_B, is_first_B, is_outlier_B
    )
    return ActivationNorms(
        dict(zip(layers, of_layers)), multiple, outliers if is_outlier_B.any() else ""
    )


def _read(
    store: GroupActivationsStore, n_prompts: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The trained token ids of the first prompts (P, T), and their norms (B,) by hook name."""
    token_ids: list[torch.Tensor] = []
    norms: dict[str, list[torch.Tensor]] = collections.defaultdict(list)
    store.store_batch_size_prompts = min(store.store_batch_size_prompts, n_prompts)
    while sum(map(len, token_ids)) < n_prompts:
        try:
            batch_tokens = store.get_batch_tokens(raise_at_epoch_end=True)
        except StopIteration:
            break
        store.capture(
            batch_tokens,
            lambda name, acts: norms[name].append(norms_of(acts.reshape(-1, store.d_in)).cpu()),
        )
        token_ids.append(store.trained_tokens(batch_tokens).cpu())
    n_positions = store.training_context_size
    token_ids_PT = torch.cat([torch.empty(0, n_positions, dtype=torch.long), *token_ids])
    return token_ids_PT, {name: torch.cat(parts) for name, parts in norms.items()}


def _positions(
    store: GroupActivationsStore, cfg: GroupSAERunnerConfig[Any], token_ids_PT: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens are trained on, and which of all are the first of their prompt, (B,) each."""
    position_T = torch.arange(cfg.context_size)[slice(*cfg.seqpos_slice)]
    is_first_B = (position_T == 0).repeat(len(token_ids_PT))
    is_kept_B = torch.zeros(len(is_first_B), dtype=torch.bool)
    is_kept_B[store.kept(token_ids_PT)] = True
    return is_kept_B, is_first_B


def _named(
    model: HookedRootModule,
    token_B: torch.Tensor,
    is_first_B: torch.Tensor,
    is_outlier_B: torch.Tensor,
) -> str:
    """`the first position, ' the' and others`: where outliers are."""
    is_sink = bool(is_first_B.any()) and is_outlier_B[is_first_B].float().mean() > 0.5
    elsewhere_B = is_outlier_B & ~is_first_B if is_sink else is_outlier_B
    counts = collections.Counter(token_B[elsewhere_B].tolist())
    decode = getattr(model.tokenizer, "decode", str)
    names = ["the first position"] if is_sink else []
    names += [repr(decode([token])) for token, _ in counts.most_common(_N_NAMED)]
    return ", ".join(names) + " and others" * (len(counts) > _N_NAMED)
