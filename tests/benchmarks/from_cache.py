"""Suites that all read one cache of activations for each seed, scored layer by layer."""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.benchmarks.demo_runs import Figures, Run, cache, in_turn, train
from tests.benchmarks.own_process import log
from tests.benchmarks.real_model import only
from tests.benchmarks.subjects import subject

METRICS = {"explained_variance": "explained variance", "ce_loss_score": "CE-loss score"}
_FLOAT32: Run = {"autocast_lm": False}
_COMMON: Run = {**_FLOAT32, "architecture": "batchtopk"}
Result = Mapping[str, Any]
Planned = Mapping[str, Sequence[list[Run]]]
"""By a curve's name the runs at each of its points."""
Found = dict[str, list[tuple[Result, ...]]]
"""By a curve's name, at each of its points, the results of all seeds."""


class Rounds:
    """Trains and scores BatchTopK SAEs in this process; what the log has is not done again."""

    def __init__(
        self, args: argparse.Namespace, cached_tokens: int, layers: str, scored: Iterable[int]
    ) -> None:
        self._log, self._smollm2 = args.log, args.smollm2
        self._cached_tokens, self._layers, self._scored = cached_tokens, layers, list(scored)
        self._of = subject(args.smollm2)
        self._caches: dict[int, tuple[str, float]] = {}
        self._folders = ExitStack()
        self._model: Any = None
        lines = args.log.read_text().splitlines() if args.log and args.log.exists() else ()
        self._found = {_key(of["runs"], of["seed"]): of for of in map(json.loads, lines)}

    def __enter__(self) -> "Rounds":
        return self

    def __exit__(self, *_: object) -> None:
        self._folders.close()

    def results(self, planned: Planned, seeds: Iterable[int]) -> Found:
        """What `result` gives with every seed, one after the other, as each seed tells something."""
        by_seed = [
            {name: [self.result(runs, seed) for runs in points] for name, points in planned.items()}
            for seed in seeds
        ]
        return {name: list(zip(*(found[name] for found in by_seed))) for name in planned}

    def result(self, runs: list[Run], seed: int) -> Result:
        """Seconds of runs that start from one another, and scores of the last one's layers.

        `lm_cpu_seconds` are those of the language model for a token of the cache.
        """
        if (key := _key(runs, seed)) not in self._found:
            path, lm_cpu_seconds = self._cache(seed)
            with tempfile.TemporaryDirectory() as folder:

                def do(**run: Any) -> Figures:
                    common = {**self._of.settings, **_COMMON, "smollm2": self._smollm2}
                    cached = {"use_cached_activations": True, "cached_activations_path": path}
                    own = {**run, "seed": seed, "is_scored": False}
                    return train(**{**common, **cached, **own})

                seconds = in_turn(runs, folder, do)
                layers = self._scores(Path(folder, str(len(runs) - 1)))
            own = {"lm_cpu_seconds": lm_cpu_seconds, "layers": layers}
            self._found[key] = {"runs": runs, "seed": seed, **seconds, **own}
            log(self._log, self._found[key])
        return self._found[key]

    def _cache(self, seed: int) -> tuple[str, float]:
        if seed not in self._caches:
            path = self._folders.enter_context(tempfile.TemporaryDirectory()) + "/cache"
            settings = {**self._of.settings, **_FLOAT32, "layer_groups": self._layers}
            found = cache(self._cached_tokens, seed, path, self._smollm2, **settings)
            self._caches[seed] = path, found["cpu_seconds"] / found["cached_tokens"]
        return self._caches[seed]

    def _scores(self, suite: Path) -> dict[str, Figures]:
        from sae_lens_groups import evaluate_suite
        from sae_lens_groups.activations import load_hooked_model

        cfg = self._of.config(self._layers, None, 4096)
        if self._model is None:
            self._model = load_hooked_model(cfg, None)
        text, size = self._of.dataset("held_out"), self._of.held_out
        names = map(cfg.hook_template.hook_name, self._scored)
        with only(suite, names) as folder:
            found = evaluate_suite(folder, self._model, text, **size)
        metrics = (*METRICS, "l0")
        return {str(of.layer): {name: of.metrics[name] for name in metrics} for of in found}


def _key(runs: list[Run], seed: int) -> str:
    return json.dumps([runs, seed], sort_keys=True)


def mean(result: Result, metric: str, layers: Iterable[str] | None = None) -> float:
    """A score's mean over all layers, or those given."""
    return statistics.fmean(result["layers"][of][metric] for of in layers or result["layers"])
