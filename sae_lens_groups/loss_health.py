"""Notices a loss that became NaN or infinite, without waiting for the device in every step."""

import torch


class LossHealth:
    """Remembers the first training step of a group whose loss was not finite."""

    def __init__(self, device: torch.device | str) -> None:
        self._first_bad = torch.tensor(-1, device=device)

    def add(self, loss: torch.Tensor, step: int) -> None:
        """Looks at a step's loss, on the device that it is on."""
        is_first_bad = ~loss.detach().isfinite() & (self._first_bad < 0)
        self._first_bad.masked_fill_(is_first_bad, step)

    def first_bad_step(self) -> int | None:
        """Which it was, from 0; None where all losses were finite. Waits for the device."""
        step = int(self._first_bad)
        return None if step < 0 else step
