"""The place in a language model where an SAE works.

Shapes: P prompts, T tokens of a prompt, D the width of the SAE, V the vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE
from transformer_lens import HookedRootModule

from sae_lens_groups.hook_site import Site


@dataclass(frozen=True)
class HookSite:
    """A hook of a model, and the SAE of the activations there."""

    model: HookedRootModule
    hook_name: str
    sae: SAE[Any]

    @property
    def _site(self) -> Site:
        return Site(self.hook_name, self.sae.cfg.metadata.hook_head_index)

    def read(self, activations: torch.Tensor) -> torch.Tensor:
        """The model's activations as the SAE takes them, with heads flat. Shape (P, T, D).

        They become float32 at least, so that reconstruction and error add up to them again.
        """
        rows_PTD = self._site.rows(activations)
        return rows_PTD.to(self.sae.device, torch.promote_types(rows_PTD.dtype, torch.float32))

    def logits(self, tokens_PT: torch.Tensor, replacement_PTD: torch.Tensor) -> torch.Tensor:
        """The model's output where the SAE's activations are replaced by these. Shape (P, T, V)."""

        def replace(activations: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
            return self._site.with_rows(activations, replacement_PTD)

        return self.model.run_with_hooks(
            tokens_PT, return_type="logits", fwd_hooks=[(self.hook_name, replace)]
        )
