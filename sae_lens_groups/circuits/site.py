"""The place in a language model where an SAE works.

Shapes: P prompts, T tokens of a prompt, D the width of the SAE, V the vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE
from transformer_lens import HookedRootModule


@dataclass(frozen=True)
class HookSite:
    """A hook of a model, and the SAE of the activations there."""

    model: HookedRootModule
    hook_name: str
    sae: SAE[Any]

    def read(self, activations: torch.Tensor) -> torch.Tensor:
        """The model's activations as the SAE takes them. Shape (P, T, D).

        They become float32 at least, so that reconstruction and error add up to them again.
        """
        head = self.sae.cfg.metadata.hook_head_index
        if head is not None:
            activations = activations[:, :, head]
        if not self.sae.hook_z_reshaping_mode:  # else the SAE flattens the heads itself
            activations = activations.flatten(2)
        dtype = torch.promote_types(activations.dtype, torch.float32)
        return activations.to(self.sae.device, dtype)

    def logits(self, tokens_PT: torch.Tensor, replacement_PTD: torch.Tensor) -> torch.Tensor:
        """The model's output where the SAE's activations are replaced by these. Shape (P, T, V)."""

        def replace(activations: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
            return self._write(activations, replacement_PTD)

        return self.model.run_with_hooks(
            tokens_PT, return_type="logits", fwd_hooks=[(self.hook_name, replace)]
        )

    def _write(self, activations: torch.Tensor, replacement_PTD: torch.Tensor) -> torch.Tensor:
        replacement_PTD = replacement_PTD.to(activations.device, activations.dtype)
        head = self.sae.cfg.metadata.hook_head_index
        if head is None:
            return replacement_PTD.reshape(activations.shape)
        activations = activations.clone()  # the model may still need its own
        activations[:, :, head] = replacement_PTD
        return activations
