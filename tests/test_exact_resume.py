"""A resumed run is the same run: every weight, count and curve to the last bit."""

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from sae_lens import TrainingSAE
from sae_lens.load_model import load_model
from safetensors.torch import load_file
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookedRootModule

from sae_lens_groups import GroupSAETrainingRunner, SAESuite, cache_activations
from sae_lens_groups.demo.model import MODEL_CLASS_NAME, MODEL_FOLDER
from sae_lens_groups.errors import TrainingInterrupted
from sae_lens_groups.train.fast_step import why_not
from sae_lens_groups.train.run import GroupTrainer

from .tiny import ARCHITECTURES, group_config, make_tokens, sae_config

TEXTS = [
    f"def f{n}(x):\n    return x + {n * 37 % 101} * f{n % 7}(x)\n" * (1 + n % 5) for n in range(45)
]
NORMALISED = {"normalize_activations": "expected_average_only_in"}


def stop_after(monkeypatch: pytest.MonkeyPatch, n_steps: int) -> None:
    """Sends this process SIGTERM at the end of a training step."""
    show = GroupTrainer._update_pbar  # pyright: ignore[reportPrivateUsage]

    def stopping(self: GroupTrainer, *args: Any, **kwargs: Any) -> None:
        if self.n_training_steps == n_steps:
            os.kill(os.getpid(), signal.SIGTERM)
        show(self, *args, **kwargs)

    monkeypatch.setattr(GroupTrainer, "_update_pbar", stopping)


def files_of(suite_folder: Path) -> dict[str, bytes]:
    """All that a run wrote but its own settings, which name its folders."""
    return {
        str(path.relative_to(suite_folder)): path.read_bytes()
        for path in sorted(suite_folder.rglob("*"))
        if path.is_file() and path.name not in ("runner_cfg.json", "checksums.json")
    }


def require_same_run(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    run: Callable[..., SAESuite],
    stops: tuple[int, ...],
) -> None:
    """Runs once as a whole, and once stopped after each of these steps; both write the same."""
    run(output_path=str(folder / "whole"))
    resumed_from: dict[str, str] = {}
    for n_steps in stops:
        with monkeypatch.context() as patch:
            stop_after(patch, n_steps)
            with pytest.raises(TrainingInterrupted) as caught:
                run(checkpoint_path=str(folder / "ckpt"), **resumed_from)
        assert caught.value.checkpoint is not None
        resumed_from = {"resume_from_checkpoint": str(caught.value.checkpoint)}
        torch.manual_seed(n_steps)  # what the process drew in the meantime does not matter
    run(output_path=str(folder / "resumed"), **resumed_from)
    whole, resumed = files_of(folder / "whole"), files_of(folder / "resumed")
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if whole[name] != resumed[name]] == []


def runs(
    dataset: Callable[[], Dataset | IterableDataset],
    model: HookedRootModule,
    layer_groups: str = "0-2,3",
    **settings: Any,
) -> Callable[..., SAESuite]:
    """Trains with these settings, and with those of a call."""

    def run(**changes: Any) -> SAESuite:
        cfg = group_config(layer_groups, **{**settings, **changes})
        return GroupSAETrainingRunner(cfg, override_dataset=dataset(), override_model=model).run()

    return run


def fast_steps(architecture: str) -> list[str]:
    return ["never"] if why_not(sae_config(architecture)) else ["always", "never"]


@pytest.mark.parametrize(
    ("architecture", "fast_step", "prefetch"),
    [
        (architecture, fast_step, prefetch)
        for architecture, prefetch in itertools.product(ARCHITECTURES, (0, 3))
        for fast_step in fast_steps(architecture)
    ],
)
def test_every_architecture_goes_on_as_it_would_have(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model: HookedTransformer,
    architecture: str,
    fast_step: str,
    prefetch: int,
) -> None:
    run = runs(
        make_tokens,
        model,
        sae=sae_config(architecture, **NORMALISED),
        fast_step=fast_step,
        prefetch_llm_batches=prefetch,
        feature_sampling_window=8,
        lr_warm_up_steps=5,
        lr_decay_steps=10,
    )
    # 8 is the end of a window of firing counts and of a served round; 23 leaves one half used.
    require_same_run(monkeypatch, tmp_path, run, stops=(8, 23))


@pytest.mark.parametrize("fast_step", ["always", "never"])
def test_an_sae_in_bfloat16_goes_on_as_it_would_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: HookedTransformer, fast_step: str
) -> None:
    sae = sae_config("batchtopk", dtype="bfloat16", **NORMALISED)
    run = runs(make_tokens, model, sae=sae, fast_step=fast_step)
    require_same_run(monkeypatch, tmp_path, run, stops=(8,))


@pytest.fixture(scope="module")
def text_model() -> HookedRootModule:
    """The demo's language model, which has a tokenizer."""
    return load_model(MODEL_CLASS_NAME, str(MODEL_FOLDER), device="cpu")


@pytest.mark.parametrize(
    ("prefetch", "streaming"),
    [(0, False), (3, True), (0, True), (3, False)],
)
def test_half_used_texts_are_gone_on_with(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text_model: HookedRootModule,
    streaming: bool,
    prefetch: int,
) -> None:
    """Texts are cut in their middle, and read more than once."""

    def texts() -> Dataset | IterableDataset:
        dataset = Dataset.from_dict({"text": TEXTS})
        return dataset.to_iterable_dataset() if streaming else dataset

    run = runs(
        texts,
        text_model,
        "3,4-5",
        hook_name="gpt_neox.layers.3",
        sae=sae_config(d_in=96, **NORMALISED),
        exclude_special_tokens=True,
        layers_per_token=2,
        prefetch_llm_batches=prefetch,
        training_tokens=32 * 200,
    )
    with pytest.warns(UserWarning, match="starts over"):
        require_same_run(monkeypatch, tmp_path, run, stops=(3, 75, 166))


@pytest.mark.parametrize("cache_rows", ["all", "drawn"])
def test_cached_activations_are_gone_on_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: HookedTransformer, cache_rows: str
) -> None:
    settings = {"cached_activations_path": str(tmp_path / "cache")}
    cfg = group_config(**settings)
    cache_activations(
        cfg, cache_rows=cache_rows, override_dataset=make_tokens(), override_model=model
    )
    run = runs(make_tokens, model, use_cached_activations=True, **settings)
    require_same_run(monkeypatch, tmp_path, run, stops=(7, 24))


_WHITENED: list[dict[str, Any]] = (
    [{"sae": sae_config("topk", normalize_activations="covariance_whitening")}]
    if hasattr(TrainingSAE, "fold_activation_whitening")  # not yet in SAELens 6.44
    else []
)


@pytest.mark.parametrize(
    "settings",
    [
        {"layer_alignment": "orthogonal"},
        *_WHITENED,
        {"activations_mixing_fraction": 0.0},
        {"seqpos_slice": (2, 12)},
        {"lr_scheduler_name": "cosineannealing"},
        {"init_features": "rows"},
    ],
    ids=str,
)
def test_settings_that_keep_a_state_go_on_too(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model: HookedTransformer,
    settings: dict[str, Any],
) -> None:
    require_same_run(monkeypatch, tmp_path, runs(make_tokens, model, **settings), stops=(11,))


def test_some_groups_of_a_checkpoint_go_on_alone_as_they_would_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: HookedTransformer
) -> None:
    settings: dict[str, Any] = {"sae": sae_config("topk", **NORMALISED)}
    whole = runs(make_tokens, model, "0-1,2,3", **settings)(output_path=str(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        stop_after(patch, 12)
        with pytest.raises(TrainingInterrupted) as caught:
            runs(make_tokens, model, "0-1,2,3", **settings)(checkpoint_path=str(tmp_path / "ckpt"))
    part = runs(make_tokens, model, "0-1,3", **settings)(
        output_path=str(tmp_path / "part"), resume_from_checkpoint=str(caught.value.checkpoint)
    )
    assert part.layers == (0, 1, 3)
    for name in part:
        weights = [
            load_file(path / name / "sae_weights.safetensors")
            for path in (whole.path, part.path)
            if path
        ]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
