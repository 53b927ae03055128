"""Which prompts a feature is shown with: of all that went by the few of the highest rank.

Shapes: S sequences of a batch, T positions, C features, K examples that are kept, W tokens of one,
L layers of the group, N examples that are new.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

NO_PROMPT = -1
_BEFORE = 0.75  # of the tokens of an example, the part that stands before the peak


@dataclass
class Examples:
    """Of each feature up to K prompts in which it fires; of one that is not there the prompt is -1."""

    rank_CK: torch.Tensor
    """What they are kept by, the highest first."""
    peak_CK: torch.Tensor
    """The activation of the largest size in the prompt,"""
    position_CK: torch.Tensor
    """and at which token it is."""
    prompt_CK: torch.Tensor
    """Prompts are counted in the order in which they are read."""
    start_CK: torch.Tensor
    """The first of the tokens that are shown."""
    token_CKW: torch.Tensor
    activation_CKLW: torch.Tensor
    """The feature's on every layer of the group; 0 at tokens that do not count."""

    @classmethod
    def none(cls, shape_CKLW: tuple[int, int, int, int], device: torch.device) -> "Examples":
        """The place for them."""
        C, K, _, W = shape_CKLW
        whole = torch.full((C, K), NO_PROMPT, dtype=torch.int32, device=device)
        return cls(
            rank_CK=torch.full((C, K), -torch.inf, device=device),
            peak_CK=torch.zeros(C, K, device=device),
            position_CK=whole,
            prompt_CK=whole.clone(),
            start_CK=whole.clone(),
            token_CKW=torch.zeros(C, K, W, dtype=torch.int32, device=device),
            activation_CKLW=torch.zeros(shape_CKLW, device=device),
        )

    @property
    def n_bytes(self) -> int:
        """The memory that they take."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    def places(self, c: int) -> list[int]:
        """Where the examples of a feature are among its K places, the one of the largest peak first."""
        order = self.peak_CK[c].abs().argsort(descending=True, stable=True).tolist()
        return [k for k in order if int(self.prompt_CK[c, k]) != NO_PROMPT]

    def offer(
        self,
        rank_SC: torch.Tensor,
        peak_SC: torch.Tensor,
        position_SC: torch.Tensor,
        tokens_ST: torch.Tensor,
        activations_LSTC: Sequence[torch.Tensor],
        first_prompt: int,
    ) -> None:
        """Keeps of these prompts those whose rank is higher; of equal ones what came first.

        A rank of minus infinity is never kept.
        """
        n_kept = self.rank_CK.shape[1]
        ranks = torch.cat([self.rank_CK, rank_SC.T], 1)
        best_CK, order_CK = ranks.sort(dim=1, descending=True, stable=True)
        best_CK, order_CK = best_CK[:, :n_kept], order_CK[:, :n_kept]
        is_new_CK = (order_CK >= n_kept) & (best_CK > -torch.inf)
        changed = is_new_CK.any(1).nonzero()
        was = order_CK[changed[:, 0]].clamp(max=n_kept - 1)
        for field in fields(self):
            values = getattr(self, field.name)
            values[changed[:, 0]] = values[changed, was]
        self.rank_CK = best_CK
        c, k = is_new_CK.nonzero(as_tuple=True)
        s = order_CK[c, k] - n_kept
        self._put(c, k, s, peak_SC, position_SC, tokens_ST, activations_LSTC)
        self.prompt_CK[c, k] = (s + first_prompt).int()

    def _put(
        self,
        c: torch.Tensor,
        k: torch.Tensor,
        s: torch.Tensor,
        peak_SC: torch.Tensor,
        position_SC: torch.Tensor,
        tokens_ST: torch.Tensor,
        activations_LSTC: Sequence[torch.Tensor],
    ) -> None:
        """The tokens around the peak of feature c in sequence s become its example k."""
        width = self.token_CKW.shape[2]
        position_N = position_SC[s, c]
        start_N = position_N - int(_BEFORE * width)
        start_N = start_N.clamp(min=0, max=tokens_ST.shape[1] - width)
        at_NW = start_N[:, None] + torch.arange(width, device=start_N.device)
        self.peak_CK[c, k] = peak_SC[s, c]
        self.position_CK[c, k] = position_N.int()
        self.start_CK[c, k] = start_N.int()
        self.token_CKW[c, k] = tokens_ST[s[:, None], at_NW].int()
        for layer, acts_STC in enumerate(activations_LSTC):
            self.activation_CKLW[c, k, layer] = acts_STC[s[:, None], at_NW, c[:, None]]

    def cpu(self) -> "Examples":
        """The same in the machine's own memory."""
        return Examples(**{of.name: getattr(self, of.name).cpu() for of in fields(self)})
