"""What of a suite is published, and what stands in place of the paths in it."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sae_lens import SAE

from sae_lens_groups import GroupSAERunnerConfig, GroupSAETrainingRunner, SAESuite
from sae_lens_groups.cli import main
from sae_lens_groups.demo.model import MODEL_FOLDER, stdlib_tokens
from sae_lens_groups.errors import PublishError
from sae_lens_groups.files.folder import CheckedFolder
from sae_lens_groups.publish.public_files import public_files
from sae_lens_groups.publish.scan import require_nothing_private
from sae_lens_groups.saved.manifest import SuiteManifest
from sae_lens_groups.saved.suite import SavedSuite
from sae_lens_groups.train.prepare import settle

from .test_evaluate_command import QUICK, train
from .test_plan_command import FLAGS as PLAN_FLAGS
from .tiny import group_config, make_model, make_tokens, sae_config

HOOKS = [f"blocks.{layer}.hook_resid_post" for layer in range(4)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sae = sae_config("topk", normalize_activations="expected_average_only_in")
    suite = GroupSAETrainingRunner(
        group_config("0-2,3", sae=sae),
        override_dataset=make_tokens(),
        override_model=make_model(norms=(1, 4, 16, 16)),
    ).run()
    folder = suite.save(tmp_path_factory.mktemp("suites") / "suite")
    (folder / "checksums.json").unlink()  # most tests alter files
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "suite"))


def published(folder: Path, **names: Any) -> dict[str, Path | str]:
    return public_files(folder, SavedSuite(CheckedFolder(folder)).manifest, **names).contents


def text_of(content: Path | str) -> str:
    return content.read_text(encoding="utf-8") if isinstance(content, Path) else content


def texts(files: Mapping[str, Path | str]) -> dict[str, str]:
    return {
        name: text_of(content)
        for name, content in files.items()
        if not name.endswith(".safetensors")
    }


def written(files: Mapping[str, Path | str], folder: Path) -> Path:
    """The files as they would be downloaded."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copy(content, path)
        else:
            path.write_bytes(content.encode())
    return folder


def change(path: Path, **values: Any) -> None:
    """Sets entries of a JSON file."""
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**data, **values}, indent=2) + "\n", encoding="utf-8")


def settings_of(files: Mapping[str, Path | str]) -> dict[str, Any]:
    return json.loads(text_of(files["runner_cfg.json"]))


# --- which files ---


def test_a_suite_is_published_as_what_it_consists_of(folder: Path) -> None:
    of_layers = ("cfg.json", "sae_weights.safetensors", "sparsity.safetensors")
    groups = {"layers_0-2": (0, 1, 2), "layers_3": (3,)}
    assert set(published(folder)) == {
        *("suite.json", "runner_cfg.json", "training_curves.csv"),
        *(f"{hook}/{name}" for hook in HOOKS for name in of_layers),
        *(f"groups/{group}/{name}" for group in groups for name in of_layers[:2]),
        *(
            f"groups/{group}/layer_{layer}/activation_scaler.json"
            for group, layers in groups.items()
            for layer in layers
        ),
    }


def test_what_needs_no_change_is_the_file_itself(folder: Path) -> None:
    for name, content in published(folder).items():
        assert content == folder / name


def test_stray_files_stay_at_home(folder: Path, tmp_path: Path) -> None:
    expected = set(published(folder))
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    for name in (
        *("notes.txt", "README.md", ".env", "checkpoints/1/runner_cfg.json", "suite.json.bak"),
        *(f"{HOOKS[0]}/optimizer.pt", f"{HOOKS[0]}/.cfg.json.partial", f"{HOOKS[0]}/sub/cfg.json"),
        *("groups/layers_9/cfg.json", "groups/layers_3/trainer_state.pt", "groups/notes.md"),
        *("groups/layers_3/layer_2/activation_scaler.json", ".evaluation.x.partial/a.json"),
        *("evaluation/notes.txt", "evaluation/mine.json", f"evaluation/.x-{HOOKS[0]}_16_a.json"),
        *("evaluation/sub/feature_layers.csv", "blocks.9.hook_resid_post/cfg.json"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    for name in ("evaluation.csv", "report.html", "evaluation/all_eval_results.json"):
        (folder / name).symlink_to(secret)
    assert set(published(folder)) == expected


def test_an_evaluation_is_published(folder: Path) -> None:
    names = [
        *("evaluation.csv", "report.html", "evaluation/all_eval_results.csv"),
        *("evaluation/feature_layers.csv", "evaluation/missed_features.csv"),
        *("evaluation/faithfulness.csv", f"evaluation/any name-{HOOKS[1]}_16_text.json"),
    ]
    (folder / "evaluation").mkdir()
    for name in names:
        (folder / name).write_text("{}" if name.endswith(".json") else "layer,l0\n1,2\n")
    (folder / "evaluation" / "all_eval_results.json").write_text("[]")
    assert {*names, "evaluation/all_eval_results.json"} <= set(published(folder))


def test_weights_may_be_links_and_all_files_of_the_hubs_cache(folder: Path, tmp_path: Path) -> None:
    weights = folder / HOOKS[0] / "sae_weights.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    assert published(folder)[f"{HOOKS[0]}/sae_weights.safetensors"] == weights
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0", tmp_path / "models--a--b/blobs"
    blobs.mkdir(parents=True)
    for n, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blobs / str(n))
        link.symlink_to(blobs / str(n))
    assert set(published(snapshot)) == set(published(folder))


def test_saes_that_were_trained_elsewhere_may_lack_groups_settings_and_sparsity(
    folder: Path,
) -> None:
    change(folder / "suite.json", versions={"sae-lens": "6.54.12"})
    shutil.rmtree(folder / "groups")
    for hook in HOOKS:
        (folder / hook / "sparsity.safetensors").unlink()
    (folder / "runner_cfg.json").unlink()
    assert set(published(folder)) == {
        *("suite.json", "training_curves.csv"),
        *(f"{hook}/{name}" for hook in HOOKS for name in ("cfg.json", "sae_weights.safetensors")),
    }


def test_a_suite_of_ours_may_not_lack_them(folder: Path) -> None:
    (folder / HOOKS[1] / "sparsity.safetensors").unlink()
    with pytest.raises(PublishError, match=f"it lacks {HOOKS[1]}/sparsity.safetensors;"):
        published(folder)
    shutil.rmtree(folder / "groups")
    with pytest.raises(PublishError, match=r"groups/layers_0-2/cfg\.json"):
        published(folder)


def test_scalers_may_be_absent_as_in_older_suites_but_not_some_of_them(folder: Path) -> None:
    scalers = sorted(folder.glob("groups/*/layer_*/activation_scaler.json"))
    scalers[0].unlink()
    with pytest.raises(PublishError, match=r"layers_0-2/layer_0/activation_scaler\.json"):
        published(folder)
    for path in scalers[1:]:
        path.unlink()
    assert not [name for name in published(folder) if "scaler" in name]


def test_what_whitening_and_alignment_need_is_there(folder: Path) -> None:
    change(folder / "groups/layers_3/layer_3/activation_scaler.json", has_whitening=True)
    with pytest.raises(PublishError, match=r"layers_3/layer_3/activation_whitening.safetensors"):
        published(folder)
    change(folder / "groups/layers_3/layer_3/activation_scaler.json", has_whitening=False)
    change(folder / "suite.json", layer_alignment="orthogonal")
    # Layer 1 is the middle of its group, and layer 3 alone.
    with pytest.raises(
        PublishError,
        match=r"lacks groups/layers_0-2/layer_0/alignment.safetensors, "
        r"groups/layers_0-2/layer_2/alignment.safetensors; nothing was published",
    ):
        published(folder)
    for layer in (0, 2):
        shutil.copy(
            folder / HOOKS[0] / "sparsity.safetensors",
            folder / f"groups/layers_0-2/layer_{layer}/alignment.safetensors",
        )
    assert "groups/layers_0-2/layer_2/alignment.safetensors" in published(folder)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (f"{HOOKS[2]}/sae_weights.safetensors", Path.unlink),
        (f"{HOOKS[2]}/sae_weights.safetensors", cut),
        (f"{HOOKS[2]}/sae_weights.safetensors", empty),
        (f"{HOOKS[2]}/sparsity.safetensors", cut),
        (f"{HOOKS[2]}/cfg.json", Path.unlink),
        (f"{HOOKS[2]}/cfg.json", cut),
        (f"{HOOKS[2]}/cfg.json", empty),
        ("suite.json", cut),
        ("suite.json", Path.unlink),
        ("runner_cfg.json", empty),
        ("groups/layers_0-2/cfg.json", Path.unlink),
        ("groups/layers_0-2/sae_weights.safetensors", cut),
        ("groups/layers_3/layer_3/activation_scaler.json", cut),
        ("evaluation/all_eval_results.json", empty),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_is_missing_or_damaged_is_named(
    folder: Path, name: str, damage: Callable[[Path], None]
) -> None:
    manifest = SavedSuite(CheckedFolder(folder)).manifest
    if name.startswith("evaluation"):
        (folder / "evaluation").mkdir()
    (folder / name).touch()
    # What ends with a line end loses more than that.
    (folder / name).write_bytes((folder / name).read_bytes().rstrip())
    damage(folder / name)
    with pytest.raises(PublishError) as caught:
        public_files(folder, manifest)
    assert name in str(caught.value)
    assert "nothing was published" in str(caught.value)


def test_a_link_that_leads_out_is_not_read_in_place_of_a_needed_file(
    folder: Path, tmp_path: Path
) -> None:
    cfg = folder / HOOKS[0] / "cfg.json"
    cfg.rename(tmp_path / "cfg.json")
    cfg.symlink_to(tmp_path / "cfg.json")
    with pytest.raises(PublishError, match=r"hook_resid_post/cfg.json is a link that leads out"):
        published(folder)


# --- what stands in place of paths ---


@pytest.mark.parametrize(
    ("local", "public"),
    [
        ("/a/b", "b"),
        ("/a/b/", "b"),
        ("/zfs01/alice/my model", "my model"),
        ("~/models/pythia", "pythia"),
        ("~alice/models/pythia", "pythia"),
        ("~", "local_folder"),
        ("/", "local_folder"),
        ("..", "local_folder"),
        ("./pythia", "pythia"),
        ("../pythia", "pythia"),
        ("a/b/c", "c"),
        ("C:\\Users\\alice\\pythia", "pythia"),
        ("d:/models/pythia", "pythia"),
        ("\\\\server\\share\\pythia", "pythia"),
        ("runs\\pythia", "pythia"),
        ("file:///a/b%20c", "b c"),
        ("file:/a/b", "b"),
    ],
)
@pytest.mark.parametrize("key", ["model_name", "dataset_path", "init_from", "output_path"])
def test_a_local_path_becomes_its_last_name(
    folder: Path, key: str, local: str, public: str
) -> None:
    change(folder / "runner_cfg.json", **{key: local})
    if key == "model_name":
        change(folder / "suite.json", model_name=local)
    assert settings_of(published(folder))[key] == public


@pytest.mark.parametrize(
    "name",
    [
        *("EleutherAI/pythia-160m", "pythia-160m", "NeelNanda/pile-10k", "python-standard-library"),
        *(
            "gpt2-small-res-jb:blocks.8.hook_resid_pre",
            "owner/repo:layer_20/width_16k/average_l0_71",
        ),
        *("hf://datasets/owner/name/train", "s3://bucket/a/b", "https://example.org/a/b", ""),
    ],
)
def test_names_on_the_hub_stay(folder: Path, name: str) -> None:
    keys = ("model_name", "dataset_path", "init_from", "from_pretrained_path")
    change(folder / "runner_cfg.json", **dict.fromkeys(keys, name))
    assert published(folder)["runner_cfg.json"] == folder / "runner_cfg.json"


@pytest.mark.parametrize(
    "value",
    [
        *("blocks.3.hook_resid_post", "even:3", "0-3,4", "AMAD < 0.2", "a/b"),
        *("tokens/s", r"^/\w+/$", "1e-3/step", "16/48", "a b/c d/e f", "none", "\\d+", "x: y/z/w"),
    ],
)
def test_values_that_are_no_paths_stay(folder: Path, value: str) -> None:
    change(folder / HOOKS[0] / "cfg.json", anything=value)
    assert published(folder)[f"{HOOKS[0]}/cfg.json"] == folder / HOOKS[0] / "cfg.json"


def test_a_relative_path_that_exists_is_local_though_it_looks_like_a_name_on_the_hub(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(folder / "runner_cfg.json", dataset_path="data/text", output_path="suite")
    assert settings_of(published(folder))["dataset_path"] == "data/text"
    (tmp_path / "data" / "text").mkdir(parents=True)
    assert settings_of(published(folder))["dataset_path"] == "text"
    # The run was started in the folder above the suite's.
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert settings_of(published(folder))["dataset_path"] == "text"


def test_names_stand_for_the_suites_own_model_and_dataset(folder: Path) -> None:
    model, dataset = "/models/alice/py", "/data/alice/pile"
    change(folder / "suite.json", model_name=model)
    change(
        folder / "runner_cfg.json",
        model_name=model,
        dataset_path=dataset,
        init_from="/data/alice/each",
        model_from_pretrained_kwargs={"tokenizer": model, "cache_dir": "/data/alice/cache"},
    )
    files = published(folder, base_model="EleutherAI/pythia-160m", dataset_name="monology/pile")
    assert json.loads(text_of(files["suite.json"]))["model_name"] == "EleutherAI/pythia-160m"
    found = settings_of(files)
    assert found["model_name"] == "EleutherAI/pythia-160m"
    assert found["dataset_path"] == "monology/pile"
    assert found["init_from"] == "each"
    assert found["model_from_pretrained_kwargs"] == {
        "tokenizer": "EleutherAI/pythia-160m",
        "cache_dir": "cache",
    }


def test_names_do_not_stand_for_what_has_a_public_one(folder: Path) -> None:
    files = published(folder, base_model="EleutherAI/pythia-160m", dataset_name="monology/pile")
    assert files["suite.json"] == folder / "suite.json"


def test_accounts_are_taken_out_of_the_loggers_settings(folder: Path) -> None:
    data = json.loads((folder / "runner_cfg.json").read_text())
    logger = {
        **data["logger"],
        "wandb_entity": "alices-lab",
        "wandb_id": "ab12cd34",
        "wandb_project": "saes",
        "run_url": "https://wandb.example.org/alices-lab/saes/runs/ab12cd34",
    }
    change(folder / "runner_cfg.json", logger=logger, checkpoint_path="/x/ckpt/ab12cd34")
    text = text_of(published(folder)["runner_cfg.json"])
    found = json.loads(text)
    assert found["logger"] == {**logger, "wandb_entity": None, "wandb_id": None, "run_url": None}
    assert "ab12cd34" not in text
    del found["logger"]["run_url"]  # it is none of SAELens's
    cfg = GroupSAERunnerConfig.from_saved(found)
    assert Path(str(cfg.checkpoint_path)).parent.name == "ckpt"


def test_the_published_settings_train_the_same_groups(folder: Path) -> None:
    plan = "/home/alice/plans/plan.json"
    change(
        folder / "runner_cfg.json",
        layer_groups=plan,
        checkpoint_path="/x/ckpt/0a1b2c3d",
        output_path="/x/suite",
        logger={"log_to_wandb": False, "run_name": f"topk-48-groups-{plan}-LR-0.003-Tokens-9e+02"},
    )
    files = published(folder)
    require_nothing_private(files, repo_id="a/b")
    found = settings_of(files)
    assert found["layer_groups"] == "0-2,3"
    assert found["logger"]["run_name"] == "topk-48-groups-0-2,3-LR-0.003-Tokens-9e+02"
    cfg = GroupSAERunnerConfig.from_saved(found)
    assert settle(cfg).groups_of(4) == SavedSuite(CheckedFolder(folder)).manifest.groups
    assert Path(str(cfg.checkpoint_path)).parent.name == "ckpt"


def test_a_plan_in_the_current_folder_is_replaced_by_its_groups_too(folder: Path) -> None:
    change(folder / "runner_cfg.json", layer_groups="plan.json")
    assert settings_of(published(folder))["layer_groups"] == "0-2,3"


def test_json_keeps_its_form(folder: Path) -> None:
    path = folder / "runner_cfg.json"
    text = (
        '{"z": 1.50,\t"model_name":"/a/b" , "a": [NaN, 1e-05, "é", "\\u00e9\\/x"],\r\n "sae": {},'
        '"model_name2": "\\"/a/b\\""}\n\n'
    )
    path.write_bytes(text.encode())
    change(folder / "suite.json", model_name="/a/b")
    files = published(folder)
    assert text_of(files["runner_cfg.json"]) == text.replace('"/a/b"', '"b"', 1)
    # What another value quotes is not rewritten but refused.
    with pytest.raises(PublishError, match=r"runner_cfg\.json: the path '/a/b'"):
        require_nothing_private(files, repo_id="a/b")


def evaluated(folder: Path, dataset: str, path: str = "/data/alice/pile") -> None:
    """Files as an evaluation leaves them, as far as they name a dataset."""
    change(folder / "runner_cfg.json", dataset_path=path, model_name="/models/alice/py")
    change(folder / "suite.json", model_name="/models/alice/py")
    (folder / "evaluation").mkdir()
    result = {
        "unique_id": f"suite-{HOOKS[0]}",
        "sae_id": HOOKS[0],
        "eval_cfg": {"context_size": 16, "dataset": dataset[:80]},
        "sae_cfg": {"metadata": {"dataset_path": path}},
    }
    name = f"suite-{HOOKS[0]}_16_{dataset[:80]}.json".replace("/", "_")
    (folder / "evaluation" / name).write_text(json.dumps(result, indent=2))
    (folder / "evaluation" / "all_eval_results.json").write_text(json.dumps([result], indent=2))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["sae_id", "eval_cfg.dataset", "sae_cfg.metadata.dataset_path", "density"])
    writer.writerow([HOOKS[0], dataset[:80], path, str([0.1] * 30_000)])
    (folder / "evaluation" / "all_eval_results.csv").write_text(table.getvalue())
    (folder / "report.html").write_text(
        "<title>2 SAEs for 4 layers of py</title>\n<h1>2 SAEs for 4 layers of py</h1>\n"
        f'<p class="facts">Measured on 32 tokens of {Path(dataset).name} (2 prompts of 16 tokens).</p>\n'
    )


@pytest.mark.parametrize("dataset", ["pile", "/data/alice/pile"])
def test_an_evaluation_names_the_public_model_and_dataset(folder: Path, dataset: str) -> None:
    evaluated(folder, dataset)
    files = published(folder, base_model="EleutherAI/pythia-160m", dataset_name="monology/pile")
    layer = f"evaluation/suite-{HOOKS[0]}_16_monology_pile.json"
    for name in (layer, "evaluation/all_eval_results.json"):
        data = json.loads(text_of(files[name]))
        result = data[0] if isinstance(data, list) else data
        assert result["eval_cfg"]["dataset"] == "monology/pile"
        assert result["sae_cfg"]["metadata"]["dataset_path"] == "monology/pile"
    row = text_of(files["evaluation/all_eval_results.csv"]).splitlines()[1]
    assert row.startswith(f"{HOOKS[0]},monology/pile,monology/pile,")
    assert not [name for name, text in texts(files).items() if "alice" in name + text]


def test_an_evaluation_on_other_text_keeps_its_name(folder: Path) -> None:
    evaluated(folder, "/home/alice/other text")
    files = published(folder, dataset_name="monology/pile")
    layer = f"evaluation/suite-{HOOKS[0]}_16_other text.json"
    assert json.loads(text_of(files[layer]))["eval_cfg"]["dataset"] == "other text"


def test_a_page_goes_up_as_it_was_written(folder: Path) -> None:
    evaluated(folder, "pile")
    page = folder / "report.html"
    assert published(folder, base_model="EleutherAI/pythia-160m")["report.html"] == page


_OLD_PATH = """/d/O'Brien & <"co">/each"""


@pytest.mark.parametrize(
    "quoted",
    [
        "<pre><code>evaluate suite --baseline=/d/each --dataset_path ~/t</code></pre>",
        "<pre><code>train --output_path &#x27;/d/a b/suite&#x27;</code></pre>",
        "<code>/d/O&#x27;Brien &amp; &lt;&quot;co&quot;&gt;/each</code>",
        r"""<script>["\u002fd\u002fO'Brien & \u003c\"co\"\u003e\u002feach"]</script>""",
        f"<script>[{json.dumps(_OLD_PATH)}]</script>",
        "<a href='file:///d/a%20b/suite'>suite</a>",
    ],
)
def test_a_page_of_an_older_version_that_quotes_a_path_is_refused(
    folder: Path, quoted: str
) -> None:
    evaluated(folder, "pile")
    change(folder / "runner_cfg.json", init_from=_OLD_PATH, output_path="/d/a b/suite")
    with (folder / "report.html").open("a") as page:
        page.write(quoted)
    contents, local_paths = public_files(folder, SavedSuite(CheckedFolder(folder)).manifest)
    with pytest.raises(PublishError, match=r"report\.html: .*(?s:.*)evaluate the suite again"):
        require_nothing_private(contents, repo_id="a/b", paths=local_paths)


# --- properties ---

_WORDS = st.text("ab %.é'\"<&:~-", min_size=1, max_size=6)
_PATHS = st.one_of(
    st.text("ab/\\.~:% ", max_size=12),
    st.builds(
        lambda start, words, joint: start + joint.join(words),
        st.sampled_from(["/", "/home/", "~/", "./", "../", "C:\\", "\\\\s\\", "file:///", ""]),
        st.lists(_WORDS, min_size=1, max_size=4),
        st.sampled_from("/\\"),
    ),
)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), _PATHS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
_IN_ONE_FOLDER = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.slow
@_IN_ONE_FOLDER
@given(
    paths=st.fixed_dictionaries(
        dict.fromkeys(
            [
                *("model_name", "dataset_path", "output_path", "checkpoint_path", "init_from"),
                *("layer_groups", "resume_from_checkpoint", "from_pretrained_path"),
            ],
            _PATHS,
        )
    ),
    names=st.fixed_dictionaries(
        {},
        optional={
            "base_model": st.just("EleutherAI/py"),
            "dataset_name": st.sampled_from(["monology/pile", "pile", "a/b/c", "/x/y"]),
        },
    ),
    anything=_JSON,
)
def test_publishing_what_was_published_changes_nothing(
    folder: Path, paths: dict[str, str], names: dict[str, str], anything: Any
) -> None:
    evaluation = folder / "evaluation"
    shutil.rmtree(evaluation, ignore_errors=True)
    evaluated(folder, "pile", paths["dataset_path"])
    change(folder / "runner_cfg.json", **paths, model_kwargs=anything)
    change(folder / "suite.json", model_name=paths["model_name"])
    again = folder.with_name("again")
    shutil.rmtree(again, ignore_errors=True)
    once = published(folder, **names)
    twice = published(written(once, again / "suite"), **names)
    assert texts(twice) == texts(once)
    assert all(isinstance(content, Path) for content in twice.values())


@_IN_ONE_FOLDER
@given(anything=_JSON)
def test_whatever_is_no_path_is_published_as_it_is(folder: Path, anything: Any) -> None:
    change(folder / HOOKS[0] / "cfg.json", anything=anything)
    old = json.loads((folder / HOOKS[0] / "cfg.json").read_text())
    new = json.loads(text_of(published(folder)[f"{HOOKS[0]}/cfg.json"]))
    compare(old["anything"], new["anything"])


def compare(old: Any, new: Any) -> None:
    """Only strings with a separator may differ, and those become shorter."""
    if isinstance(old, dict):
        assert list(old) == list(new)
        for key, value in old.items():
            compare(value, new[key])
    elif isinstance(old, list):
        for one, other in zip(old, new, strict=True):
            compare(one, other)
    elif isinstance(old, str) and old != new:
        assert {"/", "\\", ":"} & set(old)
        assert new in old or new == "local_folder" or "%" in old
    else:
        assert repr(old) == repr(new)


# --- a suite that was trained and evaluated in folders with difficult names ---

HOSTILE = """O'Brien & <co> "x" [ü]{a} 50%2F"""


@pytest.fixture(scope="module")
def hostile_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home") / HOSTILE
    model = Path(shutil.copytree(MODEL_FOLDER, home / "my model"))
    stdlib_tokens("held_out", 32).select(range(300)).save_to_disk(home / "tokens")
    # Patterns in a folder's name are more than `datasets` takes for a text.
    text = home.with_name(HOSTILE.replace("[ü]", "ü")) / "text"
    text.mkdir(parents=True)
    rows = [json.dumps({"text": f"def f{n}(x):\n    return x * {n}\n" * 30}) for n in range(300)]
    (text / "train.jsonl").write_text("\n".join(rows))
    flags = {"model_name": str(model)}
    plan = ["plan", *PLAN_FLAGS, "--model_name", str(model), "--plan_tokens", "1000"]
    data = ["--dataset_path", str(text), "--layer_groups", "even:2"]
    assert main([*plan, *data, "--output_path", str(home / "plan")]) == 0
    train(home / "source", home / "tokens", "0-10,11", **flags)
    train(
        home / "suite",
        home / "tokens",
        str(home / "plan" / "plan.json"),
        **flags,
        init_from=str(home / "source"),
        cached_activations_path=str(home / "cache"),
    )
    evaluate = ["evaluate", str(home / "suite"), "--baseline", str(home / "source"), *QUICK]
    assert main([*evaluate, "--dataset_path", str(text), "--context_size", "16"]) == 0
    return home / "suite"


def test_nothing_of_a_difficult_folder_is_left(hostile_suite: Path) -> None:
    raw = {
        str(path.relative_to(hostile_suite)): path
        for path in hostile_suite.rglob("*")
        if path.is_file()
    }
    with pytest.raises(PublishError, match=r"runner_cfg\.json"):
        require_nothing_private(raw, repo_id="a/b")
    files = published(hostile_suite)
    require_nothing_private(files, repo_id="a/b")
    assert files.keys() == raw.keys() - {"checksums.json"}  # made anew, of what is published
    for text in texts(files).values():
        for part in ("Brien", "<co>", "50%2F", str(hostile_suite.parent.parent)):
            assert part not in text
    page = text_of(files["report.html"])
    assert "train --config_file suite/runner_cfg.json --output_path suite-again" in page
    assert "evaluate suite --baseline source --n_eval_batches 2" in page
    assert "From <code>source</code>" in page
    assert "layers of my model</h1>" in page
    found = settings_of(files)
    assert found["layer_groups"] == "0-5,6-10,11"
    assert found["model_name"] == "my model"
    assert found["dataset_path"] == "tokens"


def test_a_published_suite_loads_with_equal_outputs(hostile_suite: Path, tmp_path: Path) -> None:
    files = published(hostile_suite, base_model="EleutherAI/pythia-160m")
    suite = SAESuite.load(written(files, tmp_path / "downloaded"))
    assert suite.manifest.model_name == "EleutherAI/pythia-160m"
    before = SAESuite.load(hostile_suite)
    x_BD = torch.randn(4, 96)
    for name, sae in suite.items():
        plain = SAE.load_from_disk(tmp_path / "downloaded" / name)
        assert plain.cfg.metadata.model_name == "EleutherAI/pythia-160m"
        assert torch.equal(plain(x_BD), before[name](x_BD))
        assert torch.equal(sae(x_BD), before[name](x_BD))
    manifest = SuiteManifest.from_json(text_of(files["suite.json"]))
    assert manifest.transfer is not None
    assert manifest.transfer.init_from == "source"
    assert manifest.plan is not None
    assert manifest.plan.distances.model_name == "EleutherAI/pythia-160m"


@pytest.mark.slow
def test_the_published_settings_train_again(
    hostile_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(published(hostile_suite), tmp_path / "downloaded")
    # A reader has the model, the text and the source under their last names.
    for name in ("my model", "tokens", "source"):
        (tmp_path / "downloaded" / name).symlink_to(hostile_suite.parent / name)
    monkeypatch.chdir(tmp_path / "downloaded")
    assert main(["train", "--config_file", "runner_cfg.json", "--output_path", "again"]) == 0
    again, before = SAESuite.load("again"), SAESuite.load(hostile_suite)
    assert again.manifest.groups == before.manifest.groups
    for name, sae in again.items():
        assert torch.equal(sae.W_dec, before[name].W_dec)
