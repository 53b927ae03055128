"""Runs of the demo model, or of another subject: each in a process of its own, alone or as a recipe
of several.
"""

import contextlib
import dataclasses
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tests.benchmarks.own_process import in_own_process
from tests.benchmarks.subjects import DEMO, Subject, subject

Run = dict[str, Any]
"""The arguments of `train` that tell a run of a recipe from others."""
Figures = dict[str, float]
Smol = Sequence[str] | None
"""SmolLM2's folder and those of texts, as `subject` takes them."""
CLOCKS = ("seconds", "cpu_seconds")
_OF_ROWS = {"store_batch_size_prompts", "n_batches_for_norm_estimate", "autocast_lm"}
"""Flags that decide which rows there are."""


def sae_config(architecture: str) -> Any:
    """The demo's SAE of an architecture, 768 latents of which 16 fire."""
    from sae_lens import (
        BatchTopKTrainingSAEConfig,
        MatryoshkaBatchTopKTrainingSAEConfig,
        TopKTrainingSAEConfig,
    )

    kinds: dict[str, tuple[Any, Run]] = {
        "topk": (TopKTrainingSAEConfig, {}),
        "batchtopk": (BatchTopKTrainingSAEConfig, {}),
        "matryoshka_batchtopk": (
            MatryoshkaBatchTopKTrainingSAEConfig,
            {"matryoshka_widths": [96, 192, 384, 768]},
        ),
    }
    kind, own = kinds[architecture]
    mode: Any = "expected_average_only_in"
    return kind(d_in=96, d_sae=768, k=16, normalize_activations=mode, **own)


def in_rounds(names: Iterable[str], n_rounds: int) -> Iterator[tuple[int, str]]:
    """The seed of each round with every name, in an order of the round's own."""
    for seed in range(1, n_rounds + 1):
        order = list(names)
        random.Random(seed).shuffle(order)
        yield from ((seed, name) for name in order)


def cook(
    runs: list[Run],
    seed: int,
    cached_tokens: int = 0,
    smollm2: Smol = None,
    one_run: Callable[..., Figures] | None = None,
) -> Figures:
    """Does the runs of a recipe, of which each starts from the suite of the one before.

    `one_run` does each in place of `train`. With `cached_tokens` all read the activations of that
    many tokens, which the language model gives once, before them; over and over, where a run takes
    more. Returns their seconds in all, and the last one's scores.
    """
    seconds: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        cached: Run = {}
        if cached_tokens:
            cached["cached_activations_path"] = f"{folder}/cache"
            common = {name: runs[0][name] for name in _OF_ROWS & runs[0].keys()}
            seconds = in_own_process(
                cache, tokens=cached_tokens, seed=seed, smollm2=smollm2, **cached, **common
            )
            cached["use_cached_activations"] = True

        def do(**run: Any) -> Figures:
            return in_own_process(one_run or train, **run, seed=seed, smollm2=smollm2, **cached)

        found = in_turn(runs, folder, do)
    return {**found, **{name: found[name] + seconds.get(name, 0) for name in CLOCKS}}


def in_turn(runs: list[Run], folder: str, do: Callable[..., Figures]) -> Figures:
    """Does each run from the suite of the one before, in folders 0, 1, ... of a folder.

    Returns their seconds in all, and the last one's scores.
    """
    seconds: Figures = dict.fromkeys(CLOCKS, 0.0)
    scores: Figures = {}
    for n, run in enumerate(runs):
        settings = {**run, "output_path": f"{folder}/{n}", "is_scored": run is runs[-1]}
        if n:
            settings["init_from"] = f"{folder}/{n - 1}"
        scores = do(**settings)
        seconds = {name: sum_ + scores[name] for name, sum_ in seconds.items()}
    return {**scores, **seconds}


def cache(
    tokens: int,
    seed: int,
    cached_activations_path: str,
    smollm2: Smol = None,
    layer_groups: str | None = None,
    **flags: Any,
) -> Figures:
    """Seconds to write activations of the subject's layers or those named, and their tokens.

    The language model's pass is included.
    """
    import torch

    from sae_lens_groups import cache_activations
    from sae_lens_groups.train.cache.manifest import CacheManifest

    torch.set_num_threads(1)
    of = subject(smollm2)
    dataset = of.dataset("train", seed)
    watch = Watch()
    cfg = of.config(layer_groups or of.groups, None, tokens, seed=seed, **flags)
    cfg.cached_activations_path = cached_activations_path
    folder = cache_activations(cfg, cache_dtype="float16", override_dataset=dataset)
    return {**watch.seconds(), "cached_tokens": CacheManifest.load(folder).n_tokens}


def train(
    layer_groups: str,
    tokens: int,
    seed: int,
    output_path: str,
    *,
    is_scored: bool,
    decay: float = 0.2,
    architecture: str = "topk",
    sae: Run | None = None,
    smollm2: Smol = None,
    **flags: Any,
) -> Figures:
    """Seconds of a run with one thread, and its mean scores where they are asked for.

    `sae` is what differs from the subject's SAE of that architecture.

    The seconds are those from the config to the suite on disk, without imports and reading text.
    In the last part `decay` of the run its learning rate falls to nothing.
    """
    import torch

    from sae_lens_groups import GroupSAETrainingRunner

    torch.set_num_threads(1)
    of = subject(smollm2)
    dataset = of.dataset("train", seed)
    watch = Watch()
    flags = {"plan_tokens": 20_000, "seed": seed, **flags}
    flags["sae"] = dataclasses.replace(of.sae(architecture), **(sae or {}))
    cfg = of.config(layer_groups, output_path, tokens, **flags)
    cfg.lr_decay_steps = int(tokens // cfg.train_batch_size_tokens * decay)
    runner = GroupSAETrainingRunner(cfg, override_dataset=dataset)
    suite = runner.run()
    return {
        **watch.seconds(),
        **(mean_scores(suite, runner.model, of, cfg.autocast_lm) if is_scored else {}),
    }


class Watch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._start, self._cpu_start = time.monotonic(), time.process_time()

    def seconds(self) -> Figures:
        """By the clock on the wall, and those in which the processor worked on this process.

        With one thread the latter are what a quiet machine's clock would show.
        """
        return {
            "seconds": time.monotonic() - self._start,
            "cpu_seconds": time.process_time() - self._cpu_start,
        }


def mean_scores(suite: Any, model: Any, of: Subject = DEMO, autocast_lm: bool = True) -> Figures:
    """Means over the layers of a suite, on held-out text."""
    import torch

    from sae_lens_groups import evaluate_suite

    n_batches, as_trained = 3, contextlib.nullcontext()
    if of is not DEMO:  # far slower
        n_batches, as_trained = 1, torch.autocast("cpu", torch.bfloat16, enabled=autocast_lm)
    with as_trained:
        scores = evaluate_suite(suite, model, of.dataset("held_out"), n_batches=n_batches)
    metrics = ("explained_variance", "ce_loss_score", "l0")
    return {name: statistics.fmean(score.metrics[name] for score in scores) for name in metrics}
