"""What every layer of a suite started from, and how far training took it: `transfer` in suite.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sae_lens_groups import files
from sae_lens_groups.errors import quoted
from sae_lens_groups.layers import HookTemplate

Scores = Mapping[int, Mapping[str, float]]
"""Layer -> SAELens's metrics by their names."""


class _Layer(files.Entries):
    source_hook_name: str
    init_alignment: str | None = None
    zero_shot: dict[str, float]
    final: dict[str, float]


class TransferEntries(files.Entries):
    """The entry `transfer` of `suite.json`, and a checkpoint's `transfer.json`."""

    init_from: str
    init_direction: str
    init_parameters: str
    init_alignment: str
    layers: dict[str, _Layer]


@dataclass(frozen=True, kw_only=True)
class TransferReport:
    """The source of each layer's SAE, and its scores before and after training."""

    init_from: str
    init_direction: str
    init_parameters: str
    init_alignment: str
    source_layers: Mapping[int, int]
    """Layer -> the layer of the source whose SAE it started from."""
    other_alignments: Mapping[int, str] = field(default_factory=dict)
    """Layer -> what relates it to its source, where `init_alignment` would have been worse."""
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
                    **(
                        {"init_alignment": self.other_alignments[layer]}
                        if layer in self.other_alignments
                        else {}
                    ),
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
            ValueError: it is something else.
        """
        return cls.from_entries(files.read_entries(TransferEntries, data), template)

    @classmethod
    def from_entries(cls, saved: TransferEntries, template: HookTemplate) -> "TransferReport":
        """The report of these entries.

        Raises:
            ValueError: they name a hook that the template has not.
        """
        layers = {_layer(template, name): entry for name, entry in saved.layers.items()}
        return cls(
            init_from=saved.init_from,
            init_direction=saved.init_direction,
            init_parameters=saved.init_parameters,
            init_alignment=saved.init_alignment,
            source_layers={
                layer: _layer(template, entry.source_hook_name) for layer, entry in layers.items()
            },
            other_alignments={
                layer: entry.init_alignment
                for layer, entry in layers.items()
                if entry.init_alignment is not None
            },
            zero_shot={layer: entry.zero_shot for layer, entry in layers.items()},
            final={layer: entry.final for layer, entry in layers.items() if entry.final},
        )


def _layer(template: HookTemplate, hook_name: str) -> int:
    layer = template.layer_of(hook_name)
    if layer is None:
        raise ValueError(f"{quoted(hook_name)} is not a hook of {template}")
    return layer
