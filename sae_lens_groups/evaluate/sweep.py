"""One sweep over the tokens for all layers of all suites: 1 + 2 L passes instead of 3 L and more.

Each pass that has a reconstruction in the place of an activation is one, each ablation another, and
two suites share the ablations.

Shapes: S sequences of a batch, T positions, D = d_in, F = d_sae, L layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from sae_lens import SAE
from sae_lens.saes.sae import SAEMetadata
from tqdm.auto import tqdm
from transformer_lens import HookedRootModule

from sae_lens_groups.activations import Site, taking_flat_heads
from sae_lens_groups.evaluate.outliers import Counted, Outliers
from sae_lens_groups.evaluate.shared_pass import LMEffect, SharedPass
from sae_lens_groups.evaluate.sums import SequenceSums
from sae_lens_groups.evaluate.tokens import EvaluatedTokens


class LayerResults:
    """What one SAE did on all tokens."""

    n_firings_F: torch.Tensor
    """Tokens on which each feature fires."""
    n_prompts_F: torch.Tensor
    """Prompts in which it does."""

    def __init__(self, d_sae: int) -> None:
        self.n_firings_F = torch.zeros(d_sae, dtype=torch.long)
        self.n_prompts_F = torch.zeros(d_sae, dtype=torch.long)
        self._batches: list[SequenceSums] = []

    def add(self, sums: SequenceSums, fires_STF: torch.Tensor) -> None:
        """Adds an LM batch."""
        self._batches.append(sums)
        self.n_firings_F += fires_STF.sum((0, 1)).cpu()
        self.n_prompts_F += fires_STF.any(1).sum(0).cpu()

    @property
    def sums(self) -> SequenceSums:
        """Of all sequences."""
        return SequenceSums.joined(self._batches)

    @property
    def dead_share(self) -> float:
        """Share of the features that never fire."""
        return (self.n_firings_F == 0).float().mean().item()


Ablations = dict[tuple[int, Site], LMEffect]
"""By the number of the LM batch and the site: alike for all SAEs there."""


class Sweep(NamedTuple):
    """What all SAEs did on the same tokens."""

    suites: list[dict[str, LayerResults]]
    """Of each suite, by hook name."""
    n_outliers: int
    """Tokens of massive activations."""


@torch.no_grad()
def sweep(
    model: HookedRootModule,
    tokens: EvaluatedTokens,
    suites: Sequence[Mapping[str, SAE[Any]]],
    trained: Mapping[str, Sequence[SAEMetadata]],
    model_kwargs: Mapping[str, Any],
    *,
    autocast_lm: bool,
    ablations: Ablations,
) -> Sweep:
    """For each suite, what its SAE does at each hook, all on the same tokens.

    Tokens that do not count, and outliers at any of the hooks, go through the model unreconstructed.

    Args:
        model: the language model, with hooks at all layers.
        tokens: what is read, and which of it counts.
        suites: by hook name, SAEs that take the activations as they are.
        trained: by hook name, which may be more, metadata that says how large activations may be.
        model_kwargs: of the model's forward pass, as in SAELens's config.
        autocast_lm: whether the model computes in bfloat16.
        ablations: what earlier sweeps over these tokens found; this one adds what is missing.
    """
    results = [
        {name: LayerResults(sae.cfg.d_sae) for name, sae in suite.items()} for suite in suites
    ]
    sites = {
        name: Site(name, sae.cfg.metadata.hook_head_index)
        for suite in suites
        for name, sae in suite.items()
    }
    outliers = Outliers(trained)
    captured = dict.fromkeys([*sites, *trained])
    n_steps = len(tokens.batches) * len(sites)
    with tqdm(total=n_steps, desc="Evaluating layers", unit="layer", leave=False) as bar:
        for n, tokens_ST in enumerate(tokens.batches):
            shared = SharedPass(model, tokens_ST, captured, model_kwargs, autocast_lm)
            counted = outliers.apart(shared.captured, tokens.kept(tokens_ST))
            for name, site in sites.items():
                ablated = ablations.get((n, site)) or shared.ablating(site)
                ablations[n, site] = ablated
                for suite, of_suite in zip(suites, results):
                    if name in suite:
                        _evaluate(suite[name], site, shared, ablated, counted, of_suite[name])
                bar.update()
    return Sweep(results, outliers.n_found)


def _evaluate(
    sae: SAE[Any],
    site: Site,
    shared: SharedPass,
    ablated: LMEffect,
    counted: Counted,
    results: LayerResults,
) -> None:
    """One SAE on one batch."""
    x_STD = site.rows(shared.captured[site.hook_name])
    with taking_flat_heads(sae):
        features_STF = sae.encode(x_STD.to(sae.device))
        x_hat_STD = sae.decode(features_STF).to(x_STD.device)
    is_replaced = counted.ordinary_ST.to(x_STD.device)[..., None]
    replaced_STD = torch.where(is_replaced, x_hat_STD.to(x_STD.dtype), x_STD)
    reconstructed = shared.replacing(site, replaced_STD)
    features_STF = features_STF.to_dense() if features_STF.is_sparse else features_STF
    fires_STF = (features_STF != 0) & counted.ordinary_ST.to(features_STF.device)[..., None]
    lm_effect = {
        "ce_loss_with_sae": reconstructed.losses,
        "ce_loss_without_sae": shared.clean_losses,
        "ce_loss_with_ablation": ablated.losses,
        "kl_div_with_sae": reconstructed.divergences,
        "kl_div_with_ablation": ablated.divergences,
    }
    per_token = {"l0": fires_STF.sum(-1), "l1": features_STF.abs().sum(-1), **lm_effect}
    sums = SequenceSums.of_batch(
        x_STD, x_hat_STD, counted.ordinary_ST, per_token, counted.with_outliers_ST
    )
    results.add(sums, fires_STF)
