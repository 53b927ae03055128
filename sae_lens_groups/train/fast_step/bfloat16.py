"""Any fast step for an SAE whose weights are in bfloat16."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from sae_lens.saes.sae import TrainingSAE, TrainStepOutput
from typing_extensions import override

from sae_lens_groups.train.fast_step.active_latents import ActiveLatents
from sae_lens_groups.train.fast_step.scratch import Scratch
from sae_lens_groups.train.fast_step.sparse_step import SparseStep


class BFloat16Step(SparseStep[TrainingSAE[Any]]):
    """A step on the same SAE in float32; its gradients alone are rounded.

    Args:
        step: makes the step, as its class does.
        sae: what is trained, in bfloat16.
    """

    def __init__(
        self,
        step: Callable[..., SparseStep[Any]],
        sae: TrainingSAE[Any],
        dead_feature_window: int,
        scratch: Scratch,
    ) -> None:
        super().__init__(sae, dead_feature_window, scratch)
        # Another module with the same buffers, but parameters of its own.
        self._in_float32: Any = copy.copy(sae)
        self._in_float32._parameters = {}
        self._step = step(self._in_float32, dead_feature_window, scratch, autocast=True)

    @override
    def __call__(
        self,
        sae_in_BD: torch.Tensor,
        n_steps_since_fired_F: torch.Tensor,
        coefficients: Mapping[str, float],
    ) -> tuple[TrainStepOutput, ActiveLatents]:
        self._load()
        output, active = self._step(sae_in_BD, n_steps_since_fired_F, coefficients)
        for name, parameter in self.sae.named_parameters():
            gradient = self._in_float32._parameters[name].grad
            parameter.grad = self._copied(gradient, f"{name}.grad", parameter)
        return output, active

    def _load(self) -> None:
        """Copies of the weights into memory that all groups share; JumpReLU's threshold is float32."""
        for name, parameter in self.sae.named_parameters():
            like = torch.empty(0, device=parameter.device)
            self._in_float32._parameters[name] = self._copied(parameter.detach(), name, like)

    def _copied(self, tensor: torch.Tensor, name: str, like: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == like.dtype:
            return tensor
        return self._scratch.empty(f"{name} copied", tuple(tensor.shape), like).copy_(tensor)

    @override
    def clip_gradients(self) -> None:
        self._step._clip_gradients_of(self.sae)

    @override
    def is_due(self, sae_in_BD: torch.Tensor) -> bool:
        if not self._in_float32._parameters:  # the first batch, which some steps look at
            self._load()
        return self._step.is_due(sae_in_BD)

    @override
    def saw(self, output: TrainStepOutput) -> None:
        self._load()
        self._step.saw(output)

    @override
    def state_dict(self) -> dict[str, torch.Tensor]:
        return self._step.state_dict()

    @override
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._step.load_state_dict(state)
