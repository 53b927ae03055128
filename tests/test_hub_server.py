"""The tests' own Hub, driven by the real `huggingface_hub` client in processes of its own."""

import base64
import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from .hub import OWNER, READER, STRANGER, Hub, Mode, hub, serving
from .processes import run

CARD = "---\nlicense: mit\nlibrary_name: saelens\ntags: [saelens]\n---\n# A suite\n"
WEIGHTS = "blocks.0/sae_weights.safetensors"
MORE_WEIGHTS = "blocks.1/sae_weights.safetensors"

PRELUDE = """
import json, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

api = HfApi()

def refused(do, *args, **kwargs):
    try:
        do(*args, **kwargs)
    except HfHubHTTPError as error:
        return [type(error).__name__, error.response.status_code, str(error)]
    except Exception as error:
        return [type(error).__name__, None, str(error)]
    return None

def add(path, content):
    return CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)

def answer(**facts):
    print(json.dumps(facts))
"""


def client(
    server: Hub, home: Path, script: str, *args: object, token: str | None = OWNER
) -> dict[str, Any]:
    """What a script with the client says by `answer(...)` at its end."""
    shown = run("-c", PRELUDE + script, *map(str, args), env=server.environment(home, token))
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout.splitlines()[-1])


def post(url: str, body: bytes, token: str = OWNER) -> tuple[int, str]:
    """Status and text of an answer, without the client."""
    request = urllib.request.Request(url, body, {"Authorization": f"Bearer {token}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def write_folder(folder: Path) -> dict[str, bytes]:
    """A folder like a small suite, and what is in it."""
    contents = {
        "README.md": CARD.encode(),
        "blocks.0/cfg.json": b"{}",
        WEIGHTS: bytes(range(256)) * 4000,
        MORE_WEIGHTS: bytes(range(255, -1, -1)) * 4000,
        "empty.safetensors": b"",
        "with space & ümlaut.txt": b"text",
    }
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return contents


# One life of a repository. Each step says how many requests came before it, so that the tests can
# tell the requests of the steps apart.
LIFE = f"""
folder, weights = Path(sys.argv[1]), {WEIGHTS!r}
facts, repo = {{}}, "owner/suite"
api.create_repo(repo, private=True)
api.create_repo(repo, exist_ok=True)
facts["twice"] = refused(api.create_repo, repo)
first = api.upload_folder(repo_id=repo, folder_path=folder)
again = api.upload_folder(repo_id=repo, folder_path=folder)
facts["shas"] = [first.oid, again.oid]
facts["snapshot"] = api.snapshot_download(repo)

info = api.model_info(repo, files_metadata=True)
facts["info"] = [info.sha, info.private, info.author, info.tags, info.card_data.license]
facts["sizes"] = {{file.rfilename: file.size for file in info.siblings}}
facts["lfs"] = {{file.rfilename: file.lfs.sha256 for file in info.siblings if file.lfs}}
tree = list(api.list_repo_tree(repo, recursive=True))
facts["tree"] = {{entry.path: getattr(entry, "blob_id", None) for entry in tree}}
facts["inside"] = [entry.path for entry in api.list_repo_tree(repo, "blocks.0")]
asked = api.get_paths_info(repo, [weights, "blocks.1", "nothing"])
facts["asked"] = [entry.path for entry in asked]
facts["exists"] = [
    api.file_exists(repo, weights), api.file_exists(repo, "nothing"),
    api.revision_exists(repo, first.oid), api.revision_exists(repo, "nothing"),
    api.repo_exists("owner/nothing"),
]

(folder / weights).write_bytes(b"changed")
changed = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Change one")
facts["changed"] = changed.oid

request = api.create_commit(
    repo, [add("asked.txt", b"?")], commit_message="Ask", create_pr=True
)
facts["request"] = [request.pr_num, request.pr_revision]
folder_request = api.upload_folder(repo_id=repo, folder_path=folder / "blocks.1", create_pr=True)
facts["folder_request"] = folder_request.pr_revision
api.upload_file(
    repo_id=repo, path_or_fileobj=b"!", path_in_repo="more.txt", revision=request.pr_revision
)

facts["outdated"] = refused(
    api.create_commit, repo, [add("x.txt", b"x"), add("x.safetensors", b"new")],
    commit_message="Late", parent_commit=first.oid,
)
facts["no_such_file"] = refused(api.delete_file, "nothing", repo)
api.create_commit(
    repo,
    [CommitOperationDelete("blocks.1/"), CommitOperationDelete("blocks.0/cfg.json")],
    commit_message="Delete", parent_commit=changed.oid,
)
api.upload_folder(repo_id=repo, folder_path=folder / "blocks.0", delete_patterns="with*")

api.create_branch(repo, branch="v/2", revision=first.oid)
facts["branch_twice"] = refused(api.create_branch, repo, branch="v/2")
api.create_branch(repo, branch="v/2", exist_ok=True)
api.upload_file(repo_id=repo, path_or_fileobj=b"2", path_in_repo="v.txt", revision="v/2")
api.create_tag(repo, tag="v1", revision=first.oid)
refs = api.list_repo_refs(repo, include_pull_requests=True)
facts["refs"] = [[ref.name for ref in kind] for kind in (refs.branches, refs.tags, refs.pull_requests)]
facts["commits"] = [commit.title for commit in api.list_repo_commits(repo)]
facts["tagged"] = Path(api.hf_hub_download(repo, weights, revision="v1")).read_bytes().hex()
facts["whoami"] = [api.whoami()["name"], api.whoami()["auth"]["accessToken"]["role"]]
answer(**facts)
"""


@pytest.fixture(scope="module", params=["regular", "lfs"])
def life(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What became of a repository, on a Hub with and without LFS."""
    mode: Mode = request.param
    folder, home = tmp_path_factory.mktemp("folder"), tmp_path_factory.mktemp("home")
    sent = write_folder(folder)
    with hub(mode=mode) as server:
        facts = client(server, home, LIFE, folder)
    return SimpleNamespace(
        **facts, mode=mode, sent=sent, server=server, repository=server.repositories["owner/suite"]
    )


def test_a_new_repository_holds_the_hubs_first_commit(life: Any) -> None:
    first = life.repository.commits[0]
    assert (first.title, first.author, list(first.files)) == (
        "initial commit",
        "system",
        [".gitattributes"],
    )
    assert (life.info[1], life.whoami) == (True, ["owner", "write"])


def test_a_repository_that_is_there_is_created_again_only_if_that_is_ok(life: Any) -> None:
    _, status, message = life.twice
    assert status == 409
    assert "You already created this model repo" in message


def test_a_snapshot_equals_what_was_sent(life: Any) -> None:
    snapshot = Path(life.snapshot)
    paths = [path for path in snapshot.rglob("*") if path.is_file()]
    found = {path.relative_to(snapshot).as_posix(): path.read_bytes() for path in paths}
    del found[".gitattributes"]
    assert found == life.sent
    assert snapshot.name == life.shas[0] == life.info[0]


def test_an_unchanged_folder_makes_no_commit(life: Any) -> None:
    assert life.shas[0] == life.shas[1]
    assert [commit.title for commit in life.repository.commits][:3] == [
        "initial commit",
        "Upload folder using huggingface_hub",
        "Change one",
    ]


def test_of_a_changed_folder_the_changed_file_alone_is_sent(life: Any) -> None:
    assert life.repository.contents(life.changed)[WEIGHTS] == b"changed"
    requests = life.server.requests_of("commit", "lfs_upload")
    received = [(request.kind, request.bytes_received) for request in requests]
    if life.mode == "lfs":
        weights = len(life.sent[WEIGHTS])
        assert received[:2] == [("lfs_upload", weights)] * 2
        assert received[3] == ("lfs_upload", len(b"changed"))
    else:
        assert received[0][1] > 2 * len(life.sent[WEIGHTS])
        assert received[1][0] == "commit"
        assert received[1][1] < 1000


def test_only_the_lfs_hub_keeps_weights_in_lfs(life: Any) -> None:
    weights = {WEIGHTS, MORE_WEIGHTS} if life.mode == "lfs" else set()
    assert life.lfs == {name: hashlib.sha256(life.sent[name]).hexdigest() for name in weights}
    # Git holds a pointer of 132 bytes then, and its blob id is that of the pointer.
    blob = b"blob 1024000\0" + life.sent[WEIGHTS]
    assert (life.tree[WEIGHTS] == hashlib.sha1(blob).hexdigest()) == (life.mode == "regular")


def test_listings_agree_with_what_was_sent(life: Any) -> None:
    sizes = {name: len(content) for name, content in life.sent.items()}
    assert {**sizes, ".gitattributes": life.sizes[".gitattributes"]} == life.sizes
    assert set(life.tree) == {*life.sizes, "blocks.0", "blocks.1"}
    assert life.tree["empty.safetensors"] == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert life.inside == ["blocks.0/cfg.json", WEIGHTS]
    assert sorted(life.asked) == [WEIGHTS, "blocks.1"]
    assert life.exists == [True, False, True, False, False]
    assert life.info[2:] == ["owner", ["saelens"], "mit"]


def test_a_pull_request_leaves_main_alone(life: Any) -> None:
    assert life.request == [1, "refs/pr/1"]
    assert life.folder_request == "refs/pr/2"
    asked = life.repository.contents("refs/pr/1")
    assert (asked["asked.txt"], asked["more.txt"], asked[WEIGHTS]) == (b"?", b"!", b"changed")
    assert "sae_weights.safetensors" in life.repository.contents("refs/pr/2")
    assert not {"asked.txt", "more.txt"} & set(life.repository.contents())


def test_a_commit_on_an_outdated_parent_is_refused(life: Any) -> None:
    _, status, message = life.outdated
    assert status == 412
    assert "A commit has happened since" in message
    assert "x.txt" not in life.repository.contents()


def test_what_is_deleted_stays_in_the_commits_before(life: Any) -> None:
    kind, status, message = life.no_such_file
    assert (kind, status) == ("RemoteEntryNotFoundError", 404)
    assert "A file with this name doesn't exist" in message
    assert set(life.repository.contents()) == {
        ".gitattributes",
        "README.md",
        WEIGHTS,
        "empty.safetensors",
        "sae_weights.safetensors",
        "cfg.json",
    }
    assert life.repository.contents(life.changed).keys() >= life.sent.keys()


def test_branches_and_tags_stay_where_they_are_put(life: Any) -> None:
    assert life.branch_twice[1] == 409
    assert life.refs == [["main", "v/2"], ["v1"], ["1", "2"]]
    assert life.repository.contents("v/2")["v.txt"] == b"2"
    assert bytes.fromhex(life.tagged) == life.sent[WEIGHTS]
    assert life.commits == [commit.title for commit in life.repository.commits[::-1]]


RIGHTS = """
caches, owner, reader, stranger, forged = sys.argv[1:]
facts = {}
for name, token in {
    "nobody": False, "reader": reader, "stranger": stranger, "forged": forged
}.items():
    api = HfApi(token=token)
    def read(repo):
        # A cache of one's own: a cached file is as good as one that may not be read.
        return refused(api.hf_hub_download, repo, "a.txt", cache_dir=f"{caches}/{name}")
    delete = [CommitOperationDelete("a.txt")]
    facts[name] = {
        "create": refused(api.create_repo, "owner/new"),
        "add": refused(
            api.upload_file, repo_id="owner/open", path_or_fileobj=b"a", path_in_repo="b.txt"
        ),
        "delete": refused(api.create_commit, "owner/open", delete, commit_message="m"),
        "open": read("owner/open"),
        "private": read("owner/private"),
        "gated": read("owner/gated"),
        "gated_info": refused(api.model_info, "owner/gated"),
    }
stranger_api, api = HfApi(token=stranger), HfApi(token=owner)
request = stranger_api.create_commit(
    "owner/open", [add("b.safetensors", b"b")], commit_message="Ask", create_pr=True
)
facts["request"] = request.pr_revision
api.update_repo_settings("owner/open", private=True)
facts["hidden"] = refused(stranger_api.model_info, "owner/open")
api.delete_repo("owner/open")
facts["deleted"] = refused(api.model_info, "owner/open")
answer(**facts)
"""


@pytest.fixture(scope="module")
def rights(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What several users are refused, and the repository that they tried to change."""
    folder, home = tmp_path_factory.mktemp("rights"), tmp_path_factory.mktemp("home")
    (folder / "a.txt").write_text("a")
    with hub(mode="lfs") as server:
        repository = server.add_repository("owner/open", folder)
        server.add_repository("owner/private", folder, private=True)
        server.add_repository("owner/gated", folder, gated=True)
        facts = client(server, home, RIGHTS, home, OWNER, READER, STRANGER, "hf_forged")
    return SimpleNamespace(**facts, repositories=server.repositories, repository=repository)


@pytest.mark.parametrize(
    ("who", "what", "status", "message"),
    [
        ("nobody", "create", 401, "Invalid username or password."),
        ("nobody", "add", 401, "Invalid username or password."),
        ("nobody", "delete", 401, "Invalid username or password."),
        ("reader", "create", 403, "don't have the rights to create a model under the namespace"),
        ("reader", "add", 403, "you must use a write token to upload to a repository"),
        ("reader", "delete", 403, "you must use a write token to upload to a repository"),
        ("stranger", "create", 403, 'the rights to create a model under the namespace "owner"'),
        ("stranger", "add", 403, "pass `create_pr=1` as a query parameter"),
        ("stranger", "delete", 403, "pass `create_pr=1` as a query parameter"),
        ("forged", "create", 401, "Invalid credentials in Authorization header"),
        ("forged", "add", 401, "Invalid credentials in Authorization header"),
        ("forged", "open", 401, "Invalid credentials in Authorization header"),
    ],
)
def test_who_may_not_change_a_repository_is_told_why(
    rights: Any, who: str, what: str, status: int, message: str
) -> None:
    found = getattr(rights, who)[what]
    assert found[1] == status
    assert message in found[2]
    assert len(rights.repository.commits) == 1
    assert "owner/new" not in rights.repositories


@pytest.mark.parametrize("who", ["nobody", "reader", "stranger"])
def test_everyone_reads_what_is_public_and_only_the_owner_the_rest(rights: Any, who: str) -> None:
    found = getattr(rights, who)
    assert found["open"] is None
    assert found["gated_info"] is None
    if who == "reader":  # the owner's own token for reading
        assert (found["private"], found["gated"]) == (None, None)
    else:
        logged_in = who == "stranger"
        missing = ["RepositoryNotFoundError", 404 if logged_in else 401]
        assert found["private"][:2] == missing
        assert found["gated"][:2] == ["GatedRepoError", 403 if logged_in else 401]


def test_everyone_may_open_a_pull_request(rights: Any) -> None:
    assert rights.request == "refs/pr/1"
    assert rights.repository.contents("refs/pr/1")["b.safetensors"] == b"b"
    assert rights.repository.at("refs/pr/1").author == "stranger"


def test_what_is_made_private_or_deleted_is_not_found(rights: Any) -> None:
    assert rights.hidden[:2] == ["RepositoryNotFoundError", 404]
    assert rights.deleted[:2] == ["RepositoryNotFoundError", 404]


UPLOAD = """
repo, folder = "owner/suite", sys.argv[1]
answer(refused=refused(api.upload_folder, repo_id=repo, folder_path=folder))
"""


@pytest.fixture
def lfs_hub() -> Iterator[Hub]:
    """A Hub with LFS and an empty repository `owner/suite`."""
    with hub(mode="lfs") as server:
        server.add_repository("owner/suite")
        yield server


def test_an_interrupted_upload_leaves_nothing_and_goes_on_where_it_ended(
    lfs_hub: Hub, tmp_path: Path
) -> None:
    sent = write_folder(tmp_path / "folder")
    repository = lfs_hub.repositories["owner/suite"]
    lfs_hub.fail("lfs_upload", nth=2)
    stopped = client(lfs_hub, tmp_path / "home", UPLOAD, tmp_path / "folder")
    assert stopped["refused"][0] == "RuntimeError"
    assert len(repository.commits) == 1
    assert sorted(r.status or 0 for r in lfs_hub.requests_of("lfs_upload")) == [200, 501]

    lfs_hub.requests.clear()
    finished = client(lfs_hub, tmp_path / "home", UPLOAD, tmp_path / "folder")
    assert finished["refused"] is None
    (missing,) = lfs_hub.requests_of("lfs_upload")
    assert (missing.status, missing.bytes_received) == (200, len(sent[WEIGHTS]))
    assert repository.contents() == {
        **sent,
        ".gitattributes": repository.contents()[".gitattributes"],
    }
    assert len(repository.commits) == 2


def test_a_connection_cut_within_an_upload_is_made_again(lfs_hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    content = bytes(1_000_000)
    (tmp_path / "folder/a.safetensors").write_bytes(content)
    lfs_hub.fail("lfs_upload", "cut request")
    assert client(lfs_hub, tmp_path / "home", UPLOAD, tmp_path / "folder")["refused"] is None
    cut, whole = lfs_hub.requests_of("lfs_upload")
    assert cut.status is None
    assert cut.bytes_received < len(content) == whole.bytes_received
    assert lfs_hub.repositories["owner/suite"].contents()["a.safetensors"] == content


def test_a_commit_whose_answer_is_lost_is_there_and_not_made_twice(
    lfs_hub: Hub, tmp_path: Path
) -> None:
    write_folder(tmp_path / "folder")
    lfs_hub.fail("commit", "lose answer")
    lost = client(lfs_hub, tmp_path / "home", UPLOAD, tmp_path / "folder")
    assert lost["refused"][0] == "RemoteProtocolError"
    assert len(lfs_hub.repositories["owner/suite"].commits) == 2
    again = client(lfs_hub, tmp_path / "home", UPLOAD, tmp_path / "folder")
    assert again["refused"] is None
    assert len(lfs_hub.repositories["owner/suite"].commits) == 2


def test_a_refused_commit_leaves_nothing(lfs_hub: Hub, tmp_path: Path) -> None:
    write_folder(tmp_path / "folder")
    lfs_hub.fail("commit", 507)
    refused = client(lfs_hub, tmp_path / "home", UPLOAD, tmp_path / "folder")
    assert refused["refused"][1] == 507
    assert len(lfs_hub.repositories["owner/suite"].commits) == 1


READ = """
import huggingface_hub.constants
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 1000  # it keeps whole chunks of 10 MB otherwise
def read():
    return api.hf_hub_download("owner/suite", "a.safetensors", force_download=True)
answer(refused=refused(read), content=Path(read()).read_bytes().hex()[:8])
"""


def test_a_download_that_is_cut_goes_on_where_it_ended(lfs_hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.safetensors").write_bytes(b"weights" * 100_000)
    lfs_hub.add_repository("owner/suite", tmp_path / "folder")
    lfs_hub.fail("download", "cut answer")
    read = client(lfs_hub, tmp_path / "home", READ)
    assert read == {"refused": None, "content": b"weig".hex()}
    downloads = [request.status for request in lfs_hub.requests_of("download")]
    assert downloads == [None, 206, 200]


def test_a_hub_that_is_down_answers_nothing_until_it_is_healed(
    lfs_hub: Hub, tmp_path: Path
) -> None:
    script = """
import time
start = time.monotonic()
found = refused(api.model_info, "owner/suite")
answer(refused=found, seconds=time.monotonic() - start)
"""
    lfs_hub.fail("any", 503, times=100)
    assert client(lfs_hub, tmp_path / "home", script)["refused"][1] == 503
    lfs_hub.heal()
    lfs_hub.slow("info", 0.5)
    late = client(lfs_hub, tmp_path / "home", script)
    assert late["refused"] is None
    assert late["seconds"] >= 0.5


def commit_by_hand(server: Hub, *changes: tuple[str, dict[str, Any]]) -> tuple[int, str]:
    """Sends a commit that the client would not send."""
    header = ("header", {"summary": "By hand"})
    lines = [json.dumps({"key": key, "value": value}) for key, value in [header, *changes]]
    url = f"{server.endpoint}/api/models/owner/suite/commit/main"
    return post(url, "\n".join(lines).encode())


def file_change(path: str, content: bytes) -> tuple[str, dict[str, Any]]:
    """A file within a commit."""
    encoded = base64.b64encode(content).decode()
    return "file", {"path": path, "content": encoded, "encoding": "base64"}


def test_a_commit_that_names_an_object_never_uploaded_is_refused_whole(lfs_hub: Hub) -> None:
    missing = {"path": "ω.safetensors", "algo": "sha256", "oid": 64 * "0", "size": 1}
    status, text = commit_by_hand(lfs_hub, file_change("a.txt", b"a"), ("lfsFile", missing))
    assert status == 400
    message = json.loads(text)["error"]
    assert "an LFS pointer pointed to a file that does not exist" in message
    assert "Offending file: - ω.safetensors" in message
    assert list(lfs_hub.repositories["owner/suite"].contents()) == [".gitattributes"]


def test_a_commit_with_a_bad_card_is_refused_whole(lfs_hub: Hub) -> None:
    card = file_change("README.md", b"---\nlicense: [mit\nother: 1\n---\n")
    status, text = commit_by_hand(lfs_hub, file_change("a.txt", b"a"), card)
    assert (status, "Invalid metadata in README.md" in text) == (400, True)
    assert list(lfs_hub.repositories["owner/suite"].contents()) == [".gitattributes"]


CARDS = """
import warnings
facts = {}
for name, text in json.loads(sys.argv[1]).items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = refused(
            api.upload_file,
            repo_id="owner/suite", path_in_repo="README.md", path_or_fileobj=text.encode(),
        )
    facts[name] = [found and found[0], found and found[2], [str(w.message) for w in caught]]
answer(**facts)
"""


def test_cards_are_checked_as_the_hub_checks_them(lfs_hub: Hub, tmp_path: Path) -> None:
    cards = {
        "yaml": "---\ntags: [a\n---\n",
        "list": "---\n- a\n---\n",
        "tags": "---\ntags: a\n---\n",
        "license": "---\nlicense: my own\n---\n",
        "base_model": "---\nbase_model: /home/me/model\n---\n",
        "datasets": "---\ndatasets: [me/data, my data]\n---\n",
        "none": "# Nothing above",
        "good": CARD,
    }
    found = client(lfs_hub, tmp_path / "home", CARDS, json.dumps(cards))
    errors = {name: message for name, (kind, message, _) in found.items() if kind == "ValueError"}
    assert errors.keys() == {"yaml", "list", "tags", "license", "base_model", "datasets"}
    assert '"license" must be one of [apache-2.0, mit,' in errors["license"]
    assert (
        '"base_model" with value "/home/me/model" is not valid. '
        "Use a model id from https://hf.co/models." in errors["base_model"]
    )
    assert 'with value "my data" is not valid' in errors["datasets"]
    assert found["none"][0] is None
    assert "empty or missing yaml metadata in repo card" in found["none"][2][0]
    assert found["good"] == [None, None, []]
    repository = lfs_hub.repositories["owner/suite"]
    assert [repository.contents(c.id).get("README.md") for c in repository.commits] == [
        None,
        cards["none"].encode(),
        CARD.encode(),
    ]


def test_a_client_that_takes_xet_for_granted_fails_and_leaves_nothing(
    lfs_hub: Hub, tmp_path: Path
) -> None:
    pytest.importorskip("hf_xet")
    write_folder(tmp_path / "folder")
    script = "import huggingface_hub.constants as c; c.HF_HUB_DISABLE_XET = False" + UPLOAD
    found = client(lfs_hub, tmp_path / "home", script, tmp_path / "folder")
    assert "xet-write-token" in found["refused"][2]
    assert len(lfs_hub.repositories["owner/suite"].commits) == 1


def test_folders_become_repositories(tmp_path: Path) -> None:
    sent = write_folder(tmp_path / "root/owner/suite")
    script = "answer(folder=api.snapshot_download('owner/suite'))"
    with hub(tmp_path / "root") as server:
        folder = Path(client(server, tmp_path / "home", script, token=None)["folder"])
        assert server.repositories["owner/suite"].contents() == sent
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.relative_to(folder).as_posix() for path in found} == set(sent)
    with serving(tmp_path / "root") as endpoint:
        assert post(f"{endpoint}/api/models/owner/suite/paths-info/main", b"paths=a")[0] == 200
