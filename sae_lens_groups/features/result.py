"""What was found of a suite's features: typed values, a table, and examples as text.

Shapes: L layers of the group, C features that were looked at, B bins.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd
import torch

from sae_lens_groups.errors import ConfigError, counted, quoted
from sae_lens_groups.evaluate import FeatureLayers
from sae_lens_groups.features.directions import Elsewhere, LogitLens, Nearest
from sae_lens_groups.features.kept import Examples
from sae_lens_groups.layers import LayerGroup

HISTOGRAM_EDGES = tuple(2.0 ** (n / 2) for n in range(-24, 40))
"""Two bins an octave, so that they need not be moved while text goes by: a size up to the first edge
is in the first bin, one beyond the last in the last."""
STRATA = ("top", "middle", "low")


def stratum(peak: float, highest: float) -> str:
    """The third of a feature's range of activations that an example lies in."""
    return STRATA[2 - min(2, math.floor(3 * abs(peak) / highest))]


@dataclass(frozen=True, kw_only=True)
class LayerFeatures:
    """What a group's features do on one of its layers."""

    layer: int
    n_firings_C: torch.Tensor
    """Tokens on which each fires."""
    highest_C: torch.Tensor
    """Its largest activation, in size."""
    histogram_CB: torch.Tensor
    """Its firings by size, see HISTOGRAM_EDGES."""
    top: Examples
    """The prompts in which it fires highest."""
    sampled: Examples
    """A uniform draw of all prompts in which it fires."""
    lens: LogitLens | None = None
    """None where the model has no unembedding for it."""
    baseline: Nearest | None = None
    """None without a baseline at this layer."""


@dataclass(frozen=True, kw_only=True)
class GroupFeatures:
    """The features of one group's SAE that were looked at."""

    group: LayerGroup
    feature_C: torch.Tensor
    """Their numbers in the SAE."""
    layers: tuple[LayerFeatures, ...]
    n_tokens: int
    previous: Nearest | None = None
    """The nearest in the group below, and in the one above; None at the ends."""
    next: Nearest | None = None
    elsewhere: Elsewhere | None = None
    """In the other groups; None where there are none."""

    @cached_property
    def spread(self) -> FeatureLayers:
        """How firings spread over the layers."""
        n_firings_LC = torch.stack([of.n_firings_C for of in self.layers])
        return FeatureLayers(self.group, n_firings_LC.numpy(), self.n_tokens)

    def name(self, c: int) -> str:
        """What the feature is called on the page and by `steer`: `layers_4-7/17`."""
        return f"{self.group.name}/{int(self.feature_C[c])}"


class Example(NamedTuple):
    """A piece of text in which a feature fires."""

    stratum: str
    """Which third of the feature's range it peaks in: top, middle or low."""
    peak: float
    """The feature's largest activation in the prompt."""
    prompt: int
    """The prompt's number, in the order of reading."""
    tokens: list[str]
    activations: dict[int, list[float]]
    """Of the same feature on each layer of its group, a token each."""

    def __str__(self) -> str:
        return "".join(self.tokens)


@dataclass(frozen=True, kw_only=True)
class SuiteFeatures:
    """What one pass over text found of a suite's features."""

    groups: tuple[GroupFeatures, ...]
    n_tokens: int
    """That count: those that training would have kept."""
    n_prompts: int
    context_size: int
    dataset_name: str
    texts: Mapping[int, str]
    """Of the tokens that are shown."""
    baseline_name: str | None = None
    n_bytes: int = 0
    """Memory that was taken for it, however many tokens there are."""

    def find(self, name: str) -> tuple[GroupFeatures, int]:
        """Where a feature such as `layers_4-7/17` stands.

        Raises:
            ConfigError: it is not there.
        """
        group_name, _, number = name.partition("/")
        for of in self.groups:
            if of.group.name == group_name and number.isdecimal():
                found = (of.feature_C == int(number)).nonzero()
                if len(found):
                    return of, int(found[0])
        raise ConfigError(
            f"feature {quoted(name)} was not looked at; there are "
            + ", ".join(
                f"{counted(len(of.feature_C), 'feature')} of {of.group.name}" for of in self.groups
            )
            + f", the first {self.groups[0].name(0)}"
        )

    def examples(self, name: str, layer: int) -> list[Example]:
        """A feature's examples at one layer: the highest first, then the draw of the others."""
        of, c = self.find(name)
        at = next((found for found in of.layers if found.layer == layer), None)
        if at is None:
            raise ConfigError(f"feature {name} has no layer {layer}; its layers are {of.group}")
        return list(self._examples(of, at, c))

    def _examples(self, of: GroupFeatures, at: LayerFeatures, c: int) -> Iterator[Example]:
        highest, seen = float(at.highest_C[c]), set[int]()
        for kept in (at.top, at.sampled):
            for k in kept.places(c):
                prompt, peak = int(kept.prompt_CK[c, k]), float(kept.peak_CK[c, k])
                if prompt in seen:
                    continue
                seen.add(prompt)
                tokens = [self.texts[token] for token in kept.token_CKW[c, k].tolist()]
                activations = dict(zip(of.group.layers, kept.activation_CKLW[c, k].tolist()))
                yield Example(stratum(peak, highest), peak, prompt, tokens, activations)

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row per feature and layer: the lines of `features.csv`."""
        for of in self.groups:
            entropy_C = of.spread.entropy_F
            for at in of.layers:
                for c in range(len(of.feature_C)):
                    yield {
                        "feature": of.name(c),
                        "group": of.group.name,
                        "index": int(of.feature_C[c]),
                        "layer": at.layer,
                        "density": int(at.n_firings_C[c]) / of.n_tokens,
                        "highest": float(at.highest_C[c]),
                        "entropy": None
                        if math.isnan(entropy_C[c])
                        else round(float(entropy_C[c]), 4),
                        **self._raised(at, c),
                    }

    def _raised(self, at: LayerFeatures, c: int) -> dict[str, str]:
        if at.lens is None:
            return {}
        both = {"raised": at.lens.raised_CN, "lowered": at.lens.lowered_CN}
        return {name: self.texts[int(tokens_CN[c, 0])] for name, tokens_CN in both.items()}

    def to_dataframe(self) -> pd.DataFrame:
        """The same as a table, for pandas or `wandb.Table(dataframe=...)`."""
        return pd.DataFrame(list(self.rows()))
