"""Nothing is published while a path, a user name or a secret is left."""

import html
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs
from safetensors.numpy import save_file

from sae_lens_groups.errors import PublishError
from sae_lens_groups.publish.scan import require_nothing_private

REPO_ID = "bobs-lab/my-suite"


@pytest.fixture(autouse=True)
def _alice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user is Alice, and this machine holds no secrets."""
    for name in list(os.environ):
        if any(word in name.upper() for word in ("TOKEN", "KEY", "SECRET", "PASSWORD")):
            monkeypatch.delenv(name)
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "alice")
    monkeypatch.setenv("HOME", "/zoo/wonder land/alice")
    monkeypatch.setattr("socket.gethostname", lambda: "rabbit-hole.example.org")


def refusal(files: dict[str, Path | str], **kwargs: Any) -> str:
    with pytest.raises(PublishError) as caught:
        require_nothing_private(files, **{"repo_id": REPO_ID, **kwargs})
    return str(caught.value)


def page(text: str) -> str:
    return f"<html><script>{get_plotlyjs()}</script><body>{text}</body></html>"


FORMS: dict[str, Callable[[str], str]] = {
    "a.json": lambda text: json.dumps({"a": [1, {"b": f"see {text} there"}]}),
    "key.json": lambda text: json.dumps({"a": {text: None}}, indent=2),
    "unicode.json": lambda text: json.dumps([text], ensure_ascii=False),
    "nested.json": lambda text: json.dumps({"a": json.dumps({"b": text})}),
    "a.csv": lambda text: f'a,b\n1,"see ""{text}"""\n',
    "a.html": lambda text: f"<p title='{html.escape(text)}'>",
    "script.html": lambda text: f"<script>x = {json.dumps(text).replace('/', chr(92) + 'u002f')}",
    "plotly.html": page,
    "address.html": lambda text: f'<a href="https://example.org/?q={quote(text, safe="")}">',
    "README.md": lambda text: f"# Model\n\nIt lies in `{text}`.\n",
    "a.yaml": lambda text: f"a: {text}\n",
}

# Put together here, so that no scanner takes this file for a leak.
TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
SECRETS = {
    "a Hugging Face token": TOKEN,
    "an OpenAI or Anthropic key": "sk-" + "ant-api03-" + "aB3_" * 10,
    "a GitHub token": "ghp_" + "aB3d" * 9,
    "a GitLab token": "glpat-" + "aB3d_-" * 4,
    "an AWS key": "AKIA" + "IOSFODNN7EXAMPLE",
    "a Slack token": "xoxb-" + "123456789012-abcdef",
    "a Google key": "AIza" + "aB3d_" * 7,
    "a Stripe key": "sk_live_" + "aB3d" * 6,
    "a PyPI token": "pypi-" + "AgEIcHlwaS5vcmc" * 4,
    "a JSON web token": "eyJ" + "hbGciOiJIUzI1" + ".eyJ" + "zdWIiOiIxMjM0" + "." + "dozjgNryP4J3",
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "a password in an address": "https://" + "alfred:" + "hunter2secret" + "@example.org/x",
}
PATHS = [
    *(
        "/home/alfred/x",
        "/Users/alfred",
        "/" + "root/x",
        "/tmp/run/1",
        "/mnt/data/x",
        "/var/lib/x.y",
    ),
    *("/scratch/ab12/runs", "/workspace/x", "/opt/ml/model", "/content/drive", "/dbfs/x", "/usr/x"),
    *("//home/alfred/x", "/private/var/x", "/Volumes/disk/x", "/gpfs/ab/x", "/kaggle/input"),
    *("C:\\Users\\alfred\\x", "d:/models/pythia/x", "\\\\server\\share\\x"),
    *("file:///etc/passwd", "file:///C:/Users/x", "--path=/home/alfred/x", "a:/home/alfred/x"),
    *("/zoo/wonder land/alice/x", "\\zoo\\wonder land\\alice\\x"),
]
NAMES = ["alice", "Alice", "by alice.", "alice_runs", "alice-2", "rabbit-hole", "at-ALICE"]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("text", [*PATHS, *NAMES])
def test_paths_and_names_are_found_in_every_form(name: str, text: str) -> None:
    message = refusal({"fine.json": "{}", name: FORMS[name](text)})
    assert message.startswith("nothing was published, because a file holds what names")
    assert f"\n  {name}: the " in message
    assert "fine.json" not in message
    assert message.endswith("accepted with --allow TEXT")


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("kind", "secret"), SECRETS.items())
def test_secrets_are_found_in_every_form_and_never_shown(name: str, kind: str, secret: str) -> None:
    message = refusal({name: FORMS[name](secret)})
    assert f"\n  {name}: {kind} (" in message
    for start in range(0, len(secret) - 8, 4):
        assert secret[start : start + 8] not in message.replace("https://", "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps({"wandb_api_key": "0123456789abcdef0123456789abcdef01234567"})),
        ("a.md", "export WANDB_API_KEY=0123456789abcdef0123456789abcdef01234567"),
        ("a.json", json.dumps({"token": "aB3dE6gH9jK2mN5pQ8"})),
        ("a.csv", "api_key\napi-key: aB3dE6gH9jK2mN5pQ8\n"),
        ("a.html", "<p>password = 'hunter2secret'"),
    ],
)
def test_what_is_named_as_a_secret_is_one(name: str, text: str) -> None:
    message = refusal({name: text})
    assert "characters)" in message
    assert "cdef0123" not in message
    assert "gH9j" not in message
    assert "er2sec" not in message


def test_the_secrets_of_this_machine_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SERVICE_KEY", 'open/"sesame" & co')
    (tmp_path / "token").write_text("an unusual token\n")  # as `hf auth login` writes it
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("TOKENIZER_NAME", "EleutherAI/pythia-160m")  # it is no token
    monkeypatch.setenv("SHORT_KEY", "linkage")
    require_nothing_private({"a.json": '["EleutherAI/pythia-160m", "linkage"]'}, repo_id=REPO_ID)
    for name, form in FORMS.items():
        for secret in ('open/"sesame" & co', "an unusual token"):
            message = refusal({name: form(f"x/{secret}")})
            assert f"a token or key of this machine ({secret[:4]}…, " in message
            assert secret[4:12] not in message


def test_a_path_is_shown_without_a_secret_in_it() -> None:
    message = refusal({"a.json": json.dumps([f"/home/alfred/{TOKEN}/x", f"/tmp/{TOKEN}"])})
    assert "'/home/alfred/'" in message
    assert TOKEN[:8] not in message


def test_names_of_files_are_searched_too() -> None:
    files: dict[str, Path | str] = {f"evaluation/{TOKEN}.json": "{}", "alice/a.csv": ""}
    message = refusal(files)
    assert "2 files hold" in message
    assert "evaluation/hf_A….json: a Hugging Face token (hf_A…, 37 characters)" in message
    assert "alice/a.csv: the user or host name 'alice'" in message
    assert TOKEN[:8] not in message


def test_what_weights_say_of_themselves_is_searched_and_their_numbers_are_not(
    tmp_path: Path,
) -> None:
    numbers = np.frombuffer(b" /home/alfred/x ", dtype=np.uint8)
    fine, bad = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"W_enc": numbers}, fine, metadata={"format": "np"})
    require_nothing_private({"a.safetensors": fine}, repo_id=REPO_ID)
    save_file({"W_enc": numbers}, bad, metadata={"made_in": "/home/alfred/x"})
    assert "b.safetensors: the path '/home/alfred/x'" in refusal({"b.safetensors": bad})


def test_the_folders_of_this_run_are_known_wherever_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = tmp_path / "su ite"
    (suite / "layer").mkdir(parents=True)
    (suite / "layer" / "cfg.json").write_text("{}")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    files: dict[str, Path | str] = {"layer/cfg.json": suite / "layer" / "cfg.json"}
    require_nothing_private(files, repo_id=REPO_ID, paths=[suite])
    for folder in (suite, tmp_path / "here", Path("/zoo/wonder land/alice")):
        # Neither the beginning of a word nor a usual place.
        text = f"x{folder}/y"
        for name, form in {
            "a.json": json.dumps(text),
            "a.html": quote(text),
            "b.html": text.replace("/", "\\"),
        }.items():
            assert "the folder" in refusal({**files, name: form}, paths=[suite])


def test_each_file_is_named_with_the_first_of_its_findings() -> None:
    paths = [f"/home/alfred/{n}" for n in range(5)]
    message = refusal({"a.json": json.dumps(paths), "b.csv": "/tmp/x", "c.csv": ""})
    assert "2 files hold" in message
    assert (
        "a.json: the path '/home/alfred/0', the path '/home/alfred/1', the path '/home/alfred/2' "
        "and 2 more\n"
    ) in message
    assert "b.csv: the path '/tmp/x'\n" in message
    assert "c.csv" not in message


# --- what is accepted ---


@pytest.mark.parametrize(
    "allowed",
    [
        *(["/opt/ml/model"], ["/opt/ml"], ["/opt/ml/"], ["see /opt/ml/model there"]),
        ["nothing of this", "/opt/ml/model"],
    ],
    ids=str,
)
def test_what_is_allowed_may_be_there(allowed: list[str]) -> None:
    for name, form in FORMS.items():
        if "see" in allowed[0] and name != "a.json":
            continue
        require_nothing_private({name: form("/opt/ml/model")}, repo_id=REPO_ID, allowed=allowed)


@pytest.mark.parametrize("allowed", ["", "/", "/opt/m", "/opt/ml/model2", "model", "o", "/OPT"])
def test_no_more_is_allowed_than_that(allowed: str) -> None:
    refusal({"a.json": '["/opt/ml/model"]'}, allowed=[allowed])
    refusal({"a.json": '["/opt/ml/model", "/opt/x"]'}, allowed=["/opt/ml", allowed])


def test_a_name_and_a_secret_can_be_allowed() -> None:
    files: dict[str, Path | str] = {"a.json": json.dumps(["by Alice", TOKEN])}
    assert "alice" in refusal(files, allowed=[TOKEN]).lower()
    assert "Hugging Face" in refusal(files, allowed=["alice", TOKEN[:-1]])
    require_nothing_private(files, repo_id=REPO_ID, allowed=["alice", TOKEN])


@pytest.mark.parametrize("name", ["root", "ubuntu", "runner", "jovyan", "al", "1000", "Docker"])
def test_accounts_that_everybody_has_are_no_names(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(variable, name)
    monkeypatch.setenv("HOME", f"/home/{name}")
    require_nothing_private({"a.json": json.dumps([name])}, repo_id=REPO_ID)


@pytest.mark.parametrize("repo_id", ["alice/suite", "Alice/suite", "lab/alice-saes"])
def test_the_names_of_the_repository_are_public(repo_id: str) -> None:
    require_nothing_private({"a.json": '["by alice"]'}, repo_id=repo_id)


HARMLESS = [
    *("EleutherAI/pythia-160m", "blocks.3.hook_resid_post", "malice and alices", "and/or"),
    *("https://huggingface.co/data/x/home/alfred", "https://arxiv.org/abs/2410.21508", "a/tmp/b"),
    *("http://home/x", "s3://bucket/home/x", "text/html; charset=utf-8", "1/2"),
    *(
        "@article{a, author={B, C}}",
        "https://example.org:8080/x",
        "TopK: k/d_sae",
        "x:\n",
        "{x: 1}",
    ),
    *("token: <|endoftext|>", "sequence_separator_token: bos", "training_tokens: 300000", "~0.5"),
    *(
        "the password is not here",
        "secret: none",
        "sk-learn",
        "hf_hub_download",
        "mask-image",
        "//",
    ),
    *("0.1,0.2,1e-05", "sae_lens_groups", r"\d+/\w+", r"$\\frac{a}{b}$", "C: 5", "L0/L1", "%20"),
]


@pytest.mark.parametrize("name", FORMS)
def test_what_is_harmless_passes(name: str) -> None:
    for text in HARMLESS:
        require_nothing_private({name: FORMS[name](text)}, repo_id=REPO_ID)


def test_a_card_may_give_an_address_and_its_readers_home() -> None:
    text = "Write to carol@example.org; the cache is ~/.cache/huggingface."
    require_nothing_private({"README.md": text}, repo_id=REPO_ID)
    message = refusal({"a.html": text})
    assert "the e-mail address 'carol@example.org'" in message
    assert "the path '~/.cache/huggingface.'" in message


# --- pages ---

BANNER = "/**\n* plotly.js v1.2.3\n* Copyright\n*/\n"


def test_the_library_of_another_version_is_no_text_about_people() -> None:
    program = BANNER + "function alice(e){return e.alice?/^file:/.test(e):'a@b.de'}" * 1000
    require_nothing_private({"a.html": f"<script>{program}</script>"}, repo_id=REPO_ID)
    for private in (" /home/alfred/x ", TOKEN):
        middle = len(program) // 2
        text = f"{program[:middle]} {private} {program[middle:]}"
        refusal({"a.html": f"<script>{text}</script>"})
    refusal({"a.html": f"<script>{program}</script><script>alice</script>"})
    refusal({"a.html": f"<style>body {{ margin: 0 }}</style><script>{program}</script>by alice"})
    require_nothing_private({"a.html": "<style>.alice {}</style>"}, repo_id=REPO_ID)


@pytest.mark.slow
def test_the_library_that_draws_is_no_private_text_in_any_version() -> None:
    of_another_version = get_plotlyjs().replace("plotly.js v", "plotly.js v0", 1)
    assert of_another_version != get_plotlyjs()
    require_nothing_private({"a.html": f"<script>{of_another_version}</script>"}, repo_id=REPO_ID)


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(st.floats(0, 1), st.sampled_from([" /home/alfred/x ", f" {TOKEN} ", " alice "]))
@example(0.999, " alice ")
def test_what_was_put_anywhere_into_a_page_is_found(position: float, private: str) -> None:
    text = page("<script>Plotly.newPlot('a', [{\"x\": [1, 2]}])</script>")
    # Names are looked for in what is ours: in the library they are no people's.
    library = get_plotlyjs() if private == " alice " else ""
    own = text.replace(library, "\0") if library else text
    at = int(position * len(own))
    refusal({"a.html": (own[:at] + private + own[at:]).replace("\0", library)})


# --- properties ---

_LEAVES = st.one_of(st.none(), st.booleans(), st.floats(), st.text('ab .-"\\<&é', max_size=9))


def _with(planted: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """JSON with something planted at one place, as a value, a key or a part of one."""
    keys = st.text("ab_", max_size=4)
    others = st.dictionaries(keys, _LEAVES, max_size=3)
    return st.recursive(
        planted,
        lambda inner: st.one_of(
            st.builds(lambda x, xs: [*xs, x, *xs], inner, st.lists(_LEAVES, max_size=3)),
            st.builds(lambda key, x, xs: {**xs, key: x}, keys, inner, others),
            st.builds(lambda x, xs: {**xs, x if isinstance(x, str) else "c": x}, inner, others),
        ),
        max_leaves=4,
    )


_PRIVATE = st.sampled_from([*PATHS, *NAMES, *SECRETS.values()])
_PLANTED = st.builds(
    lambda before, private, after: f"{before}{private}{after}",
    st.sampled_from(["", " ", "from ", "x\n", "a: ", "('"]),
    _PRIVATE,
    st.sampled_from(["", " ", ", then", "\n", "/more", "')"]),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_with(_PLANTED), st.booleans(), st.sampled_from([None, 2]))
def test_what_was_planted_anywhere_in_json_is_found(
    data: Any, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(data, ensure_ascii=ascii_only, indent=indent)
    refusal({"a.json": text})


@settings(deadline=None)
@given(_with(_LEAVES))
def test_json_without_anything_private_passes(data: Any) -> None:
    require_nothing_private({"a.json": json.dumps(data)}, repo_id=REPO_ID)


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        *("/home" * 40_000, "/" * 200_000, "\\" * 200_000, "a:/" * 60_000, "~" * 200_000),
        *("1" * 200_000, "1, " * 80_000, "1." * 100_000),
        *("a@" * 100_000, "a" * 200_000, "eyJ" * 60_000, "wandb" * 40_000, "://" * 60_000),
        *("-----BEGIN " * 18_000, "token=" * 32_000, "password:" * 22_000, "&amp;" * 40_000),
        *(
            '"' * 200_000,
            "%25" * 60_000,
            "hf_" * 60_000,
            "alic" * 50_000,
            "<script>" * 24_000,
        ),
        *("<script>/**\n* plotly.js v" * 8_000, "<style>" * 28_000, "a.b-c+d_" * 24_000 + "@"),
    ],
    ids=lambda text: text[:12],
)
def test_no_text_takes_long(text: str) -> None:
    for name in ("a.json", "a.html", "a.csv", "a.md"):
        try:
            require_nothing_private({name: text}, repo_id=REPO_ID)
        except PublishError:
            continue
