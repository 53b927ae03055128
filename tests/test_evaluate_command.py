"""`sae-lens-groups evaluate`, as a user meets it."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset, load_from_disk

from sae_lens_groups import SAESuite, evaluate_suite
from sae_lens_groups.activations.model import load_with_hooks
from sae_lens_groups.cli import main
from sae_lens_groups.demo.model import MODEL_CLASS_NAME, MODEL_FOLDER, stdlib_tokens

HOOK_NAMES = [f"gpt_neox.layers.{layer}" for layer in (3, 4, 11)]
QUICK = ("--n_eval_batches", "2", "--eval_batch_size_prompts", "4")


def train(folder: Path, dataset: Path, layer_groups: str = "3-4,11", **changes: str) -> Path:
    flags = {
        "model_name": str(MODEL_FOLDER),
        "model_class_name": MODEL_CLASS_NAME,
        "hook_name": "gpt_neox.layers.3",
        "dataset_path": str(dataset),
        "layer_groups": layer_groups,
        "output_path": str(folder),
        "architecture": "topk",
        "d_in": "96",
        "d_sae": "192",
        "k": "8",
        "context_size": "32",
        "training_tokens": "2048",
        "train_batch_size_tokens": "256",
        "store_batch_size_prompts": "8",
        "n_batches_in_buffer": "16",
        "lr": "1e-3",
        "normalize_activations": "expected_average_only_in",
        "n_batches_for_norm_estimate": "4",
        **changes,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    assert main(["train", *words, "--nolog_to_wandb", "--checkpoint_path", "ckpt"]) == 0
    return folder


@pytest.fixture(scope="module")
def tokens_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tokens"
    stdlib_tokens("held_out", 32).select(range(400)).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def suite_folder(tokens_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suites")
    train(folder / "grouped", tokens_folder)
    train(folder / "each", tokens_folder, "each", lr="2e-3")
    return folder / "grouped"


def altered(suite_folder: Path, tmp_path: Path) -> Path:
    """A copy whose files may be edited, like a suite of an older version."""
    folder = Path(shutil.copytree(suite_folder, tmp_path / "suite"))
    (folder / "checksums.json").unlink()
    return folder


def failure(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The message of a command that has to end with status 2."""
    capsys.readouterr()
    assert main(["evaluate", *args]) == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    (line,) = [line for line in shown.err.splitlines() if "error:" in line]
    return line.removeprefix("sae-lens-groups evaluate: error: ")


def test_it_prints_the_table_and_writes_all_files(
    suite_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = suite_folder.with_name("each")
    capsys.readouterr()
    assert main(["evaluate", str(suite_folder), "--baseline", str(baseline), *QUICK]) == 0
    shown = capsys.readouterr().out
    rows = list(csv.DictReader((suite_folder / "evaluation.csv").open(encoding="utf-8")))
    assert [row["hook_name"] for row in rows] == HOOK_NAMES
    for row in rows:
        assert f"{float(row['explained_variance']):.4f}" in shown
        assert f"{float(row['explained_variance_diff']):+.4f}" in shown
    assert "baseline 'each', 3 layers" in shown
    assert "of tokens: 8 prompts of 32 tokens" in shown
    assert f"Look at it: {suite_folder / 'report.html'}" in shown
    page = (suite_folder / "report.html").read_text(encoding="utf-8")
    assert f"sae-lens-groups evaluate {suite_folder.name} --baseline {baseline.name}" in page
    results = json.loads((suite_folder / "evaluation" / "all_eval_results.json").read_text())
    assert [result["sae_id"] for result in results] == HOOK_NAMES


def test_what_people_read_holds_no_local_path(
    suite_folder: Path, tokens_folder: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(MODEL_FOLDER, tmp_path / "models" / "my_model"))
    flags = ["--baseline", str(suite_folder.with_name("each")), f"--dataset_path={tokens_folder}"]
    flags += ["--model_name", str(model), *QUICK]
    assert main(["evaluate", str(suite_folder), *flags]) == 0
    page = (suite_folder / "report.html").read_text(encoding="utf-8").partition("<body>")[2]
    table = (suite_folder / "evaluation" / "layers.md").read_text(encoding="utf-8")
    for text in (page, table):
        for folder in (tmp_path, tokens_folder.parent, suite_folder.parent, MODEL_FOLDER.parent):
            assert str(folder) not in text
    assert "evaluate grouped --baseline each --dataset_path=tokens --model_name my_model" in page
    assert "`each`" in table


def test_the_table_for_the_card_has_the_scores_of_each_layer(suite_folder: Path) -> None:
    assert main(["evaluate", str(suite_folder), *QUICK]) == 0
    text = (suite_folder / "evaluation" / "layers.md").read_text(encoding="utf-8")
    assert "measured on 8 prompts of 32 tokens of `tokens`." in text
    head, _, *body = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    names = "layer hook_name group explained_variance ce_loss_score l0 dead_features mse"
    assert head == [*names.split(), "scaling_factor"]
    rows = list(csv.DictReader((suite_folder / "evaluation.csv").open(encoding="utf-8")))
    for row, cells in zip(rows, body[:-1], strict=True):
        assert cells[:3] == [row["layer"], f"`{row['hook_name']}`", row["group"][7:]]
        assert cells[3] == f"{float(row['explained_variance']):.4f}"
        assert cells[6] == f"{float(row['dead_features']):.1%}"
    mean = sum(float(row["explained_variance"]) for row in rows) / len(rows)
    assert body[-1][0] == "**mean**"
    assert body[-1][3] == f"**{mean:.4f}**"
    assert "- `l0`: Features active per token." in text


def test_it_evaluates_the_rows_that_training_has_not_read(
    suite_folder: Path, tokens_folder: Path
) -> None:
    assert main(["evaluate", str(suite_folder), *QUICK]) == 0
    suite = SAESuite.load(suite_folder)
    n_rows_read = suite.manifest.dataset_rows_read
    assert n_rows_read is not None
    assert 2048 / 32 <= n_rows_read < 300
    rows = load_from_disk(str(tokens_folder))
    assert isinstance(rows, Dataset)
    model = load_with_hooks(MODEL_CLASS_NAME, str(MODEL_FOLDER), HOOK_NAMES, "cpu", {})
    suite.path = None
    expected = evaluate_suite(
        suite, model, rows.select(range(n_rows_read, 400)), n_batches=2, batch_size_prompts=4
    )
    found = list(csv.DictReader((suite_folder / "evaluation.csv").open(encoding="utf-8")))
    for row, score in zip(found, expected, strict=True):
        assert float(row["explained_variance"]) == score.metrics["explained_variance"]


def rows_read(folder: Path) -> int:
    n_rows = SAESuite.load(folder).manifest.dataset_rows_read
    assert n_rows is not None
    return n_rows


def first_row_evaluated(suite_folder: Path, tokens_folder: Path) -> int:
    """Found by the loss of the language model, which every set of prompts has its own."""
    (row, *_) = csv.DictReader((suite_folder / "evaluation.csv").open(encoding="utf-8"))
    rows = load_from_disk(str(tokens_folder))
    assert isinstance(rows, Dataset)
    tokens = torch.tensor(rows["tokens"][:])
    model = load_with_hooks(MODEL_CLASS_NAME, str(MODEL_FOLDER), HOOK_NAMES[:1], "cpu", {})
    with torch.no_grad():
        log_probs = model(tokens)[:, :-1].log_softmax(-1)
    losses = -log_probs.gather(-1, tokens[:, 1:, None]).squeeze(-1).mean(1)
    means = losses.unfold(0, 8, 1).mean(1)  # of QUICK's eight prompts
    return int((means - float(row["ce_loss_without_sae"])).abs().argmin())


@pytest.mark.parametrize("spelling", ["as it was", "relative", "with a slash"])
def test_the_suites_own_dataset_is_known_however_it_is_spelled(
    suite_folder: Path, tokens_folder: Path, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tokens_folder.parent)
    path = {"relative": tokens_folder.name, "with a slash": f"{tokens_folder}/"}.get(spelling)
    flags = [] if path is None else ["--dataset_path", path]
    assert main(["evaluate", str(suite_folder), *flags, *QUICK]) == 0
    assert first_row_evaluated(suite_folder, tokens_folder) == rows_read(suite_folder)


@pytest.mark.parametrize("form", ["moved", "as text rows of JSON", "a link"])
def test_the_suites_own_dataset_is_known_by_its_content(
    suite_folder: Path, tokens_folder: Path, tmp_path: Path, form: str
) -> None:
    place = tmp_path / "elsewhere"
    if form == "moved":
        shutil.copytree(tokens_folder, place)
    elif form == "a link":
        place.symlink_to(tokens_folder)
    else:
        place.mkdir()
        dataset = load_from_disk(str(tokens_folder))
        assert isinstance(dataset, Dataset)
        dataset.to_json(place / "train.jsonl")
    assert main(["evaluate", str(suite_folder), "--dataset_path", str(place), *QUICK]) == 0
    assert first_row_evaluated(suite_folder, tokens_folder) == rows_read(suite_folder)


@pytest.mark.slow
def test_a_suite_of_before_goes_by_the_path_of_its_dataset(
    suite_folder: Path, tokens_folder: Path, tmp_path: Path
) -> None:
    folder = altered(suite_folder, tmp_path)
    manifest = json.loads((folder / "suite.json").read_text())
    assert len(manifest.pop("dataset_fingerprint")) == 32
    assert manifest.pop("training_step")
    (folder / "suite.json").write_text(json.dumps(manifest))
    assert main(["evaluate", str(folder), "--dataset_path", f"{tokens_folder}/", *QUICK]) == 0
    # Which did not count the row in progress.
    assert first_row_evaluated(folder, tokens_folder) == rows_read(folder) + 1


@pytest.mark.slow
def test_rows_of_a_moved_dataset_that_the_baseline_read_are_not_held_out(
    suite_folder: Path, tokens_folder: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(tokens_folder, tmp_path / "moved"))
    long = train(tmp_path / "long", moved, training_tokens="6400")
    assert main(["evaluate", str(suite_folder), "--baseline", str(long), *QUICK]) == 0
    assert first_row_evaluated(suite_folder, tokens_folder) == rows_read(long) > 200
    short = train(tmp_path / "short", tokens_folder, init_from=str(long), training_tokens="512")
    assert rows_read(short) == rows_read(long)


@pytest.mark.slow
def test_a_relative_dataset_path_says_where_it_was_looked_for(
    tokens_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tokens_folder.parent)
    suite = train(tmp_path / "suite", Path(tokens_folder.name))
    assert main(["evaluate", str(suite), *QUICK]) == 0
    monkeypatch.chdir(tmp_path)
    message = failure(capsys, str(suite), *QUICK)
    assert f"there is no folder 'tokens' in {str(tmp_path)!r}" in message
    assert main(["evaluate", str(suite), "--dataset_path", str(tokens_folder), *QUICK]) == 0
    assert first_row_evaluated(suite, tokens_folder) == rows_read(suite)


def test_rows_that_the_baseline_or_the_source_read_are_not_held_out(
    suite_folder: Path, tokens_folder: Path, tmp_path: Path
) -> None:
    long = train(tmp_path / "long", tokens_folder, training_tokens="6400")
    assert rows_read(long) > rows_read(suite_folder)
    assert main(["evaluate", str(suite_folder), "--baseline", str(long), *QUICK]) == 0
    assert first_row_evaluated(suite_folder, tokens_folder) == rows_read(long)
    short = train(tmp_path / "short", tokens_folder, init_from=str(long), training_tokens="512")
    assert rows_read(short) == rows_read(long)


def test_a_baseline_that_may_have_seen_the_text_is_warned_of(
    suite_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in HOOK_NAMES:
        shutil.copytree(suite_folder / name, tmp_path / "saes" / name)
        shutil.copy(suite_folder / "runner_cfg.json", tmp_path / "saes" / name)
    capsys.readouterr()
    assert main(["evaluate", str(suite_folder), "--baseline", "saes", *QUICK]) == 0
    assert "it may have seen the text of this comparison" in capsys.readouterr().err
    for name in HOOK_NAMES:
        (tmp_path / "saes" / name / "runner_cfg.json").write_text("{")
    assert "cannot be read" in failure(capsys, str(suite_folder), "--baseline", "saes")


def test_the_page_says_how_to_train_the_suite_again(suite_folder: Path) -> None:
    assert main(["evaluate", str(suite_folder), *QUICK]) == 0
    page = (suite_folder / "report.html").read_text(encoding="utf-8")
    assert f"train --config_file {suite_folder.name}/runner_cfg.json" in page


def test_other_text_is_read_from_its_start(suite_folder: Path, text_folder: Path) -> None:
    flags = ("--dataset_path", str(text_folder), "--context_size", "16")
    assert main(["evaluate", str(suite_folder), *flags, *QUICK]) == 0
    result = json.loads((suite_folder / "evaluation" / "all_eval_results.json").read_text())[0]
    assert result["eval_cfg"]["dataset"] == "text"
    assert result["eval_cfg"]["context_size"] == 16
    assert result["metrics"]["token_stats"]["total_tokens_eval_reconstruction"] == 2 * 4 * 16


@pytest.mark.slow
def test_tasks_that_the_model_does_not_solve_are_named(
    suite_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(suite_folder), *QUICK, "--tasks", "ioi,closing_bracket"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "ioi cannot be built for this tokenizer" in shown
    assert "closing_bracket: " in shown
    lines = (suite_folder / "evaluation" / "faithfulness.csv").read_text().splitlines()
    assert {line.split(",")[2] for line in lines[1:]} == set(HOOK_NAMES)


def figures(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in (
            folder / "evaluation.csv",
            folder / "report.html",
            *folder.glob("evaluation/*"),
        )
    }


@pytest.mark.slow
def test_nothing_that_was_measured_is_lost_to_other_settings(
    suite_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(suite_folder, tmp_path / "copy"))
    for path in (folder / "evaluation", *folder.glob("earlier_evaluation*")):
        shutil.rmtree(path, ignore_errors=True)
    (folder / "evaluation.csv").unlink(missing_ok=True)
    (folder / "report.html").unlink(missing_ok=True)
    evaluate = ["evaluate", str(folder), *QUICK]
    compare = [*evaluate, "--baseline", str(suite_folder)]  # which has read the same text
    assert main(evaluate) == 0
    assert main(compare) == 0  # measures the same and more
    assert main(compare) == 0
    assert not list(folder.glob("earlier_evaluation*"))
    compared = figures(folder)
    capsys.readouterr()
    assert main(evaluate) == 0
    assert f"Earlier:    {folder / 'earlier_evaluation'}, whose" in capsys.readouterr().out
    assert figures(folder / "earlier_evaluation") == compared
    assert figures(folder) != compared
    assert main([*compare, "--n_eval_batches", "1"]) == 0
    assert figures(folder / "earlier_evaluation") == compared
    assert (folder / "earlier_evaluation-2" / "report.html").exists()


def test_an_evaluation_of_an_earlier_version_is_kept(suite_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(suite_folder, tmp_path / "copy"))
    assert main(["evaluate", str(folder), *QUICK]) == 0
    (folder / "evaluation" / "settings.json").unlink()
    old = figures(folder)
    for path in folder.glob("earlier_evaluation*"):
        shutil.rmtree(path)
    assert main(["evaluate", str(folder), *QUICK]) == 0
    assert figures(folder / "earlier_evaluation") == old


@pytest.mark.slow
def test_the_model_computes_as_in_training_or_as_asked(
    tokens_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def loss(folder: Path, *flags: str) -> float:
        assert main(["evaluate", str(folder), *QUICK, *flags]) == 0
        (row, *_) = csv.DictReader((folder / "evaluation.csv").open(encoding="utf-8"))
        return float(row["ce_loss_without_sae"])

    plain = train(tmp_path / "plain", tokens_folder)
    mixed = train(tmp_path / "mixed", tokens_folder, autocast_lm="True")
    exact, rounded = loss(plain), loss(mixed)
    assert exact != rounded == pytest.approx(exact, rel=0.02)
    assert loss(mixed, "--autocast_lm", "False") == exact
    assert loss(plain, "--autocast_lm") == rounded
    assert exact != loss(plain, "--dtype", "bfloat16") == pytest.approx(exact, rel=0.02)
    assert "'maybe' is neither True nor False" in failure(capsys, "a", "--autocast_lm", "maybe")


def test_a_comparison_says_how_both_were_trained_and_what_two_trainings_miss(
    suite_folder: Path, tokens_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(baseline: Path) -> tuple[str, str]:
        capsys.readouterr()
        assert main(["evaluate", str(suite_folder), "--baseline", str(baseline), *QUICK]) == 0
        page = (suite_folder / "report.html").read_text(encoding="utf-8").partition("<body>")[2]
        return " ".join(capsys.readouterr().out.split()), page

    text, page = shown(suite_folder.with_name("each"))
    assert "lr 0.001, baseline 0.002; seed 42, baseline 42. They were not trained alike" in text
    assert "without any group, at layer 11, " in text
    assert "<td>training_tokens</td><td>2,048</td><td>2,048</td>" in page
    assert "They were not trained alike" in page
    assert "In layer 11, where both have an SAE of its own, " in page
    text, page = shown(train(tmp_path / "other_seed", tokens_folder, "3-4", seed="1"))
    assert "seed 42, baseline 1. mmcs" not in text
    assert "not trained alike" not in text + page
    assert "missed" not in text.lower()
    assert "<button>missed" not in page
    assert "miss most of each other" in page


def test_what_two_trainings_miss_is_not_said_of_saes_of_two_kinds_or_of_one_training(
    suite_folder: Path, tokens_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refitted = tmp_path / "refitted"
    words = ["--output_path", str(refitted), "--refit_tokens", "2048"]
    assert main(["refit", str(suite_folder), *words]) == 0
    for baseline in (refitted, train(tmp_path / "other_k", tokens_folder, k="4")):
        capsys.readouterr()
        assert main(["evaluate", str(suite_folder), "--baseline", str(baseline), *QUICK]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "one of the baseline. Trained with" in shown
        assert "two trainings" not in shown


# --- mistakes ---


def test_what_is_no_suite_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suite_folder: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert failure(capsys, "empty") == (
        "'empty' is neither a suite nor a folder of SAELens SAEs: it has no suite.json, and no "
        "cfg.json in itself or in the folders inside; give the output_path of a training run"
    )
    assert failure(capsys, "nowhere").startswith("'nowhere' does not exist; give the output_path")
    layers = tmp_path / "layers"
    shutil.copytree(suite_folder / HOOK_NAMES[0], layers / "a")
    assert failure(capsys, "layers") == (
        "these are SAEs that were trained elsewhere, without suite.json; make a suite of them with "
        "SAESuite.load(their_folder).save(another_folder)"
    )
    layer = suite_folder / HOOK_NAMES[0]
    for part in (layer, suite_folder / "groups", next((suite_folder / "groups").iterdir())):
        assert failure(capsys, str(part)) == (
            f"{str(part)!r} is a part of the suite {suite_folder.name!r}; evaluate that"
        )
    shutil.copytree(suite_folder, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / HOOK_NAMES[1])
    assert failure(capsys, "half").startswith(f"suite 'half' lacks the folders {HOOK_NAMES[1]}; ")


def test_a_suite_of_another_machines_devices_is_evaluated_here(
    suite_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    folder = altered(suite_folder, tmp_path)
    for path in folder.rglob("*.json"):
        content = path.read_text(encoding="utf-8").replace('device": "cpu"', 'device": "cuda"')
        placed = content.replace('pretrained_kwargs": {}', 'pretrained_kwargs": {"n_devices": 2}')
        path.write_text(placed, encoding="utf-8")
    assert "n_devices" in (folder / HOOK_NAMES[0] / "cfg.json").read_text(encoding="utf-8")
    assert main(["evaluate", str(folder), *QUICK]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--baseline", "."], "baseline '.' is neither a suite nor a folder of SAELens SAEs"),
        (["--tasks", "iou"], "iou"),
        (["--n_eval_batches", "0"], "'0' is not a positive whole number"),
        (["--n_eval_batches", "many"], "argument --n_eval_batches: 'many' is not a positive"),
        (["--device", "cuda:99"], "--device is 'cuda:99', which cannot be used here: "),
        (["--device", "gpu"], "--device is 'gpu', which cannot be used here: "),
        (["--batch", "4"], "unrecognized arguments: --batch 4"),
        (["--dataset_path", "./nowhere"], "dataset_path './nowhere' cannot be read"),
        (["--model_name", "nobody/knows"], "the model 'nobody/knows' cannot be loaded: "),
        (["--eval_batch_size_prompts", "1000"], "the dataset gives not one batch of 1000 prompts"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_give_one_message_and_status_2(
    suite_folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert message in failure(capsys, str(suite_folder), *flags)


def test_text_in_another_column_is_refused_before_the_model_loads(
    suite_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sae_lens_groups.cli.scoring.load_with_hooks", None)
    (tmp_path / "text.jsonl").write_text('{"body": "some words"}\n')
    assert failure(capsys, str(suite_folder), "--dataset_path", str(tmp_path)) == (
        f"dataset_path {str(tmp_path)!r} has the columns body, and none of tokens, input_ids, text, "
        "problem; rename one of them"
    )


def test_a_file_of_text_is_told_from_its_folder(
    suite_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("some words")
    assert failure(capsys, str(suite_folder), "--dataset_path", str(tmp_path / "text.txt")) == (
        f"dataset_path {str(tmp_path / 'text.txt')!r} is a file; name the folder that it lies in"
    )


def test_a_suite_trained_on_all_rows_asks_for_other_text(
    tmp_path: Path, tokens_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = load_from_disk(str(tokens_folder))
    assert isinstance(short, Dataset)
    short.select(range(40)).save_to_disk(tmp_path / "short")
    with pytest.warns(UserWarning, match="starts over"):
        train(tmp_path / "suite", tmp_path / "short")
    assert "so none are held out; name other text with dataset_path" in failure(
        capsys, str(tmp_path / "suite")
    )


def test_a_suite_that_does_not_say_what_it_read_asks_for_other_text(
    suite_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = altered(suite_folder, tmp_path)
    manifest = json.loads((folder / "suite.json").read_text())
    del manifest["dataset_rows_read"]
    (folder / "suite.json").write_text(json.dumps(manifest))
    assert "does not say which rows of" in failure(capsys, str(folder))


def test_code_that_comes_with_a_model_runs_only_if_the_user_says_so(
    suite_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = altered(suite_folder, tmp_path)
    for name in HOOK_NAMES:
        cfg = json.loads((folder / name / "cfg.json").read_text())
        cfg["metadata"]["model_from_pretrained_kwargs"] = {"trust_remote_code": True}
        (folder / name / "cfg.json").write_text(json.dumps(cfg))
    message = failure(capsys, str(folder), *QUICK)
    assert message.startswith("the suite asks to load the model with trust_remote_code=True, which")
    assert message.endswith("if you trust that, say --trust_remote_code")
    assert main(["evaluate", str(folder), *QUICK, "--trust_remote_code"]) == 0


def test_a_published_suites_local_model_is_not_taken_from_the_hub(
    suite_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = altered(suite_folder, tmp_path)
    manifest = json.loads((folder / "suite.json").read_text())
    public = {**manifest, "model_name": "gpt2", "is_model_local": True}
    (folder / "suite.json").write_text(json.dumps(public))
    assert failure(capsys, str(folder), *QUICK) == (
        "the suite was trained on a model in a folder called 'gpt2', wherever that lies now; name "
        "it with --model_name"
    )
    assert main(["evaluate", str(folder), *QUICK, "--model_name", str(MODEL_FOLDER)]) == 0
