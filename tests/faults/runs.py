"""The runs that are killed: the demo's model, SAEs of four architectures, two kinds of dataset; and
the recipe of a whole suite.
"""

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset, IterableDataset
from sae_lens import LoggingConfig
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from tqdm import tqdm

from sae_lens_groups import GroupSAERunnerConfig, GroupSAETrainingRunner
from sae_lens_groups.cli import main
from sae_lens_groups.demo.corpus import stdlib_texts
from sae_lens_groups.demo.model import D_IN, HOOK_NAME, MODEL_CLASS_NAME, MODEL_FOLDER

_BATCH_SIZE, N_STEPS = 128, 80
_OWN_SETTINGS: dict[str, dict[str, Any]] = {"topk": {"k": 8}, "batchtopk": {"k": 8}}


@dataclass(frozen=True)
class RunKind:
    """What is trained on what."""

    architecture: str
    is_streamed: bool
    """Texts that are tokenised on the way, and not tokens in memory."""
    prefetch: int

    def __str__(self) -> str:
        dataset = "streamed texts" if self.is_streamed else "tokens"
        return f"{self.architecture}, {dataset}, {self.prefetch} batches ahead"


ALL_KINDS = [
    RunKind(*kind)
    for kind in itertools.product(
        ("topk", "batchtopk", "jumprelu", "standard"), (False, True), (0, 2)
    )
]


def train(kind: RunKind, dataset: Dataset | IterableDataset, folder: Path, name: str) -> None:
    """Trains to the end, from the newest checkpoint where there is one; writes `folder/name`."""
    torch.set_num_threads(1)
    torch.seed()  # what the process drew before must not matter
    config_class: Any = SAE_TRAINING_CLASS_REGISTRY[kind.architecture][1]
    sae = config_class(
        d_in=D_IN,
        d_sae=256,
        normalize_activations="expected_average_only_in",
        **_OWN_SETTINGS.get(kind.architecture, {}),
    )
    cfg = GroupSAERunnerConfig(
        sae=sae,
        layer_groups="1-2,4",
        model_name=str(MODEL_FOLDER),
        model_class_name=MODEL_CLASS_NAME,
        hook_name=HOOK_NAME,
        context_size=32,
        training_tokens=_BATCH_SIZE * N_STEPS,
        train_batch_size_tokens=_BATCH_SIZE,
        store_batch_size_prompts=8,
        n_batches_in_buffer=64,
        n_batches_for_norm_estimate=8,
        prefetch_llm_batches=kind.prefetch,
        feature_sampling_window=50,
        dead_feature_window=20,
        lr=4e-3,
        lr_decay_steps=N_STEPS // 4,
        exclude_special_tokens=True,
        fast_step="always" if "topk" in kind.architecture else "auto",
        checkpoint_path=str(folder / f"{name} checkpoints"),
        checkpoint_every=str(10 * _BATCH_SIZE),
        keep_checkpoints=2,
        resume_from_checkpoint="auto",
        output_path=str(folder / name),
        logger=LoggingConfig(log_to_wandb=False),
        verbose=False,
    )
    GroupSAETrainingRunner(cfg, override_dataset=dataset).run()


def cook(folder: Path, name: str) -> None:
    """`sae-lens-groups suite` on the tokens in `folder/text`; writes `folder/name/suite`."""
    torch.set_num_threads(1)
    torch.seed()
    (folder / name).mkdir(exist_ok=True)
    os.chdir(folder / name)  # its tables name the suite by its folder
    words = [
        *("--architecture", "batchtopk", "--output_path", "suite"),
        *("--model_name", str(MODEL_FOLDER), "--model_class_name", MODEL_CLASS_NAME),
        *("--hook_name", HOOK_NAME, "--dataset_path", str(folder / "text"), "--context_size", "32"),
        *("--layer_groups", "1-2,3-4", "--budget", "0.5", "--d_sae", "256", "--k", "8"),
        *("--normalize_activations", "expected_average_only_in", "--lr", "4e-3"),
        *("--training_tokens", "10240", "--train_batch_size_tokens", str(_BATCH_SIZE)),
        *("--store_batch_size_prompts", "8", "--n_batches_in_buffer", "64"),
        *("--checkpoint_every", str(10 * _BATCH_SIZE), "--refit_tokens", "2048"),
        *("--nolog_to_wandb", "--noverbose"),
    ]
    assert main(["suite", *words]) == 0


def make_dataset(is_streamed: bool) -> Dataset | IterableDataset:
    """A part of the standard library's source, as texts or as tokens."""
    datasets.disable_progress_bars()
    tqdm.monitor_interval = 0  # no thread that a fork would lose
    texts = Dataset.from_dict({"text": stdlib_texts("held_out")[:60]})
    if is_streamed:
        return texts.to_iterable_dataset()
    from sae_lens_groups.demo.model import stdlib_tokens

    return stdlib_tokens("held_out", 32)
