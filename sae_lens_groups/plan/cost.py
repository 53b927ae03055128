"""What a suite costs: one pass of the language model, and a training step per SAE and token."""

from dataclasses import dataclass
from typing import Any, Literal

from sae_lens_groups import files


class CostEntries(files.Entries):
    """The entry `flops` or `seconds` of `plan.json`, as far as it is read."""

    unit: str
    lm_forward: files.Positive
    sae_step: files.Positive


@dataclass(frozen=True, kw_only=True)
class SuiteCost:
    """The two parts of a suite's cost for every training token, A and T in Group-SAE.

    (arXiv 2410.21508, section 5. The paper's own figures leave out the last layer's SAE; here every
    SAE counts.)
    """

    unit: Literal["FLOPs", "seconds"]
    lm_forward: float
    """A: the language model's forward pass, for one token."""
    sae_step: float
    """T: a training step of one SAE, for one token."""
    n_layers: int
    """L: layers of the model, each of which has an SAE in a per-layer suite."""

    def grouped(self, n_saes: int) -> float:
        """A + n T: `n_saes` SAEs fed by one pass of the language model."""
        return self.lm_forward + n_saes * self.sae_step

    @property
    def shared_pass(self) -> float:
        """A + L T: an SAE per layer, all fed by one pass, as `layer_groups="each"` does."""
        return self.grouped(self.n_layers)

    @property
    def separate_runs(self) -> float:
        """L (A + T): a run of its own per layer, as with SAELens's runner for one SAE."""
        return self.n_layers * self.grouped(1)

    def relative(self, n_saes: int) -> float:
        """The grouped suite's fraction of what an SAE per layer costs from one pass."""
        return self.grouped(n_saes) / self.shared_pass

    def to_dict(self) -> dict[str, Any]:
        """The entry `flops` or `seconds` of `plan.json`."""
        return {
            "unit": f"{self.unit} per token",
            "lm_forward": self.lm_forward,
            "sae_step": self.sae_step,
            "shared_pass": self.shared_pass,
            "separate_runs": self.separate_runs,
        }

    @classmethod
    def from_entries(cls, saved: CostEntries, n_layers: int) -> "SuiteCost":
        """Reads what `to_dict` wrote."""
        return cls(
            unit="seconds" if saved.unit.startswith("seconds") else "FLOPs",
            lm_forward=saved.lm_forward,
            sae_step=saved.sae_step,
            n_layers=n_layers,
        )
