"""Small real models, datasets and configs that the tests share."""

import fcntl
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from sae_lens import LoggingConfig, TrainingSAEConfig
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.hook_points import HookedRootModule, HookPoint

from sae_lens_groups import GroupSAERunnerConfig
from sae_lens_groups.cli.command_line import ConfigFlags, read_command_line
from sae_lens_groups.cli.flags import parse_flags
from sae_lens_groups.train.fast_step import why_not

D_IN = 16
D_SAE = 48
CONTEXT_SIZE = 16
N_LAYERS = 4
D_VOCAB = 60
HOOK_NAME = "blocks.1.hook_resid_post"

ARCHITECTURES = sorted(
    set(SAE_TRAINING_CLASS_REGISTRY)
    & {
        "standard",
        "gated",
        "topk",
        "abstopk",  # not yet in SAELens 6.44
        "jumprelu",
        "batchtopk",
        "matryoshka_batchtopk",
        "matching_pursuit",
    }
)
_OWN_SETTINGS: dict[str, dict[str, Any]] = {
    "topk": {"k": 4},
    "abstopk": {"k": 4},
    "batchtopk": {"k": 4},
    "matryoshka_batchtopk": {"k": 4, "matryoshka_widths": [12, 24, D_SAE]},
    "matching_pursuit": {"residual_threshold": 0.5, "max_iterations": 4, "decoder_init_norm": 1.0},
}

SMALL_LM_BATCHES: dict[str, Any] = {"store_batch_size_prompts": 4, "n_batches_in_buffer": 8}
"""A pass of the language model for every two steps, for where it matters when they come."""


def sae_config(architecture: str = "topk", **settings: Any) -> TrainingSAEConfig:
    """A small SAE config of an architecture."""
    config_class: Any = SAE_TRAINING_CLASS_REGISTRY[architecture][1]
    own = _OWN_SETTINGS.get(architecture, {})
    return config_class(**{"d_in": D_IN, "d_sae": D_SAE, **own, **settings})


def settings(**changes: Any) -> dict[str, Any]:
    """Settings of a short run, for SAELens's config and for ours."""
    return {
        "sae": sae_config(),
        "model_name": "tiny",
        "hook_name": HOOK_NAME,
        "context_size": CONTEXT_SIZE,
        "training_tokens": 32 * 30,
        "train_batch_size_tokens": 32,
        "store_batch_size_prompts": 16,
        "n_batches_in_buffer": 8,
        "lr": 3e-3,
        "dead_feature_window": 5,
        "n_batches_for_norm_estimate": 8,
        "seed": 7,
        "is_dataset_tokenized": False,
        "logger": LoggingConfig(log_to_wandb=False),
        "checkpoint_path": None,
        "output_path": None,
        "verbose": False,
        **changes,
    }


def group_config(layer_groups: str = "0-2,3", **changes: Any) -> GroupSAERunnerConfig[Any]:
    """A short grouped run.

    The SAEs are so small that the sparse step is not chosen for them. With FAST_STEP=always in the
    environment it is used wherever it can be, which has to change no test's outcome.
    """
    chosen = settings(**changes)
    if "FAST_STEP" in os.environ and not why_not(chosen["sae"]):
        chosen = {"fast_step": os.environ["FAST_STEP"], **chosen}
    return GroupSAERunnerConfig(layer_groups=layer_groups, **chosen)


def parse_config(args: Sequence[str]) -> GroupSAERunnerConfig[Any]:
    """The config that flags of `train` mean."""
    _, line = read_command_line(ConfigFlags("train", needs_layer_groups=True), args)
    return parse_flags(line)


def make_model(n_layers: int = N_LAYERS, norms: tuple[float, ...] = ()) -> HookedTransformer:
    """A random TransformerLens model; `norms` scales what each layer adds to the residual stream."""
    torch.manual_seed(0)
    model = HookedTransformer(
        HookedTransformerConfig(
            n_layers=n_layers,
            d_model=D_IN,
            n_ctx=CONTEXT_SIZE,
            d_head=8,
            n_heads=2,
            d_vocab=D_VOCAB,
            act_fn="gelu",
            device="cpu",
        )
    )
    with torch.no_grad():
        for block, norm in zip(model.blocks, norms):
            block.mlp.W_out.mul_(norm)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    return model


class TableModel(HookedRootModule):
    """A model whose activation at a layer depends on the token alone: a row of that layer's table."""

    tokenizer = None

    def __init__(self, tables: torch.Tensor) -> None:
        super().__init__()
        self.cfg = SimpleNamespace(d_vocab=tables.shape[1])
        self.tables = torch.nn.Parameter(tables, requires_grad=False)  # (L, d_vocab, D)
        self.blocks = torch.nn.ModuleList(_Block() for _ in tables)
        self.setup()

    def forward(self, tokens: torch.Tensor, **_: Any) -> torch.Tensor:
        for table, block in zip(self.tables, self.blocks):
            block.hook_resid_post(table[tokens])  # type: ignore[operator]
        return tokens


class _Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hook_resid_post = HookPoint()


def make_tokens(n_prompts: int = 200, seed: int = 0, highest: int = D_VOCAB) -> Dataset:
    """Prompts of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, highest, (n_prompts, CONTEXT_SIZE), generator=generator)
    return Dataset.from_dict({"tokens": tokens.tolist()})


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]
) -> Path:
    """A folder that all processes of a test run share: the first that asks for it makes it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, done = base / name, base / f"{name} is made"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            done.touch()
    return folder
