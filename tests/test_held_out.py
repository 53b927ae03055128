"""Which rows of its dataset a suite was trained on, and that none of them is scored."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sae_lens_groups import (
    GroupSAETrainingRunner,
    SAESuite,
    cache_activations,
)
from sae_lens_groups.errors import TrainingInterrupted
from sae_lens_groups.train import refit_suite
from tests.test_exact_resume import stop_after
from tests.tiny import (
    CONTEXT_SIZE,
    D_IN,
    TableModel,
    group_config,
    make_model,
    make_tokens,
    sae_config,
)

N_DOCUMENTS = 40
BOS = N_DOCUMENTS
HOOK_NAME = "blocks.0.hook_resid_post"


class Reader(TableModel):
    """A model whose every token says which row of the dataset it comes from, and which keeps them."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        super().__init__(torch.randn(2, N_DOCUMENTS + 1, D_IN, generator=generator))
        self.tokenizer: Any = SimpleNamespace(bos_token_id=BOS, decode=str)  # type: ignore[assignment]
        self.seen: list[torch.Tensor] = []

    def to_tokens(self, text: str, **_: Any) -> torch.Tensor:
        return torch.tensor([[int(word) for word in text.split()]])

    def forward(self, tokens: torch.Tensor, **_: Any) -> torch.Tensor:
        self.seen.append(tokens)
        super().forward(tokens)
        return torch.nn.functional.one_hot(tokens, N_DOCUMENTS + 1).float()

    @property
    def rows(self) -> set[int]:
        """Rows of which any token was read."""
        return set(torch.cat([tokens.flatten() for tokens in self.seen]).tolist()) - {BOS}


def write_text(lengths: list[int], folder: Path) -> str:
    """A row of so many tokens each, all of them the row's number."""
    folder.mkdir()
    rows = [{"text": " ".join([str(row)] * length)} for row, length in enumerate(lengths)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(folder)


def config(dataset_path: str, **changes: Any) -> Any:
    small: dict[str, Any] = {
        "hook_name": HOOK_NAME,
        "dataset_path": dataset_path,
        "context_size": 8,
        "training_tokens": 64,
        "train_batch_size_tokens": 16,
        "n_batches_in_buffer": 4,
        "store_batch_size_prompts": 2,
    }
    return group_config("0-1", **small | changes)


def trained(model: Reader, dataset_path: str, **changes: Any) -> SAESuite:
    return GroupSAETrainingRunner(config(dataset_path, **changes), override_model=model).run()


def packed(lengths: list[int], context_size: int, prepend_bos: bool) -> list[list[int]]:
    """Prompts of such documents, in plain Python: SAELens's rule, with BOS between documents."""
    prompts, prompt = [], list[int]()
    for row, length in enumerate(lengths):
        left = length
        while left:
            if (not prompt and prepend_bos) or (prompt and left == length):
                prompt.append(BOS)
            n = min(left, context_size - len(prompt))
            prompt, left = prompt + [row] * n, left - n
            if len(prompt) == context_size:
                prompts.append(prompt)
                prompt = []
    return prompts


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 4000), min_size=4, max_size=N_DOCUMENTS),
    context_size=st.sampled_from([4, 8, 32]),
    training_tokens=st.integers(1, 40),
    prepend_bos=st.booleans(),
    n_ahead=st.sampled_from([0, 2]),
)
@example(
    lengths=[4000] * 4,  # all that is read lies within the first
    context_size=8,
    training_tokens=10,
    prepend_bos=True,
    n_ahead=0,
)
def test_the_rows_read_are_those_of_which_the_model_saw_a_token(
    lengths: list[int],
    context_size: int,
    training_tokens: int,
    prepend_bos: bool,
    n_ahead: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    lengths = [*lengths, 4000]  # so that the dataset does not start over
    model = Reader()
    suite = trained(
        model,
        write_text(lengths, tmp_path_factory.mktemp("data") / "text"),
        context_size=context_size,
        training_tokens=16 * training_tokens,
        n_batches_in_buffer=64 // context_size,
        prepend_bos=prepend_bos,
        prefetch_llm_batches=n_ahead,
    )
    assert suite.manifest.dataset_rows_read == max(model.rows) + 1
    prompts = packed(lengths, context_size, prepend_bos)
    read = {tuple(prompt) for tokens in model.seen for prompt in tokens.tolist()}
    last = max(n for n, prompt in enumerate(prompts) if tuple(prompt) in read)
    assert suite.manifest.dataset_rows_read == 1 + max(set(prompts[last]) - {BOS})


FORMS: dict[str, dict[str, Any]] = {
    "text": {},
    "kept in memory": {"streaming": False},
    "made ahead": {"prefetch_llm_batches": 3},
    "norms": {"sae": sae_config(normalize_activations="expected_average_only_in")},
    "maps": {"layer_alignment": "affine", "plan_tokens": 600},
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_which_the_sae_is_made_are_counted(form: str, tmp_path: Path) -> None:
    model = Reader()
    suite = trained(model, write_text([50] * N_DOCUMENTS, tmp_path / "text"), **FORMS[form])
    assert suite.manifest.dataset_rows_read == max(model.rows) + 1 < N_DOCUMENTS


def test_pretokenised_rows_are_counted_to_the_last_prompt(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    datasets.Dataset.from_dict({"tokens": [[row] * 8 for row in range(40)]}).save_to_disk(folder)
    model = Reader()
    # Norms are estimated on the first 1,024 tokens, which would be all.
    suite = trained(model, str(folder), max_activation_norm_multiple=0.0)
    assert suite.manifest.dataset_rows_read == max(model.rows) + 1


def test_all_rows_were_read_once_the_dataset_starts_over(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="starts over"):
        suite = trained(Reader(), write_text([9] * 20, tmp_path / "text"), training_tokens=640)
    assert suite.manifest.dataset_rows_read == 20


@pytest.mark.slow
@pytest.mark.parametrize("cache_rows", ["all", "drawn"])
def test_a_run_from_cached_activations_counts_as_one_from_text(
    cache_rows: str, tmp_path: Path
) -> None:
    text = write_text([300] * N_DOCUMENTS, tmp_path / "text")
    changes = {"cached_activations_path": str(tmp_path / "cache"), "training_tokens": 1600}
    model = Reader()
    cache_activations(config(text, **changes), cache_rows=cache_rows, override_model=model)
    n_rows = max(model.rows) + 1
    cached = trained(Reader(), text, **changes, use_cached_activations=True)
    assert cached.manifest.dataset_rows_read == n_rows
    assert trained(Reader(), text, training_tokens=1600).manifest.dataset_rows_read == n_rows


def test_a_resumed_run_counts_what_the_first_one_read(tmp_path: Path) -> None:
    text = write_text([9] * 20, tmp_path / "text")
    changes = {"checkpoint_path": str(tmp_path / "ckpt"), "save_final_checkpoint": True}
    with pytest.warns(UserWarning, match="starts over"):
        whole = trained(Reader(), text, **changes, training_tokens=240)
    (checkpoint,) = (tmp_path / "ckpt").glob("*/final_*")
    again = {"resume_from_checkpoint": str(checkpoint), "training_tokens": 256}
    with pytest.warns(UserWarning, match="training_tokens was 240"):
        resumed = trained(Reader(), text, **changes | again)
    assert resumed.manifest.dataset_rows_read == whole.manifest.dataset_rows_read == 20


def test_a_run_may_be_resumed_in_the_middle_of_a_long_first_document(tmp_path: Path) -> None:
    text = write_text([400], tmp_path / "text")
    changes = {"checkpoint_path": str(tmp_path / "ckpt"), "save_final_checkpoint": True}
    trained(Reader(), text, **changes, training_tokens=384, n_batches_in_buffer=8)
    (checkpoint,) = (tmp_path / "ckpt").glob("*/final_*")
    again = {"resume_from_checkpoint": str(checkpoint), "training_tokens": 480}
    with pytest.warns(UserWarning, match="starts over|training_tokens was 384"):
        suite = trained(Reader(), text, **changes | again, n_batches_in_buffer=8)
    assert suite.manifest.dataset_rows_read == 1


def test_rows_that_were_trained_on_are_not_scored_without_a_word(tmp_path: Path) -> None:
    path, model = write_text([30] * N_DOCUMENTS, tmp_path / "text"), Reader()
    suite = trained(model, path)
    rows = datasets.load_dataset("json", data_files=f"{path}/train.jsonl", split="train")
    n_read = suite.manifest.rows_trained_on
    assert n_read is not None
    few = {"n_batches": 1, "batch_size_prompts": 2}
    with pytest.warns(UserWarning, match=rf"first {n_read} rows .* give dataset.skip\({n_read}\)"):
        suite.evaluate(model, rows, **few)
    suite.evaluate(model, rows.skip(n_read), **few)  # a warning is an error in these tests


# --- of what a run starts from, and what comes after training ---


def tokens_run(folder: Path, output_path: str, **changes: Any) -> SAESuite:
    """Trains on the first of 400 prompts of 16 tokens that lie in the folder."""
    if not (folder / "tokens").exists():
        make_tokens(400).save_to_disk(folder / "tokens")
    where = {"dataset_path": str(folder / "tokens"), "output_path": str(folder / output_path)}
    cfg = group_config(**{"training_tokens": 32 * 20, **where, **changes})
    return GroupSAETrainingRunner(cfg, override_model=make_model()).run()


def test_a_resumed_run_knows_what_it_started_from_had_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_of_source = tokens_run(tmp_path, "source", training_tokens=32 * 100).manifest
    start = {"layer_groups": "each", "init_from": str(tmp_path / "source")}
    whole = tokens_run(tmp_path, "whole", **start)
    assert whole.manifest.dataset_rows_read == n_of_source.dataset_rows_read
    saving = {"checkpoint_path": str(tmp_path / "ckpt"), "resume_from_checkpoint": "auto"}
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        with pytest.raises(TrainingInterrupted):
            tokens_run(tmp_path, "resumed", **start, **saving)
    resumed = tokens_run(tmp_path, "resumed", **start, **saving)
    assert resumed.manifest == whole.manifest


def test_a_run_that_starts_from_rows_nobody_counted_says_nothing_of_rows(tmp_path: Path) -> None:
    tokens_run(tmp_path, "source")
    path = tmp_path / "source/suite.json"
    entries = json.loads(path.read_text()) | {"dataset_rows_read": None}
    path.write_text(json.dumps(entries))
    (tmp_path / "source/checksums.json").unlink()
    started = tokens_run(tmp_path, "started", init_from=str(tmp_path / "source"))
    assert started.manifest.dataset_rows_read is None


def test_rows_that_decoders_were_refitted_to_count_as_read(tmp_path: Path) -> None:
    n_tokens, plain = 5000, tokens_run(tmp_path, "plain")
    n_prompts = -(-n_tokens // CONTEXT_SIZE)
    n_trained = plain.manifest.dataset_rows_read
    assert n_trained is not None
    assert n_trained < n_prompts
    during = tokens_run(tmp_path, "during", refit_tokens=n_tokens)
    after = refit_suite(plain, make_model(), make_tokens(400), n_tokens)
    for suite in (during, after):
        n_read = suite.manifest.dataset_rows_read
        assert n_read is not None
        assert n_prompts <= n_read <= n_prompts + 16  # whole LM batches of 16 prompts
    elsewhere = refit_suite(plain, make_model(), make_tokens(400, seed=1), n_tokens)
    assert elsewhere.manifest.dataset_rows_read == n_trained
