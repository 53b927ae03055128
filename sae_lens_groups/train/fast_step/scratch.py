"""Memory that every SAE's step uses in turn."""

import torch


class Scratch:
    """Hands out the same memory for the same name and shape, over and over.

    Fresh memory of this size costs the processor about a sixth of the encoder's product, because
    the system gives it out page by page.
    """

    def __init__(self) -> None:
        self._tensors: dict[tuple[str, tuple[int, ...], torch.dtype, torch.device], torch.Tensor]
        self._tensors = {}

    def empty(self, name: str, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        """Memory with this name; it holds whatever was written there last."""
        key = (name, shape, like.dtype, like.device)
        if key not in self._tensors:
            self._tensors[key] = torch.empty(shape, dtype=like.dtype, device=like.device)
        return self._tensors[key]
