"""Suites on the Hub: the real client over HTTP, against a Hub on loopback."""

import hashlib
import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupSAETrainingRunner, SAESuite, evaluate_suite
from sae_lens_groups.scaling.group_scaling import MEAN_NORM

from .hub import READER, STRANGER, Commit, File, Hub, Mode, hub
from .hub.client import Client, client
from .tiny import ARCHITECTURES, D_IN, group_config, make_tokens, sae_config

HOOK_NAMES = [f"blocks.{layer}.hook_resid_post" for layer in range(4)]
WEIGHTS = "sae_weights.safetensors"
ROWS_BD = torch.randn(5, D_IN, generator=torch.Generator().manual_seed(3)).tolist()

PLAIN_OUTPUTS = """
import torch
from sae_lens import SAE
answer = [SAE.from_pretrained(repo_id, name)(torch.tensor(rows)).tolist() for name in hook_names]
"""
OUR_OUTPUTS = """
import torch
from sae_lens_groups import SAESuite
suite = SAESuite.from_pretrained(repo_id, **options)
answer = {name: sae(torch.tensor(rows)).tolist() for name, sae in suite.items()}
"""


@pytest.fixture(scope="module")
def trained(
    model: HookedTransformer, tokens: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An evaluated suite of a group of three layers and one alone."""
    folder = tmp_path_factory.mktemp("trained") / "suite"
    sae = sae_config(normalize_activations=MEAN_NORM)
    cfg = group_config("0-2,3", sae=sae, output_path=str(folder), dataset_path=str(folder.parent))
    suite = GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model).run()
    evaluate_suite(suite, model, make_tokens(seed=5), n_batches=2, batch_size_prompts=4)
    return folder


@pytest.fixture
def suite_folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "suite"))


@pytest.fixture(scope="module", params=[pytest.param("regular", marks=pytest.mark.slow), "lfs"])
def mode(request: pytest.FixtureRequest) -> Mode:
    return request.param


@pytest.fixture(scope="module")
def server(mode: Mode) -> Iterator[Hub]:
    with hub(mode=mode) as running:
        yield running


@pytest.fixture(scope="module")
def ours(server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A process with our package."""
    with client(server, tmp_path_factory.mktemp("ours")) as process:
        yield process


@pytest.fixture(scope="module")
def plain(server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A process that cannot import our package."""
    with client(server, tmp_path_factory.mktemp("plain"), without_us=True) as process:
        yield process


@pytest.fixture(autouse=True)
def _fresh(request: pytest.FixtureRequest) -> None:
    """Repositories, faults and the log are each test's own."""
    if "server" in request.fixturenames:
        server: Hub = request.getfixturevalue("server")
        server.heal()
        server.requests.clear()
        server.repositories.clear()


def outputs(folder: Path) -> list[Any]:
    return [sae(torch.tensor(ROWS_BD)).tolist() for sae in SAESuite.load(folder).values()]


def n_commits(server: Hub, repo_id: str = "owner/suite") -> int:
    """How many there are beside the Hub's first."""
    return len(server.repositories[repo_id].commits) - 1


def changes_of(server: Hub) -> list[str]:
    """The kinds of all requests that may have changed something."""
    changing = ("create_repo", "branch", "preupload", "lfs_batch", "lfs_upload", "commit")
    return [request.kind for request in server.requests if request.kind in changing]


def test_everybody_loads_what_is_published(
    server: Hub, ours: Client, plain: Client, suite_folder: Path
) -> None:
    shown = ours.command("publish", suite_folder, "owner/suite")
    assert shown.status == 0, shown.err
    assert f"Published: {server.endpoint}/owner/suite (36 files new or changed)\n" in shown.out
    assert f'SAE.from_pretrained("owner/suite", "{HOOK_NAMES[0]}")' in shown.out
    assert "groups/layers_3: 100%" in shown.err
    assert f"{WEIGHTS}:" not in shown.err  # one bar for all, and none for each file
    assert n_commits(server) == 1
    assert changes_of(server).count("commit") == 1

    contents = server.repositories["owner/suite"].contents()
    sent = {path.relative_to(suite_folder).as_posix() for path in suite_folder.rglob("*.*")}
    sent = {path for path in sent if (suite_folder / path).is_file()}
    assert set(contents) - {".gitattributes"} == sent | {"README.md"}
    for name in HOOK_NAMES:
        assert contents[f"{name}/{WEIGHTS}"] == (suite_folder / name / WEIGHTS).read_bytes()

    rewritten = {".gitattributes", "README.md", "checksums.json", "evaluation.csv", "report.html"}
    never_change = {path for path in set(contents) - rewritten if "evaluation/" not in path}
    listed = json.loads(contents["checksums.json"])["files"]
    assert listed == {
        path: {
            "size": len(contents[path]),
            "sha256": hashlib.sha256(contents[path]).hexdigest(),
        }
        for path in never_change
    }
    assert contents["runner_cfg.json"] != (suite_folder / "runner_cfg.json").read_bytes()

    expected = outputs(suite_folder)
    arguments: dict[str, Any] = {"repo_id": "owner/suite", "rows": ROWS_BD}
    with pytest.raises(AssertionError, match="ModuleNotFoundError"):
        plain.python("import sae_lens_groups.layers")
    assert plain.python(PLAIN_OUTPUTS, hook_names=HOOK_NAMES, **arguments) == expected
    loaded = ours.python(OUR_OUTPUTS, options={}, **arguments)
    assert list(loaded) == HOOK_NAMES
    assert list(loaded.values()) == expected

    listed = plain.python(
        "from huggingface_hub import list_repo_files\nanswer = list_repo_files(repo_id)",
        repo_id="owner/suite",
    )
    assert set(listed) == set(contents)


def test_a_second_publish_makes_no_commit(server: Hub, ours: Client, suite_folder: Path) -> None:
    assert ours.command("publish", suite_folder, "owner/suite").status == 0
    server.requests.clear()
    shown = ours.command("publish", suite_folder, "owner/suite")
    assert shown.out.endswith("holds exactly this already, and no commit was made.\n")
    assert n_commits(server) == 1
    assert changes_of(server) == []  # nothing was even asked for


def test_a_changed_layer_is_one_commit_of_its_files(
    server: Hub, mode: Mode, ours: Client, suite_folder: Path
) -> None:
    assert ours.command("publish", suite_folder, "owner/suite").status == 0
    before = server.repositories["owner/suite"].contents()
    sae = SAESuite.load(suite_folder)[HOOK_NAMES[1]]
    with torch.no_grad():
        sae.b_dec.add_(1)
    sae.save_model(suite_folder / HOOK_NAMES[1])
    message = ours.command("publish", suite_folder, "owner/suite").error
    assert f"{HOOK_NAMES[1]}/{WEIGHTS} was altered after it was written" in message
    (suite_folder / "checksums.json").unlink()  # as the message says
    server.requests.clear()
    assert ours.command("publish", suite_folder, "owner/suite").status == 0
    assert n_commits(server) == 2
    after = server.repositories["owner/suite"].contents()
    assert [path for path in after if after[path] != before.get(path)] == [
        f"{HOOK_NAMES[1]}/{WEIGHTS}",
        "checksums.json",
    ]
    assert before.keys() == after.keys()
    assert len(server.requests_of("lfs_upload")) == {"lfs": 1, "regular": 0}[mode]


@pytest.mark.parametrize(
    ("kind", "how"), [("upload", "cut request"), ("commit", 501), ("commit", "cut request")]
)
def test_an_interrupted_upload_goes_on_where_it_stopped(
    server: Hub, mode: Mode, ours: Client, suite_folder: Path, kind: str, how: Any
) -> None:
    if kind == "upload":
        if mode == "regular":
            pytest.skip("small files travel inside the commit")
        server.fail("lfs_upload", 501, nth=4, times=99)
    else:
        server.fail("commit", how, times=99)
    message = ours.command("publish", suite_folder, "owner/suite").error
    assert message.startswith("'owner/suite' on the Hub: ")
    assert n_commits(server) == 0
    assert set(server.repositories["owner/suite"].contents()) <= {".gitattributes"}
    n_sent = len([r for r in server.requests_of("lfs_upload") if r.status == 200])
    server.heal()
    server.requests.clear()

    assert ours.command("publish", suite_folder, "owner/suite").status == 0
    assert n_commits(server) == 1
    contents = server.repositories["owner/suite"].contents()
    for name in HOOK_NAMES:
        assert contents[f"{name}/{WEIGHTS}"] == (suite_folder / name / WEIGHTS).read_bytes()
    if mode == "lfs":
        distinct = {
            (suite_folder / path).read_bytes() for path in contents if "safetensors" in path
        }
        assert n_sent >= 3
        assert len(server.requests_of("lfs_upload")) == len(distinct) - n_sent


def test_a_lost_answer_does_no_harm(server: Hub, ours: Client, suite_folder: Path) -> None:
    server.fail("commit", "lose answer")
    ours.command("publish", suite_folder, "owner/suite")
    server.heal()
    shown = ours.command("publish", suite_folder, "owner/suite")
    assert shown.status == 0
    assert n_commits(server) == 1


def test_only_the_layers_asked_for_are_downloaded(
    server: Hub, suite_folder: Path, ours: Client, tmp_path: Path
) -> None:
    assert ours.command("publish", suite_folder, "owner/suite").status == 0
    arguments: dict[str, Any] = {"repo_id": "owner/suite", "rows": ROWS_BD}
    with client(server, tmp_path / "home") as process:
        loaded = process.python(OUR_OUTPUTS, options={"layers": [3, 1]}, **arguments)
        assert list(loaded) == [HOOK_NAMES[1], HOOK_NAMES[3]]
        folders = {path.parent.name for path in (tmp_path / "home").rglob(WEIGHTS)}
        assert folders == {HOOK_NAMES[1], HOOK_NAMES[3]}
        everything = process.python(OUR_OUTPUTS, options={}, **arguments)
        assert list(everything.values()) == outputs(suite_folder)
        saved = tmp_path / "saved"
        process.python("suite.save(folder)\nanswer = str(suite.path)", folder=str(saved))
        assert (saved / "evaluation.csv").read_bytes() == (
            suite_folder / "evaluation.csv"
        ).read_bytes()
        assert SAESuite.load(saved).group(SAESuite.load(saved).manifest.groups[0]) is not None
    server.fail("any", 501, times=10_000)
    with client(server, tmp_path / "home", HF_HUB_OFFLINE="1") as process:
        assert process.python(OUR_OUTPUTS, options={}, **arguments) == everything


def test_a_branch_and_a_pull_request(server: Hub, ours: Client, suite_folder: Path) -> None:
    shown = ours.command("publish", suite_folder, "owner/suite", "--revision", "v2")
    assert 'SAESuite.from_pretrained("owner/suite", revision="v2")' in shown.out
    repository = server.repositories["owner/suite"]
    assert "suite.json" in repository.contents("v2")
    assert "suite.json" not in repository.contents()
    loaded = ours.python(
        OUR_OUTPUTS, repo_id="owner/suite", rows=ROWS_BD, options={"revision": "v2"}
    )
    assert list(loaded.values()) == outputs(suite_folder)

    shown = ours.command("publish", suite_folder, "owner/suite", "--create_pr")
    assert "/owner/suite/discussions/1" in shown.out
    assert 'SAESuite.from_pretrained("owner/suite", revision="refs/pr/1")' in shown.out
    assert "suite.json" not in repository.contents()
    assert "suite.json" in repository.contents("refs/pr/1")
    message = ours.command("publish", suite_folder, "owner/nothing", "--create_pr").error
    assert "there is nothing yet that a pull request could change" in message
    assert "owner/nothing" not in server.repositories


def test_a_new_branch_begins_with_what_main_has(
    server: Hub, ours: Client, suite_folder: Path, tmp_path: Path, model: HookedTransformer
) -> None:
    assert ours.command("publish", suite_folder, "owner/suite", "--license", "mit").status == 0
    cfg = group_config("0,1-2", output_path=str(tmp_path / "other"))
    GroupSAETrainingRunner(cfg, override_dataset=make_tokens(), override_model=model).run()
    branch = ("--revision", "v2")
    assert ours.command("publish", tmp_path / "other", "owner/suite", *branch).status == 0
    contents = server.repositories["owner/suite"].contents("v2")
    assert "license: mit\n" in contents["README.md"].decode()
    assert f"{HOOK_NAMES[3]}/{WEIGHTS}" not in contents
    assert f"{HOOK_NAMES[3]}/{WEIGHTS}" in server.repositories["owner/suite"].contents()
    manifest = json.loads((suite_folder / "suite.json").read_text())
    (suite_folder / "suite.json").write_text(json.dumps({**manifest, "model_name": "other"}))
    (suite_folder / "checksums.json").unlink()
    message = ours.command("publish", suite_folder, "owner/suite", "--revision", "v3").error
    assert "publish it to a repository of its own" in message


def test_a_new_repository_is_private_if_asked(
    server: Hub, ours: Client, suite_folder: Path
) -> None:
    assert ours.command("publish", suite_folder, "owner/suite", "--private").status == 0
    assert server.repositories["owner/suite"].private
    assert ours.command("publish", suite_folder, "owner/suite", "--private").status == 0
    server.add_repository("owner/public")
    server.requests.clear()
    message = ours.command("publish", suite_folder, "owner/public", "--private").error
    assert message.startswith("'owner/public' exists and is public")
    refused = ours.python(
        """
from sae_lens_groups import SAESuite
try:
    SAESuite.load(folder).push_to_hub("owner/suite", private=False)
except ValueError as error:
    answer = str(error)
""",
        folder=str(suite_folder),
    )
    assert refused.startswith("'owner/suite' exists and is private")
    assert changes_of(server) == []


def test_what_people_wrote_and_added_stays_and_what_is_left_over_goes(
    server: Hub, ours: Client, suite_folder: Path, tmp_path: Path, model: HookedTransformer
) -> None:
    assert ours.command("publish", suite_folder, "owner/suite", "--license", "mit").status == 0
    ours.python(
        """
from huggingface_hub import HfApi, CommitOperationAdd, hf_hub_download
from pathlib import Path
card = Path(hf_hub_download("owner/suite", "README.md")).read_text()
card = card.replace("library_name:", "language: en\\nlibrary_name:") + "\\nWritten by hand.\\n"
HfApi().create_commit("owner/suite", [
    CommitOperationAdd("README.md", card.encode()),
    CommitOperationAdd("notes/of somebody.txt", b"keep"),
    CommitOperationAdd("evaluation/saebench.json", b"keep"),
    CommitOperationAdd("groups/layers_0-2/notes.md", b"keep"),
    CommitOperationAdd("blocks.0.hook_resid_post/neurons.txt", b"keep"),
], commit_message="by hand")
"""
    )
    cfg = group_config("0,1-2", output_path=str(tmp_path / "other"))
    GroupSAETrainingRunner(cfg, override_dataset=make_tokens(), override_model=model).run()
    shown = ours.command("publish", tmp_path / "other", "owner/suite")
    assert re.search(r"files new or changed, \d+ deleted that are not in it\)\n", shown.out)
    assert "licence" not in shown.out
    contents = server.repositories["owner/suite"].contents()
    card = contents["README.md"].decode()
    assert "\nWritten by hand.\n" in card
    assert "language: en\n" in card
    assert "license: mit\n" in card
    assert "layers_1-2" in card
    gone = ("blocks.3.hook_resid_post/", "groups/layers_0-2/", "groups/layers_3/", "evaluation")
    left = [path for path in contents if path.startswith(gone)]
    assert left == ["evaluation/saebench.json", "groups/layers_0-2/notes.md"]
    for path in (*left, "notes/of somebody.txt", "blocks.0.hook_resid_post/neurons.txt"):
        assert contents[path] == b"keep"
    assert n_commits(server) == 3
    (suite,) = [json.loads(contents["suite.json"])["groups"]]
    assert [group["layers"] for group in suite] == [[0], [1, 2]]


def test_another_models_suite_is_not_overwritten(
    server: Hub, ours: Client, suite_folder: Path
) -> None:
    assert ours.command("publish", suite_folder, "owner/suite").status == 0
    manifest = json.loads((suite_folder / "suite.json").read_text())
    (suite_folder / "suite.json").write_text(json.dumps({**manifest, "model_name": "other"}))
    (suite_folder / "checksums.json").unlink()
    message = ours.command("publish", suite_folder, "owner/suite").error
    assert message == (
        "'owner/suite' holds a suite for blocks.{layer}.hook_resid_post of tiny, and this one is "
        "for blocks.{layer}.hook_resid_post of other; publish it to a repository of its own, or "
        "name the same model with base_model"
    )
    assert n_commits(server) == 1


def test_a_base_model_can_be_named_later(server: Hub, ours: Client, suite_folder: Path) -> None:
    assert ours.command("publish", suite_folder, "owner/suite").status == 0
    named = ("--base_model", "org/real-model")
    for name in ("suite.json", *(f"{hook_name}/cfg.json" for hook_name in HOOK_NAMES)):
        text = (suite_folder / name).read_text()
        (suite_folder / name).write_text(text.replace('"tiny"', '"/data1/jdoe/tiny"'))
    (suite_folder / "checksums.json").unlink()
    advice = "no model on the Hub, so that others cannot load it; name it with --base_model"
    assert ours.command("publish", suite_folder, "owner/suite", "--dry_run").err.count(advice) == 1
    assert ours.command("publish", suite_folder, "owner/other").out.count(advice) == 1
    shown = ours.command("publish", suite_folder, "owner/suite", *named)
    assert (shown.status, advice in shown.out + shown.err) == (0, False)
    contents = server.repositories["owner/suite"].contents()
    assert json.loads(contents["suite.json"])["model_name"] == "org/real-model"
    assert b"base_model: org/real-model\n" in contents["README.md"]
    message = ours.command("publish", suite_folder, "owner/suite").error
    assert message.endswith("or name the same model with base_model")
    for wrong in ("/home/jdoe/models/tiny", "https://hf.co/org/model", "not a model!"):
        message = ours.command("publish", suite_folder, "owner/x", "--base_model", wrong).error
        assert message.startswith(f"base_model {wrong!r} is not an id on the Hub")
    assert "owner/x" not in server.repositories


def test_a_local_model_stays_one_on_the_way_through_the_hub(
    server: Hub, ours: Client, suite_folder: Path
) -> None:
    manifest = json.loads((suite_folder / "suite.json").read_text())
    local = {**manifest, "model_name": "/data1/jdoe/gpt2"}
    (suite_folder / "suite.json").write_text(json.dumps(local))
    (suite_folder / "checksums.json").unlink()
    assert ours.command("publish", suite_folder, "owner/suite").status == 0
    ours.python(
        """
from sae_lens_groups import SAESuite
SAESuite.from_pretrained("owner/suite").push_to_hub("owner/copy")
"""
    )
    for repo_id in ("owner/suite", "owner/copy"):
        contents = server.repositories[repo_id].contents()
        assert json.loads(contents["suite.json"])["model_name"] == "gpt2"
        assert json.loads(contents["suite.json"])["is_model_local"]
        assert b"base_model:" not in contents["README.md"]


def test_a_licence_that_the_hub_does_not_know_makes_no_repository(
    server: Hub, ours: Client, suite_folder: Path
) -> None:
    message = ours.command("publish", suite_folder, "owner/suite", "--license", "banana").error
    assert "the Hub does not take the front matter of the card" in message
    assert server.repositories == {}
    message = ours.command("publish", suite_folder, "owner/suite", "--license", "MIT License").error
    assert "the license 'MIT License' is not an identifier of the Hub" in message


def test_who_may_not_write_is_told(server: Hub, ours: Client, suite_folder: Path) -> None:
    server.add_repository("owner/suite")
    server.add_repository("owner/secret", private=True)
    for repo_id, token, said in [
        ("owner/suite", None, "you may not see it or write to it; check its name, and log in"),
        ("owner/suite", READER, "you may not do that"),
        ("owner/suite", STRANGER, "you may not do that"),
        ("owner/new", READER, "you may not do that"),
        ("owner/new", None, "log in with `hf auth login`"),
        ("owner/secret", STRANGER, "you may not do that"),
    ]:
        shown = ours.command("publish", suite_folder, repo_id, token=token)
        assert said in shown.error, (repo_id, token)
    assert "owner/new" not in server.repositories
    assert n_commits(server) == n_commits(server, "owner/secret") == 0


def test_what_is_no_repository_is_refused_before_anything_is_read(ours: Client) -> None:
    for repo_id in ("suite", "a/b/c", "owner/", "ow ner/suite", "./suite", "https://hf.co/a/b"):
        message = ours.command("publish", "nowhere", repo_id).error
        assert message == (
            f"{repo_id!r} is not a repository's name; give owner/name, such as your-name/my-suite"
        )


def test_the_wrong_folder_is_told_from_the_right_one(
    server: Hub, ours: Client, suite_folder: Path
) -> None:
    layer = suite_folder / HOOK_NAMES[0]
    message = ours.command("publish", layer, "owner/suite").error
    assert message == f"{str(layer)!r} is a part of the suite 'suite'; publish that"
    message = ours.command("publish", "owner/suite", suite_folder).error
    assert message == (
        f"'owner/suite' is not a folder, and {str(suite_folder)!r} is one; the suite comes first: "
        f"publish {suite_folder} owner/suite"
    )
    assert server.requests == []


def test_an_error_of_the_hub_says_to_try_again(
    server: Hub, ours: Client, suite_folder: Path
) -> None:
    server.fail("info", 500, times=99)
    message = ours.command("publish", suite_folder, "owner/suite").error
    assert "'owner/suite' on the Hub: it answers with an error of its own" in message
    assert message.endswith("try again later")
    assert server.repositories == {}


def test_somebody_elses_commit_in_between_is_not_overwritten(
    server: Hub, ours: Client, suite_folder: Path
) -> None:
    repository = server.add_repository("owner/suite")
    server.slow("preupload", 1.5)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(ours.command, "publish", suite_folder, "owner/suite")
        while not server.requests_of("validate_yaml"):  # what is there was read
            time.sleep(0.01)
        head = repository.at("main")
        theirs = {**head.files, "README.md": File(b"# Somebody else's")}
        repository.add(repository.branch("main"), Commit(parent=head.id, files=theirs, title="x"))
        message = running.result().error
    assert message.endswith("somebody else changed it at the same moment; try again")
    assert repository.contents()["README.md"] == b"# Somebody else's"
    assert "suite.json" not in repository.contents()


@pytest.mark.parametrize("lost", ["weights", "cfg", "cut short", "group", "groups"])
def test_a_half_written_suite_is_not_published(
    server: Hub, ours: Client, suite_folder: Path, lost: str
) -> None:
    weights = suite_folder / HOOK_NAMES[2] / WEIGHTS
    if lost == "weights":
        weights.unlink()
    if lost == "cfg":
        (suite_folder / HOOK_NAMES[2] / "cfg.json").unlink()
    if lost == "cut short":
        weights.write_bytes(weights.read_bytes()[:-1])
    if lost == "group":
        (suite_folder / "groups" / "layers_0-2" / WEIGHTS).unlink()
    if lost == "groups":
        shutil.rmtree(suite_folder / "groups")
    message = ours.command("publish", suite_folder, "owner/suite").error
    assert message.startswith(
        f"the suite is {'damaged' if lost == 'cut short' else 'incomplete'}: "
    )
    assert ("groups/layers_0-2" if lost.startswith("group") else HOOK_NAMES[2]) in message
    assert "nothing was published" in message
    assert server.requests == []


def test_something_private_stops_everything(server: Hub, ours: Client, suite_folder: Path) -> None:
    cfg = json.loads((suite_folder / HOOK_NAMES[1] / "cfg.json").read_text())
    cfg["metadata"]["note"] = "see /home/someone/notes.txt"
    cfg["metadata"]["model_from_pretrained_kwargs"] = {"cache_dir": "/gscratch/jdoe/hf"}
    (suite_folder / HOOK_NAMES[1] / "cfg.json").write_text(json.dumps(cfg))
    (suite_folder / "checksums.json").unlink()
    message = ours.command("publish", suite_folder, "owner/suite").error
    assert f"{HOOK_NAMES[1]}/cfg.json" in message
    assert server.requests == []
    allowed = ("--allow", "/home/someone/notes.txt")
    assert ours.command("publish", suite_folder, "owner/suite", *allowed).status == 0
    for path, content in server.repositories["owner/suite"].contents().items():
        assert b"gscratch" not in content, path


def test_no_local_path_is_published(server: Hub, ours: Client, suite_folder: Path) -> None:
    local = str(suite_folder.parent)
    settings = json.loads((suite_folder / "runner_cfg.json").read_text())
    assert settings["dataset_path"].startswith("/")
    assert ours.command("publish", suite_folder, "owner/suite").status == 0
    for path, content in server.repositories["owner/suite"].contents().items():
        assert local.encode() not in content, path
        assert settings["dataset_path"].encode() not in content, path


def test_the_page_of_features_is_published_where_it_is_asked_for(
    server: Hub, ours: Client, suite_folder: Path, model: HookedTransformer
) -> None:
    refused = ours.command("publish", suite_folder, "owner/suite", "--features")
    assert "write it with `sae-lens-groups features`" in refused.error
    few: dict[str, Any] = {"features": "0-9", "n_batches": 1, "batch_size_prompts": 4}
    SAESuite.load(suite_folder).features(model, make_tokens(seed=5), **few)
    (suite_folder / "features" / "data" / "mine.js").write_text("nobody's but mine")
    written = {f"features/data/{name}.js" for name in ("suite", "tokens", "layers_0-2", "layers_3")}
    written |= {"features/data/layers_0-2-0.js", "features/data/layers_3-0.js"}
    written |= {"features/index.html", "features/features.csv"}
    for flags, expected in (((), set()), (("--features",), written), ((), set())):
        shown = ours.command("publish", suite_folder, "owner/suite", *flags)
        assert shown.status == 0, shown.err
        assert ("With the page of features, 0." in shown.out) == bool(expected)
        contents = server.repositories["owner/suite"].contents()
        assert {path for path in contents if path.startswith("features/")} == expected
        assert ("[`features`](features)" in contents["README.md"].decode()) == bool(expected)


def test_a_suite_without_an_evaluation_says_so(
    server: Hub, ours: Client, suite_folder: Path
) -> None:
    (suite_folder / "evaluation.csv").unlink()
    shutil.rmtree(suite_folder / "evaluation")
    assert ours.command("publish", suite_folder, "owner/suite").status == 0
    card = server.repositories["owner/suite"].contents()["README.md"].decode()
    assert "not evaluated" in card or "not been evaluated" in card


def test_a_dry_run_and_the_entry_ask_the_hub_nothing(
    server: Hub, ours: Client, suite_folder: Path
) -> None:
    shown = ours.command("publish", suite_folder, "owner/suite", "--dry_run")
    assert shown.status == 0
    assert f"{HOOK_NAMES[0]}/{WEIGHTS}\n" in shown.out
    assert "files; nothing was published\n" in shown.out
    assert "\n# suite\n" in shown.out
    shown = ours.command("publish", suite_folder, "owner/suite", "--yaml")
    assert shown.out.startswith("suite:\n  conversion_func: null\n")
    assert shown.out.count("- id: blocks.") == 4
    assert server.requests == []


def test_a_downloaded_suite_and_one_in_memory_are_published(
    server: Hub, ours: Client, suite_folder: Path
) -> None:
    published = ours.python(
        """
from sae_lens_groups import SAESuite
first = SAESuite.load(folder).push_to_hub("owner/suite", license="mit")
suite = SAESuite.from_pretrained("owner/suite")
second = suite.push_to_hub("owner/copy", license="mit")
part = SAESuite.from_pretrained("owner/suite", layers=[1])
try:
    part.push_to_hub("owner/part")
except ValueError as error:
    refused = str(error)
answer = [first.is_changed, first.url, second.is_changed, suite.path, refused]
""",
        folder=str(suite_folder),
    )
    assert published[:4] == [True, f"{server.endpoint}/owner/suite", True, None]
    assert "1 of the 4 layers" in published[4]
    one, two = (server.repositories[f"owner/{name}"].contents() for name in ("suite", "copy"))
    assert one.keys() == two.keys()
    different = {path for path in one if one[path] != two[path]}
    assert different <= {"README.md"}
    assert "owner/part" not in server.repositories


def test_three_layers_attach_to_a_hooked_transformer_at_once(
    ours: Client, plain: Client, suite_folder: Path
) -> None:
    assert ours.command("publish", suite_folder, "owner/suite").status == 0
    shapes, is_first_layers_own = plain.python(
        """
import torch
from sae_lens import SAE, HookedSAETransformer
from transformer_lens import HookedTransformerConfig
cfg = HookedTransformerConfig(
    n_layers=4, d_model=16, n_ctx=16, d_head=8, n_heads=2, d_vocab=60, act_fn="gelu", device="cpu"
)
model = HookedSAETransformer(cfg)
saes = [SAE.from_pretrained("owner/suite", name) for name in names]
tokens = torch.arange(8)[None]
_, without = model.run_with_cache(tokens)
_, cache = model.run_with_cache_with_saes(tokens, saes=saes)
features = [cache[f"{name}.hook_sae_acts_post"] for name in names]
own = saes[0].encode(without[names[0]])
answer = [[list(part.shape) for part in features], torch.allclose(features[0], own, atol=1e-5)]
""",
        names=HOOK_NAMES[:3],
    )
    assert shapes == [[1, 8, 48]] * 3
    assert is_first_layers_own


# --- SAEs that others published ---


@pytest.fixture
def others(server: Hub, suite_folder: Path, tmp_path: Path) -> str:
    """A repository of SAEs as others publish them: no manifest, folders with names of their own."""
    for layer in (0, 1, 3):
        shutil.copytree(suite_folder / HOOK_NAMES[layer], tmp_path / "repo/residual" / f"L{layer}")
        file = tmp_path / "repo/residual" / f"L{layer}" / "cfg.json"
        cfg = json.loads(file.read_text())
        del cfg["metadata"]["sae_lens_groups"]
        file.write_text(json.dumps(cfg))
    (tmp_path / "repo/residual/L0/optimizer.bin").write_bytes(b"large")
    server.add_repository("owner/others", tmp_path / "repo")
    server.add_repository("owner/empty")
    return "owner/others"


def test_a_repository_of_saes_becomes_a_suite(
    server: Hub, others: str, suite_folder: Path, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"repo_id": others, "rows": ROWS_BD}
    expected = outputs(suite_folder)
    with client(server, tmp_path / "home") as process:
        loaded = process.python(OUR_OUTPUTS, options={"layers": [3]}, **arguments)
        assert loaded == {HOOK_NAMES[3]: expected[3]}
        assert [path.parent.name for path in (tmp_path / "home").rglob(WEIGHTS)] == ["L3"]
        loaded = process.python(OUR_OUTPUTS, options={}, **arguments)
        assert list(loaded) == [HOOK_NAMES[0], HOOK_NAMES[1], HOOK_NAMES[3]]
        assert list(loaded.values()) == [expected[0], expected[1], expected[3]]
        assert not list((tmp_path / "home").rglob("optimizer.bin"))
        found = process.python(
            """
from sae_lens_groups.evaluate.baseline import open_baseline
from sae_lens_groups.saved.open import open_saes
baseline, source = open_baseline(repo_id), open_saes(repo_id, groups_only=True)
groups = source.manifest.groups
answer = [baseline.name, list(baseline.saes), [str(group) for group in groups],
          list(source.group(groups[2]).W_dec.shape)]
""",
            repo_id=others,
        )
        names = [HOOK_NAMES[0], HOOK_NAMES[1], HOOK_NAMES[3]]
        assert found == [others, names, ["0", "1", "3"], [48, D_IN]]


def test_what_cannot_be_loaded_is_named(others: str, ours: Client) -> None:
    messages = ours.python(
        """
from sae_lens_groups import SAESuite
answer = []
for repo_id, options in asked:
    try:
        SAESuite.from_pretrained(repo_id, **options)
        answer.append("no error")
    except ValueError as error:
        answer.append(str(error))
""",
        asked=[
            ("owner/nothing", {}),
            ("nothing", {}),
            ("owner/empty", {}),
            (others, {"layers": [0, 2]}),
            (others, {"revision": "v9"}),
        ],
    )
    for message, said in zip(
        messages,
        [
            "'owner/nothing' on the Hub: there is no such repository, or you may not see it",
            "'nothing' is not a repository's name; give owner/name",
            "'owner/empty' is neither a suite nor a folder of SAELens SAEs",
            "has no SAE for layers [2]; it has the layers 0,1,3",
            "'owner/others' on the Hub: it has no such revision",
        ],
        strict=True,
    ):
        assert said in message


# --- without a network, and all architectures; once is enough ---


def test_without_a_network_the_message_says_so(suite_folder: Path, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    nowhere = Hub(f"http://127.0.0.1:{port}", "regular", {})
    with client(nowhere, tmp_path / "home") as process:
        message = process.command("publish", suite_folder, "owner/suite").error
        assert "'owner/suite' on the Hub: it cannot be reached" in message
    with client(nowhere, tmp_path / "home", HF_HUB_OFFLINE="1") as process:
        message = process.command("publish", suite_folder, "owner/suite").error
        assert "check the network, and that HF_HUB_OFFLINE is not set" in message


@pytest.mark.slow
def test_every_architecture_survives_the_way(
    model: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    rows = torch.tensor(ROWS_BD)
    expected: dict[str, list[torch.Tensor]] = {}
    with hub(mode="lfs") as server:
        with client(server, tmp_path / "ours") as ours:
            for name in ARCHITECTURES:
                sae = sae_config(name, normalize_activations=MEAN_NORM)
                cfg = group_config("0-2,3", sae=sae, output_path=str(tmp_path / name))
                trained = GroupSAETrainingRunner(
                    cfg, override_dataset=tokens, override_model=model
                ).run()
                expected[name] = [sae(rows) for sae in trained.values()]
                assert ours.command("publish", tmp_path / name, f"owner/{name}").status == 0
        with client(server, tmp_path / "plain", without_us=True) as plain:
            for name in ARCHITECTURES:
                loaded = plain.python(
                    PLAIN_OUTPUTS, repo_id=f"owner/{name}", hook_names=HOOK_NAMES, rows=ROWS_BD
                )
                for ours_BD, theirs_BD in zip(expected[name], loaded, strict=True):
                    torch.testing.assert_close(
                        torch.tensor(theirs_BD), ours_BD, rtol=1e-5, atol=1e-5
                    )
