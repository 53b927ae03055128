"""What runs and evaluations say, against a recomputation in float64 that uses none of our code.

`INDEPENDENT_MODEL=FOLDER` and `INDEPENDENT_HOOK=model.layers.N` take another model than the demo's.
"""

import argparse
import contextlib
import csv
import inspect
import json
import os
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from sae_lens_groups.cli import main

from .independent import Model, Prompt, reasons, saes_of, scores

DEMO = Path(__file__).parent.parent / "sae_lens_groups" / "demo" / "model_files"
FOLDER = Path(os.environ.get("INDEPENDENT_MODEL", DEMO))
HOOK = os.environ.get("INDEPENDENT_HOOK", "gpt_neox.layers.3")
D_IN = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))["hidden_size"]
CONTEXT_SIZE, N_PROMPTS = 32, 8
pytestmark = pytest.mark.filterwarnings("ignore:massive activations")  # of real models
# Documents of up to 30,000 tokens each, far longer than what is read of them at once.
TEXTS = [inspect.getsource(of) for of in (argparse, typing, textwrap, json, inspect, contextlib)]


class Trained(NamedTuple):
    suite: Path
    seen: set[tuple[int, ...]]
    """The prompts that the language model read."""


@contextlib.contextmanager
def prompts_read() -> Iterator[set[tuple[int, ...]]]:
    """Those that any embedding of token ids is asked for, whoever asks."""
    found: set[tuple[int, ...]] = set()

    def look(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, torch.nn.Embedding) and args and args[0].shape[-1] == CONTEXT_SIZE:
            found.update(map(tuple, args[0].view(-1, CONTEXT_SIZE).tolist()))

    handle = torch.nn.modules.module.register_module_forward_pre_hook(look)
    try:
        yield found
    finally:
        handle.remove()


def train(
    folder: Path,
    text: Path,
    layer_groups: str,
    *flags: str,
    architecture: str = "topk",
    n_steps: int = 8,
) -> Trained:
    given = f"""
        --model_name {FOLDER} --model_class_name AutoModelForCausalLM --hook_name {HOOK}
        --dataset_path {text} --layer_groups {layer_groups} --output_path {folder} --lr 1e-3
        --architecture {architecture} --d_in {D_IN} --d_sae 256 --k 8 --context_size {CONTEXT_SIZE}
        --training_tokens {256 * n_steps} --train_batch_size_tokens 256 --store_batch_size_prompts 4
        --n_batches_in_buffer 16 --normalize_activations expected_average_only_in
        --n_batches_for_norm_estimate 4 --nolog_to_wandb --checkpoint_path ckpt
    """
    with prompts_read() as seen:
        assert main(["train", *given.split(), *flags]) == 0
    return Trained(folder, seen)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "text"
    folder.mkdir()
    rows = [json.dumps({"text": text}) for text in TEXTS]
    (folder / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(FOLDER)


@pytest.fixture(scope="module")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Trained]:
    """Two suites that were trained on other tokens of the same text, and share some layers."""
    folder = tmp_path_factory.mktemp("suites")
    positions = ("--seqpos_slice", "1", str(CONTEXT_SIZE))
    return [
        train(folder / "special", text, "3-4,6", "--exclude_special_tokens", "True"),
        train(folder / "positions", text, "4-5,6", *positions, "--max_activation_norm_multiple", "1.5"),
    ]  # fmt: skip


def rows_read(suite: Path) -> int:
    return json.loads((suite / "suite.json").read_text(encoding="utf-8"))["dataset_rows_read"]


def test_a_suite_says_which_rows_it_was_trained_on(trained: list[Trained], model: Model) -> None:
    prompts = model.prompts(TEXTS, CONTEXT_SIZE)
    for suite, seen in trained:
        read = [n for n, prompt in enumerate(prompts) if prompt.tokens in seen]
        assert seen == {prompts[n].tokens for n in read}
        assert read == list(range(len(read)))  # from the first one on
        assert rows_read(suite) == prompts[read[-1]].last_row + 1


def evaluated(ours: Path, theirs: Path) -> tuple[list[dict[str, str]], set[tuple[int, ...]]]:
    quick = (
        *("--n_eval_batches", "2", "--eval_batch_size_prompts", str(N_PROMPTS // 2)),
        "--dtype",
        "float32",
    )
    with prompts_read() as seen:
        assert main(["evaluate", str(ours), "--baseline", str(theirs), *quick]) == 0
    return list(csv.DictReader((ours / "evaluation.csv").open(encoding="utf-8"))), seen


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["as trained", "swapped"])
def test_a_comparison_scores_what_neither_was_trained_on_and_both_were_trained_for(
    trained: list[Trained], model: Model, order: tuple[int, int]
) -> None:
    ours, theirs = (trained[n].suite for n in order)
    rows, seen = evaluated(ours, theirs)
    first_row = max(rows_read(ours), rows_read(theirs))
    prompts: list[Prompt] = model.prompts(TEXTS, CONTEXT_SIZE, first_row)[:N_PROMPTS]
    assert seen == {prompt.tokens for prompt in prompts}
    assert not seen & (trained[0].seen | trained[1].seen)

    tokens_ST = torch.tensor([prompt.tokens for prompt in prompts])
    suites = saes_of(ours), saes_of(theirs)
    activations = model.activations(tokens_ST, list(suites[0] | suites[1]))
    left_out = reasons(model, tokens_ST, activations, suites)
    kept_ST = ~torch.stack(list(left_out.values())).any(0)
    assert min(int(of.sum()) for of in left_out.values()) >= 0
    found = {row["hook_name"]: row for row in rows}
    for row in rows:
        assert int(row["n_tokens"]) == int(kept_ST.sum())
        for why, is_left_out_ST in left_out.items():
            assert int(row[f"n_left_out_{why}"]) == int(is_left_out_ST.sum())
    n_compared = 0
    for name, row in found.items():
        given = tokens_ST, name, activations[name]
        of_suites = [scores(model, *given, of[name], kept_ST) for of in suites if name in of]
        for metric, value in of_suites[0].items():
            assert float(row[metric]) == pytest.approx(value, rel=1e-3, abs=1e-4), (name, metric)
        if len(of_suites) == 1:
            continue
        n_compared += 1
        for metric, value in of_suites[1].items():
            shown = float(row[f"{metric}_baseline"]), float(row[f"{metric}_diff"])
            assert shown[0] == pytest.approx(value, rel=1e-3, abs=1e-4), (name, metric)
            assert shown[1] == float(row[metric]) - shown[0]
    assert n_compared == 2


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_the_exported_threshold_lets_k_features_fire_on_what_was_trained_on(
    text: Path, model: Model, tmp_path: Path, architecture: str
) -> None:
    widths = ("--matryoshka_widths", "64", "256") if architecture.startswith("m") else ()
    suite, seen = train(
        tmp_path / "suite", text, "3-4,6", *widths, architecture=architecture, n_steps=100
    )
    saes, tokens_ST = saes_of(suite), torch.tensor(sorted(seen))
    kept_ST = ~torch.stack(
        list(reasons(model, tokens_ST, model.activations(tokens_ST, list(saes)), [saes]).values())
    ).any(0)
    for name, x_STD in model.activations(tokens_ST, list(saes)).items():
        features_BF = saes[name].features(x_STD[kept_ST])
        l0 = (features_BF != 0).sum(-1).double().mean().item()
        assert l0 == pytest.approx(8, rel=0.15), name  # k
        assert saes[name].metadata["l0"] == pytest.approx(l0, rel=0.15), name
