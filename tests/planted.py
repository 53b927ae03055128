"""A model with a feature that is known: a direction that one token puts in, on some layers."""

from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from sae_lens_groups import SAESuite
from sae_lens_groups.layers import HookTemplate, LayerGroup
from sae_lens_groups.saved import SAESource, SuiteManifest

D, D_VOCAB, CONTEXT, N_LAYERS = 8, 20, 12, 4
TOKEN, DIRECTION = 7, 5
_PUTS = {1: 3.0, 3: -3.0}
FEATURE = f"layers_0-3/{DIRECTION}"
"""Fires at token 7, with 2, on layers 1 and 2."""


class PlantedModel(HookedRootModule):
    """Each layer adds to the residual stream, and its end is unembedded."""

    tokenizer = None

    def __init__(self, n_layers: int = N_LAYERS) -> None:
        super().__init__()
        self.cfg = SimpleNamespace(d_vocab=D_VOCAB)
        embedding = torch.full((D_VOCAB, D), -1.0)
        self.embedding = torch.nn.Parameter(embedding, requires_grad=False)
        W_U = torch.randn(D, D_VOCAB, generator=torch.Generator().manual_seed(0))
        W_U[DIRECTION, 3] = 9.0  # the token that the direction raises most
        self.W_U = torch.nn.Parameter(W_U, requires_grad=False)
        self.blocks = torch.nn.ModuleList(_Block(_PUTS.get(n, 0.0)) for n in range(n_layers))
        self.setup()

    def forward(self, tokens: torch.Tensor, **_: Any) -> torch.Tensor:
        residual = self.embedding[tokens]
        for block in self.blocks:
            residual = block(residual, tokens)
        return residual @ self.W_U


class _Block(torch.nn.Module):
    def __init__(self, put: float) -> None:
        super().__init__()
        self.put = put
        self.hook_resid_post = HookPoint()

    def forward(self, residual: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        residual = residual.clone()
        residual[..., DIRECTION] += self.put * (tokens == TOKEN)
        return self.hook_resid_post(residual)


class _Handmade(SAESource):
    """An SAE whose features are the dimensions, where they are positive.

    With random directions, of every layer its own, where `draws` are given.
    """

    def __init__(self, groups: tuple[LayerGroup, ...], draws: torch.Generator | None) -> None:
        self.manifest = SuiteManifest(
            groups=groups,
            hook_template=HookTemplate("blocks.", ".hook_resid_post"),
            scaling_factors=dict.fromkeys(range(groups[-1].last + 1), None),
            model_name="planted",
            versions={"sae-lens-groups": "0"},
        )
        n_layers = groups[-1].last + 1
        self.W_dec = torch.eye(D).repeat(n_layers, 1, 1)
        if draws is not None:
            self.W_dec = torch.randn(n_layers, D, D, generator=draws)

    def layer(self, layer: int, device: str = "cpu") -> Any:
        metadata = SAEMetadata(
            hook_name=self.manifest.hook_template.hook_name(layer),
            hook_head_index=None,
            context_size=CONTEXT,
            prepend_bos=False,
            exclude_special_tokens=False,
        )
        sae = StandardSAE(StandardSAEConfig(d_in=D, d_sae=D, device=device, metadata=metadata))
        with torch.no_grad():
            for name, value in sae.named_parameters():
                value.copy_(torch.eye(D) if name.startswith("W_") else torch.zeros(D))
            sae.W_dec.copy_(self.W_dec[layer])
        return sae


def planted_suite() -> SAESuite:
    return SAESuite(_Handmade((LayerGroup(0, N_LAYERS - 1),), None))


def random_suite(groups: tuple[LayerGroup, ...], seed: int = 0) -> SAESuite:
    """Of a `PlantedModel` with as many layers, of which each has directions of its own."""
    return SAESuite(_Handmade(groups, torch.Generator().manual_seed(seed)))


def planted_tokens(n_prompts: int = 40) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, D_VOCAB, (n_prompts, CONTEXT), generator=generator)
    return Dataset.from_dict({"tokens": tokens.tolist()})
