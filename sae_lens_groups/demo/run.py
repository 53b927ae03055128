"""`sae-lens-groups demo`: the main job, offline, on the model that ships with the package."""

import argparse
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_lens_groups import files
from sae_lens_groups.demo.model import D_IN, DATASET_NAME, HOOK_NAME, MODEL_CLASS_NAME, MODEL_FOLDER
from sae_lens_groups.field_values import whole_number
from sae_lens_groups.layers import format_layer_groups, saes_for_layers

CONTEXT_SIZE = 128
D_SAE = 8 * D_IN


def demo(args: Sequence[str]) -> int:
    """Trains a suite, scores every layer on held-out text, and prints the table."""
    parser = argparse.ArgumentParser(
        prog="sae-lens-groups demo",
        description="Trains SAEs for all 12 layers of a small language model of Python source "
        "that ships with the package, scores them on held-out text, and prints the table.",
    )
    parser.add_argument(
        "--layer_groups",
        default="even:3",
        help="as in train: groups such as 0-5,6-10,11, or auto, each or even:G (default: %(default)s)",
    )
    parser.add_argument(
        "--output_path",
        type=files.expanded,
        default=Path("demo_suite"),
        help="default: %(default)s",
    )
    parser.add_argument(
        "--training_tokens",
        type=whole_number,
        default=300_000,
        help="per SAE (default: %(default)s)",
    )
    parsed = parser.parse_args(args)
    files.require_free(parsed.output_path)
    files.require_writable(parsed.output_path)
    _run(parsed.layer_groups, parsed.output_path, parsed.training_tokens)
    return 0


def demo_config(
    layer_groups: str, output_path: Path | str | None, training_tokens: int = 300_000, **flags: Any
) -> Any:
    """The demo's `GroupSAERunnerConfig`; `flags` override its settings."""
    from sae_lens import LoggingConfig, TopKTrainingSAEConfig

    from sae_lens_groups import GroupSAERunnerConfig

    settings = {
        "sae": TopKTrainingSAEConfig(
            d_in=D_IN, d_sae=D_SAE, k=16, normalize_activations="expected_average_only_in"
        ),
        "layer_groups": layer_groups,
        "model_name": str(MODEL_FOLDER),
        "model_class_name": MODEL_CLASS_NAME,
        "hook_name": HOOK_NAME,
        "dataset_path": DATASET_NAME,
        "context_size": CONTEXT_SIZE,
        "training_tokens": training_tokens,
        "train_batch_size_tokens": 1024,
        "store_batch_size_prompts": 32,
        "n_batches_in_buffer": 128,
        "n_batches_for_norm_estimate": 20,
        "lr": 8e-3,
        "lr_decay_steps": training_tokens // 1024 // 5,
        "dead_feature_window": 100,
        "exclude_special_tokens": True,
        "logger": LoggingConfig(log_to_wandb=False),
        "checkpoint_path": None,
        "output_path": None if output_path is None else str(output_path),
        "verbose": False,
    }
    return GroupSAERunnerConfig(**{**settings, **flags})


def _run(layer_groups: str, output_path: Path, training_tokens: int) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the package
    print("Reading the Python standard library's source ...", flush=True)
    from sae_lens_groups import GroupSAETrainingRunner, evaluate_suite
    from sae_lens_groups.demo.model import stdlib_tokens
    from sae_lens_groups.evaluate import evaluation_text

    cfg = demo_config(layer_groups, output_path, training_tokens)
    runner = GroupSAETrainingRunner(cfg, override_dataset=stdlib_tokens("train", CONTEXT_SIZE))
    if runner.plan is not None:
        from sae_lens_groups.plan import plan_text

        print(plan_text(runner.plan), end="\n\n")
    print(
        f"Training {saes_for_layers(runner.groups)} "
        f"(groups {format_layer_groups(runner.groups)}), "
        f"{training_tokens:,} tokens each, from one pass of the language model.",
        flush=True,
    )
    start = time.monotonic()
    suite = runner.run()
    seconds = time.monotonic() - start
    text = stdlib_tokens("held_out", CONTEXT_SIZE)
    again = ["demo", "--layer_groups", layer_groups, "--training_tokens", str(training_tokens)]
    again += ["--output_path", output_path.name]  # no path of this machine
    evaluation = evaluate_suite(
        suite,
        runner.model,
        text,
        dataset_name=DATASET_NAME,
        commands=[f"sae-lens-groups {shlex.join(again)}"],
    )
    print(f"\nTrained in {seconds:.0f} s. Scores on held-out files:\n")
    print(evaluation_text(evaluation))
    drawn = "a page of drawings" if runner.plan is None else "a page of drawings, with the plan"
    print(_next_steps(layer_groups, output_path, next(iter(suite)), drawn))


def _next_steps(layer_groups: str, output_path: Path, hook_name: str, drawn: str) -> str:
    quoted = shlex.quote(str(output_path))
    each = f"""\
  one SAE per layer, slower    sae-lens-groups demo --layer_groups each --output_path demo_each
  compare the two              sae-lens-groups evaluate {quoted} --baseline demo_each
"""
    return f"""
The suite lies in {output_path}: one plain SAELens SAE per layer, the scores in {files.EVALUATION},
and {drawn}, {files.REPORT}.

What to try next:
  load a layer in Python       SAE.load_from_disk("{output_path / hook_name}")
{"" if layer_groups == "each" else each}\
  what its features fire on    sae-lens-groups features {quoted}
  your own model               sae-lens-groups train --help"""
