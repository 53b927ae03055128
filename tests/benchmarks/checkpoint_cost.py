"""What checkpoints cost a run of Pythia-160M's shape: `python -m tests.benchmarks.checkpoint_cost`.

Four SAEs (`even:3`) of 12 layers of width 768, d_sae 12,288, k 32, and a shuffle buffer of 32,768
rows; random weights. A checkpoint is saved after every training step but the first; the seconds of
each are compared with the five minutes that would lie between two.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

INTERVAL = 300.0  # seconds
BATCHES_IN_BUFFER = 16


def main() -> None:
    """Prints the seconds of the checkpoints, their size, and their share of five minutes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="on which disk they are written")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        seconds, n_bytes = timed_checkpoints(Path(folder), args.checkpoints, args.threads)
    median = statistics.median(seconds)
    print(
        f"{len(seconds)} checkpoints of {n_bytes / 2**20:,.0f} MiB: median {median:.1f} s "
        f"({min(seconds):.1f} to {max(seconds):.1f}); one per 5 minutes takes "
        f"{median / (INTERVAL + median):.2%} of the throughput"
    )


def timed_checkpoints(folder: Path, n_checkpoints: int, threads: int) -> tuple[list[float], int]:
    """The seconds that each checkpoint took, and the bytes of the last."""
    import torch
    from sae_lens import LoggingConfig

    from sae_lens_groups import GroupSAERunnerConfig, GroupSAETrainingRunner
    from sae_lens_groups.train.group_trainer import GroupTrainer
    from tests.benchmarks.speed.jobs import CONTEXT_SIZE, GROUPS, HOOKED_TRANSFORMER, SHAPES, Job
    from tests.benchmarks.speed.models import make_dataset, make_model, sae_config

    torch.set_num_threads(threads)
    batch = SHAPES["pythia-160m"].batch
    job = Job(
        way=GROUPS,
        shape_name="pythia-160m",
        model_class=HOOKED_TRANSFORMER,
        n_layers=12,
        lm_dtype="float32",
        layer_groups="even:3",
        single_layers=(),
        normalize_activations="none",
        tokens=batch * (n_checkpoints + 1),
        batch=batch,
        batches_in_buffer=BATCHES_IN_BUFFER,
        device="cpu",
        threads=threads,
        seed=0,
    )
    cfg = GroupSAERunnerConfig(
        sae=sae_config(job),
        layer_groups=job.layer_groups,
        model_name="random",
        hook_name=job.hook_name(0),
        context_size=CONTEXT_SIZE,
        training_tokens=job.tokens,
        train_batch_size_tokens=batch,
        store_batch_size_prompts=16,
        n_batches_in_buffer=job.n_batches_in_buffer,
        checkpoint_path=str(folder),
        checkpoint_every=str(batch),
        keep_checkpoints=1,
        logger=LoggingConfig(log_to_wandb=False),
        verbose=False,
    )
    seconds: list[float] = []
    save = GroupTrainer.save_checkpoint

    def timed_save(self: GroupTrainer, *args: Any, **kwargs: Any) -> None:
        start = time.monotonic()
        save(self, *args, **kwargs)
        seconds.append(time.monotonic() - start)

    GroupTrainer.save_checkpoint = timed_save  # type: ignore[method-assign]
    GroupSAETrainingRunner(
        cfg, override_dataset=make_dataset(job), override_model=make_model(job)
    ).run()
    (run_folder,) = (path for path in folder.iterdir() if path.is_dir())
    last = max(run_folder.iterdir(), key=lambda path: int(path.name))
    return seconds[1:], sum(path.stat().st_size for path in last.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
