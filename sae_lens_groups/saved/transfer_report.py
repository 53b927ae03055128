"""What every layer of a suite started from, and how far training took it: `transfer` in suite.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sae_lens_groups.files.reading import require_kinds, require_numbers
from sae_lens_groups.layers import HookTemplate

_KINDS = {
    "init_from": str,
    "init_direction": str,
    "init_parameters": str,
    "init_alignment": str,
    "layers": dict,
}
Scores = Mapping[int, Mapping[str, float]]
"""Layer -> SAELens's metrics by their names."""


@dataclass(frozen=True, kw_only=True)
class TransferReport:
    """The source of each layer's SAE, and its scores before and after training."""

    init_from: str
    init_direction: str
    init_parameters: str
    init_alignment: str
    source_layers: Mapping[int, int]
    """Layer -> the layer of the source whose SAE it started from."""
    zero_shot: Scores
    """Before any step."""
    final: Scores = field(default_factory=dict)
    """After the last step, on the same tokens; empty while training goes on."""

    def finished(self, final: Scores) -> "TransferReport":
        """The report of the finished run."""
        return replace(self, final=final)

    def mean(self, scores: Scores, metric: str = "explained_variance") -> float:
        """The mean of a metric over the layers."""
        return sum(of_layer[metric] for of_layer in scores.values()) / len(scores)

    def to_dict(self, template: HookTemplate) -> dict[str, Any]:
        """The entry in `suite.json`; the template names the layers' hooks."""
        return {
            "init_from": self.init_from,
            "init_direction": self.init_direction,
            "init_parameters": self.init_parameters,
            "init_alignment": self.init_alignment,
            "layers": {
                template.hook_name(layer): {
                    "source_hook_name": template.hook_name(source),
                    "zero_shot": dict(self.zero_shot[layer]),
                    "final": dict(self.final.get(layer, {})),
                }
                for layer, source in self.source_layers.items()
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], template: HookTemplate) -> "TransferReport":
        """Reads what `to_dict` writes.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        require_kinds(data, _KINDS)
        layers = {_layer(template, name): entry for name, entry in data["layers"].items()}
        return cls(
            init_from=data["init_from"],
            init_direction=data["init_direction"],
            init_parameters=data["init_parameters"],
            init_alignment=data["init_alignment"],
            source_layers={
                layer: _layer(template, entry["source_hook_name"])
                for layer, entry in layers.items()
            },
            zero_shot={
                layer: require_numbers(entry["zero_shot"]) for layer, entry in layers.items()
            },
            final={
                layer: require_numbers(entry["final"])
                for layer, entry in layers.items()
                if entry["final"]
            },
        )


def _layer(template: HookTemplate, hook_name: str) -> int:
    layer = template.layer_of(hook_name)
    if layer is None:
        raise ValueError(f"{hook_name!r} is no hook of {template}")
    return layer
