"""What every layer of a suite started from, and how far training took it: `transfer` in suite.json."""

from collections.abc import Mapping

from sae_lens_groups import files
from sae_lens_groups.errors import quoted
from sae_lens_groups.layers import HookTemplate, layer_in

Scores = Mapping[int, Mapping[str, float]]
"""Layer -> SAELens's metrics by their names."""


class LayerTransfer(files.Entries):
    """The source of one layer's SAE, and SAELens's metrics of it by their names."""

    source_hook_name: str
    init_alignment: str | None = None
    """What relates the two layers, where what was asked for would have been worse."""
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
        """Refuses a report of other hooks.

        Raises:
            ValueError: it names one that the template has not.
        """
        for name in (*self.layers, *(of.source_hook_name for of in self.layers.values())):
            if template.layer_of(name) is None:
                raise ValueError(f"{quoted(name)} is not a hook of {template}")
