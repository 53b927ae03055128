"""Writes what later versions have to read: `python -m tests.written_by FOLDER`.

A suite (planned, aligned, normalised, evaluated), a suite that started from it, a checkpoint of a
run that was stopped, a cache and a plan, all of the installed version and small enough to be kept.
"""

import contextlib
import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

from sae_lens_groups import (
    GroupSAETrainingRunner,
    SAESuite,
    cache_activations,
    evaluate_suite,
    measure_layer_distances,
    plan_groups,
)
from sae_lens_groups.errors import TrainingInterrupted

from .tiny import SMALL_LM_BATCHES, group_config, make_model, make_tokens, sae_config

PLANNED: dict[str, Any] = {
    "sae": sae_config("batchtopk", normalize_activations="expected_average_only_in"),
    "layer_groups": "auto:2",
    "plan_tokens": 1600,
    "layer_alignment": "orthogonal",
}
STARTED: dict[str, Any] = {
    "sae": sae_config("batchtopk", normalize_activations="expected_average_only_in"),
    "layer_groups": "1,2",
}
STOPPED: dict[str, Any] = {
    "sae": sae_config("batchtopk"),
    "layer_groups": "0-1,2-3",
    "fast_step": "always",
}
STOPPED_AT = 12  # of 30 steps
CACHED: dict[str, Any] = {"layer_groups": "0-1,3", "training_tokens": 32 * 20}


def train(output_path: str, **settings: Any) -> SAESuite:
    """A short run of the tests' model."""
    cfg = group_config(**SMALL_LM_BATCHES, **settings, output_path=output_path)
    return GroupSAETrainingRunner(cfg, make_tokens(), make_model()).run()


def main() -> None:
    """Writes everything below the folder that is named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    os.chdir(folder)
    suite = train("planned", **PLANNED)
    evaluate_suite(suite, make_model(), make_tokens(20, seed=1), n_batches=2, baseline=suite)
    train("started", **STARTED, init_from="planned", init_alignment="affine")
    train("whole", **STOPPED)
    stop_a_run()
    cfg = group_config(**SMALL_LM_BATCHES, **CACHED, cached_activations_path="cache")
    cache_activations(cfg, override_dataset=make_tokens(), override_model=make_model())
    train("from_cache", **CACHED, use_cached_activations=True, cached_activations_path="cache")
    plan_cfg = group_config(**SMALL_LM_BATCHES, layer_groups="auto", plan_tokens=1600)
    distances = measure_layer_distances(
        plan_cfg, override_model=make_model(), override_dataset=make_tokens()
    )
    plan_groups(distances, "auto:2").save("plan.json")


def stop_a_run() -> None:
    """Leaves the checkpoint of a run that was told to stop."""
    n_updates = itertools.count(1)

    def stop_in_time(*_: Any) -> None:
        if next(n_updates) == 2 * STOPPED_AT:  # each of the two groups has an optimiser
            os.kill(os.getpid(), signal.SIGTERM)

    handle = register_optimizer_step_post_hook(stop_in_time)
    with contextlib.suppress(TrainingInterrupted):
        train("never_written", **STOPPED, checkpoint_path="checkpoints")
    handle.remove()


if __name__ == "__main__":
    main()
