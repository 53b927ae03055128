"""Trains for a long time with many checkpoints: `python -m tests.benchmarks.soak --minutes 45`.

The demo's model and `even:3`, one thread, a checkpoint every 30 seconds of which two are kept. Memory
and open files are looked at after every checkpoint; neither may grow. The run ends by SIGTERM.
"""

import argparse
import contextlib
import os
import signal
import statistics
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil


def main() -> None:
    """Prints memory and open files over the run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--every", default="30s")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples, n_tokens = soak(Path(folder), args.minutes, args.every)
    print(f"{len(samples)} checkpoints, {n_tokens:,} tokens per SAE")
    for name in ("rss_mib", "open_files", "threads"):
        values = [sample[name] for sample in samples]
        tenth = max(1, len(values) // 10)
        parts = [values[n * tenth : (n + 1) * tenth] for n in range(len(values) // tenth)]
        medians = ", ".join(f"{statistics.median(part):,.0f}" for part in parts)
        print(f"{name}: {medians} (medians of tenths); highest {max(values):,.0f}")


def soak(folder: Path, minutes: float, every: str) -> tuple[list[dict[str, float]], int]:
    """What each checkpoint found, and the tokens that every SAE was trained on."""
    import torch

    from sae_lens_groups import GroupSAETrainingRunner
    from sae_lens_groups.demo.model import stdlib_tokens
    from sae_lens_groups.demo.run import demo_config
    from sae_lens_groups.errors import TrainingInterrupted
    from sae_lens_groups.train.group_trainer import GroupTrainer

    torch.set_num_threads(1)
    process = psutil.Process()
    samples: list[dict[str, float]] = []
    n_tokens = 0
    save = GroupTrainer.save_checkpoint

    def sampled_save(self: GroupTrainer, *args: Any, **kwargs: Any) -> None:
        nonlocal n_tokens
        save(self, *args, **kwargs)
        n_tokens = self.n_training_samples
        samples.append(
            {
                "rss_mib": process.memory_info().rss / 2**20,
                "open_files": process.num_fds(),
                "threads": process.num_threads(),
            }
        )

    GroupTrainer.save_checkpoint = sampled_save  # type: ignore[method-assign]
    cfg = demo_config(
        "even:3",
        None,
        10**12,
        checkpoint_path=str(folder),
        checkpoint_every=every,
        keep_checkpoints=2,
        lr_decay_steps=0,
    )
    runner = GroupSAETrainingRunner(cfg, override_dataset=stdlib_tokens("train"))
    threading.Timer(minutes * 60, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    with contextlib.suppress(TrainingInterrupted):
        runner.run()
    return samples, n_tokens


if __name__ == "__main__":
    main()
