"""The language models that recipes are tried on: the demo's, and SmolLM2-135M."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from sae_lens_groups.layers import parse_ranges

# Of every run, SAELens's too. An LM batch of 2,048 tokens is faster here than one of 4,096: it fits
# the processor's cache. 10,240 tokens are enough for a mean norm, and 4,096 of SmolLM2's: SAELens
# gives its runner that many for each layer in turn.
_PROMPTS = {"store_batch_size_prompts": 16}
Split = Literal["train", "held_out"]


class Subject(Protocol):
    """A language model, its text, and how SAEs are trained on it."""

    groups: str
    """The layers that are trained, in runs of four."""
    scored: Sequence[int]
    """Layers to score where all would take too long."""
    held_out: Mapping[str, Any]
    """How much text to score on."""
    settings: Mapping[str, Any]
    """Of all runs."""

    def config(self, layer_groups: str, output_path: str | None, tokens: int, **flags: Any) -> Any:
        """The config of a run; `flags` override its settings."""
        ...

    def dataset(self, split: Split, seed: int = 0) -> Any:
        """Tokens or text, of which a seed shuffles those to train on."""
        ...

    def sae(self, architecture: str) -> Any:
        """The config of an SAE."""
        ...


def layers_of(subject: Subject) -> list[int]:
    """All layers that are trained, lowest first."""
    return [layer for group in parse_ranges(subject.groups) for layer in group.layers]


class Demo:
    """All 12 layers of the demo's model."""

    groups = "0-3,4-7,8-11"
    scored: Sequence[int] = range(12)
    held_out: Mapping[str, Any] = {"n_batches": 3}
    settings: Mapping[str, Any] = {**_PROMPTS, "lr": 8e-3, "n_batches_for_norm_estimate": 5}

    def config(self, layer_groups: str, output_path: str | None, tokens: int, **flags: Any) -> Any:
        from sae_lens_groups.demo.run import demo_config

        return demo_config(layer_groups, output_path, tokens, **flags)

    def dataset(self, split: Split, seed: int = 0) -> Any:
        from sae_lens_groups.demo.model import stdlib_tokens

        return stdlib_tokens(split, seed=seed)

    def sae(self, architecture: str) -> Any:
        from tests.benchmarks.demo_runs import sae_config

        return sae_config(architecture)


DEMO = Demo()


class SmolLM2:
    """Twelve of 30 layers, spread over the depth, as `real_model` trains them.

    No run sees the first position, whose activations are massive in most layers: SAELens has no
    limit to leave them out by.
    """

    groups = "4-7,13-16,22-25"
    scored: Sequence[int] = (5, 15, 16, 24)
    held_out: Mapping[str, Any] = {"n_batches": 1, "batch_size_prompts": 8}
    settings: Mapping[str, Any] = {**_PROMPTS, "lr": 1e-3, "n_batches_for_norm_estimate": 2}

    def __init__(self, model: str, *texts: str) -> None:
        self._model, self._texts = Path(model), [Path(text) for text in texts]

    def config(self, layer_groups: str, output_path: str | None, tokens: int, **flags: Any) -> Any:
        from tests.benchmarks import real_model

        way = real_model.Way(layer_groups, changes={"seqpos_slice": (1, None)})
        cfg = real_model.config(self._model, Path(), way, 1)
        own = {"training_tokens": tokens, "output_path": output_path}
        uncached = {"use_cached_activations": False, "cached_activations_path": None}
        return dataclasses.replace(cfg, **{**uncached, **own, **flags})

    def dataset(self, split: Split, seed: int = 0) -> Any:
        from tests.benchmarks.real_model import texts

        train, held_out = texts(self._texts)
        return train.shuffle(seed=seed) if split == "train" else held_out

    def sae(self, architecture: str) -> Any:
        from sae_lens import BatchTopKTrainingSAEConfig, TopKTrainingSAEConfig

        kind = {"topk": TopKTrainingSAEConfig, "batchtopk": BatchTopKTrainingSAEConfig}
        mode: Any = "expected_average_only_in"
        return kind[architecture](d_in=576, d_sae=2304, k=32, normalize_activations=mode)


def subject(smollm2: Sequence[str] | None) -> Subject:
    """SmolLM2 in a folder, and folders of texts; without them the demo's model."""
    return SmolLM2(*smollm2) if smollm2 else DEMO
