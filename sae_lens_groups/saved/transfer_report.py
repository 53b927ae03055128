"""What every layer of a suite started from, and how far training took it: `transfer` in suite.json."""

from collections.abc import Mapping
from typing import Literal

from sae_lens_groups import files
from sae_lens_groups.errors import quoted
from sae_lens_groups.layers import HookTemplate, layer_in

Scores = Mapping[int, Mapping[str, float]]
"""Layer -> SAELens's metrics by their names."""
FeaturesBy = Literal["sparsity.safetensors", "tokens"]
"""What says how often features of a source fire: a file beside it, or tokens of the run."""


class LayerTransfer(files.Entries):
    """The source of one layer's SAE, and SAELens's metrics of it by their names."""

    source_hook_name: str
    init_alignment: str | None = None
    """What relates the two layers, where what was asked for would have been worse."""
    source_d_sae: int | None = None
    """How many features the source has, where it has more or fewer."""
    features_by: FeaturesBy | None = None
    """What said which of more features fire most; None where all were taken."""
    zero_shot: Mapping[str, float]
    """Before any step."""
    final: Mapping[str, float] = {}
    """After the last step, on the same tokens; empty while training goes on."""


class TransferReport(files.Entries):
    """The entry `transfer` of `suite.json`, and a checkpoint's `transfer.json`."""

    init_from: str
    init_direction: str
    init_parameters: str
    init_alignment: str
    layers: Mapping[str, LayerTransfer]
    """By hook name."""

    @property
    def source_layers(self) -> dict[int, int]:
        """Layer -> the layer of the source whose SAE it started from."""
        return {layer_in(name): layer_in(of.source_hook_name) for name, of in self.layers.items()}

    @property
    def features_taken(self) -> str:
        """Which features were taken of sources that have more or fewer, in sentences; `""` of no others."""
        found = {
            _taken(of.source_d_sae, of.features_by)
            for of in self.layers.values()
            if of.source_d_sae is not None
        }
        return " ".join(sorted(found))

    @property
    def zero_shot(self) -> Scores:
        """The scores before any step."""
        return {layer_in(name): of.zero_shot for name, of in self.layers.items()}

    @property
    def final(self) -> Scores:
        """The scores after the last step; empty where they are not known."""
        return {layer_in(name): of.final for name, of in self.layers.items() if of.final}

    def finished(self, final: Scores) -> "TransferReport":
        """The report of the finished run."""
        layers = {
            name: of.model_copy(update={"final": dict(final[layer_in(name)])})
            for name, of in self.layers.items()
        }
        return self.model_copy(update={"layers": layers})

    def mean(self, scores: Scores, metric: str = "explained_variance") -> float:
        """The mean of a metric over the layers."""
        return sum(of_layer[metric] for of_layer in scores.values()) / len(scores)

    def require_of(self, template: HookTemplate) -> None:
        """Refuses a report of other hooks."""
        for name in (*self.layers, *(of.source_hook_name for of in self.layers.values())):
            if template.layer_of(name) is None:
                raise ValueError(f"{quoted(name)} is not a hook of {template}")


def _taken(d_sae: int, by: FeaturesBy | None) -> str:
    if by is None:
        return f"Of {d_sae:,} features each, all were taken and new ones added."
    counted = "on tokens of the run" if by == "tokens" else f"by {by}"
    return (
        f"Of {d_sae:,} features each, those that fire most were taken ({counted}), in their order."
    )
