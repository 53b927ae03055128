"""The suite: a mapping in memory, a folder on disk, and what plain SAELens makes of it."""

import json
import pydoc
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from sae_lens import SAE, TrainingSAE
from safetensors.torch import load_file
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupSAETrainingRunner, LayerGroup, SAESuite, evaluate_suite
from sae_lens_groups.errors import OutputFolderError, SuiteError, UnknownLayerError
from sae_lens_groups.layers import HookTemplate
from sae_lens_groups.saved.manifest import SuiteManifest

from .processes import run
from .tiny import D_IN, D_SAE, group_config, make_model, make_tokens, sae_config

HOOK_NAMES = [f"blocks.{layer}.hook_resid_post" for layer in range(4)]


@pytest.fixture(scope="module")
def suite() -> SAESuite:
    sae = sae_config("topk", normalize_activations="expected_average_only_in")
    return GroupSAETrainingRunner(
        group_config("0-2,3", sae=sae),
        override_dataset=make_tokens(),
        override_model=make_model(norms=(1, 4, 16, 16)),
    ).run()


@pytest.fixture
def folder(suite: SAESuite, tmp_path: Path) -> Path:
    return suite.save(tmp_path / "suite")


@pytest.mark.seam
def test_a_suite_is_a_mapping_from_hook_name_to_plain_sae(suite: SAESuite) -> None:
    assert isinstance(suite, Mapping)
    assert list(suite) == HOOK_NAMES
    assert len(suite) == 4
    assert HOOK_NAMES[2] in suite
    assert "blocks.4.hook_resid_post" not in suite
    assert {type(sae).__module__.split(".")[0] for sae in suite.values()} == {"sae_lens"}
    assert not isinstance(suite[HOOK_NAMES[0]], TrainingSAE)
    assert suite[HOOK_NAMES[0]] is suite.layer(0)


def test_an_unknown_layer_says_which_there_are(suite: SAESuite) -> None:
    with pytest.raises(UnknownLayerError) as caught:
        suite["blocks.9.hook_resid_post"]
    assert str(caught.value) == (
        "this suite has no SAE for 'blocks.9.hook_resid_post'; it has 4 layers, "
        "blocks.0.hook_resid_post to blocks.3.hook_resid_post"
    )
    assert suite.get("blocks.9.hook_resid_post") is None


@pytest.mark.parametrize("asked", [2, "2", HOOK_NAMES[2], np.int64(2)])
def test_a_layer_is_asked_for_by_number_or_hook_name(suite: SAESuite, asked: Any) -> None:
    assert suite[asked] is suite.layer(asked) is suite[HOOK_NAMES[2]]
    assert asked in suite
    assert suite.get(asked) is suite[HOOK_NAMES[2]]
    assert torch.equal(suite.log_sparsity(asked), suite.log_sparsity(2))
    assert suite.scaler(asked) is suite.scaler(2)


@pytest.mark.parametrize("asked", [LayerGroup(0, 2), "layers_0-2", "0-2", 1, "1", HOOK_NAMES[0]])
def test_a_group_is_asked_for_by_its_name_or_a_layer(suite: SAESuite, asked: Any) -> None:
    assert suite.groups == (LayerGroup(0, 2), LayerGroup(3, 3))
    assert suite.group(asked) is suite.group(suite.groups[0])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda suite: suite[9], "this suite has no SAE for layer 9; it has 4 layers"),
        (lambda suite: suite[True], "no SAE for True; it has 4 layers"),
        (lambda suite: suite[0:2], r"no SAE for slice\(0, 2, None\); it has 4 layers"),
        (
            lambda suite: suite["layers_0-2"],
            r"group's name, and suite\.group\('layers_0-2'\) gives",
        ),
        (lambda suite: suite.layer("0-2"), r"group's name, and suite\.group\('0-2'\) gives"),
        (lambda suite: suite.group("0-1"), "no group '0-1'; its groups are layers_0-2, layers_3"),
        (lambda suite: suite.group(LayerGroup(0, 1)), "no group '0-1'; its groups are layers_0-2"),
    ],
)
def test_what_a_suite_has_not_is_said(suite: SAESuite, ask: Any, message: str) -> None:
    with pytest.raises(UnknownLayerError, match=message):
        ask(suite)


@pytest.mark.parametrize(
    ("layers", "held"),
    [
        (3, [3]),
        ("3", [3]),
        ([HOOK_NAMES[1], "3", 1], [1, 3]),
        (range(2), [0, 1]),
        (LayerGroup(0, 2), [0, 1, 2]),
        ("layers_0-2", [0, 1, 2]),
    ],
)
def test_layers_to_load_are_named_in_the_same_ways(folder: Path, layers: Any, held: Any) -> None:
    suite = SAESuite.load(folder, layers=layers)
    assert list(suite) == [HOOK_NAMES[layer] for layer in held]


@pytest.mark.parametrize("layers", [7, "7", 1.5, [None], "0-1", []])
def test_layers_to_load_that_are_not_there_are_named(folder: Path, layers: Any) -> None:
    with pytest.raises(UnknownLayerError, match=r"has no SAE for .*; it has the layers 0-2,3"):
        SAESuite.load(folder, layers=layers)


def test_a_notebook_completes_hook_names_and_shows_a_table(suite: SAESuite) -> None:
    assert suite._ipython_key_completions_() == HOOK_NAMES
    table = suite._repr_html_()
    assert "4 layers of tiny" in table
    assert all(f"<td>{name}</td>" in table for name in HOOK_NAMES)


def test_a_table_of_the_layers_has_their_scores_where_they_were_evaluated(
    folder: Path, tmp_path: Path, model: HookedTransformer, tokens: Dataset
) -> None:
    suite = SAESuite.load(SAESuite.load(folder).save(tmp_path / "copy"))
    before = suite.to_dataframe()
    assert list(before.columns) == ["layer", "hook_name", "group", "scaling_factor"]
    assert list(before.hook_name) == HOOK_NAMES
    evaluation = suite.evaluate(model, tokens, n_batches=2)
    after = suite.to_dataframe()
    assert list(after.explained_variance) == pytest.approx(
        [of.metrics["explained_variance"] for of in evaluation]
    )
    assert list(SAESuite.load(tmp_path / "copy", layers=3).to_dataframe().layer) == [3]
    (tmp_path / "copy" / "evaluation.csv").write_text("")
    with pytest.raises(SuiteError, match=r"evaluation\.csv cannot be read"):
        suite.to_dataframe()


def test_suites_are_evaluated_and_compared_by_their_folders(
    folder: Path, tmp_path: Path, model: HookedTransformer, tokens: Dataset
) -> None:
    copy = SAESuite.load(folder).save(tmp_path / "copy")
    evaluation = evaluate_suite(str(copy), model, tokens, baseline=folder, n_batches=2)
    assert (copy / "evaluation.csv").exists()
    assert evaluation.comparison is not None
    assert evaluation.comparison.mean_differences["explained_variance"].value == 0


def test_one_layer_is_one_layer(suite: SAESuite, folder: Path) -> None:
    assert repr(suite) == "SAESuite(4 layers of tiny, groups layers_0-2, layers_3)"
    assert repr(SAESuite.load(folder, layers=3)) == "SAESuite(1 layer of tiny, groups layers_3)"


def test_help_shows_the_ways_in(suite: SAESuite) -> None:
    text = re.sub(".\b", "", pydoc.render_doc(suite))  # bold, as terminals show it
    for way in ("suite[5]", "suite.layer(5)", "suite.group(5)", "suite.groups", "suite.evaluate("):
        assert way in text


def test_a_suite_folder_holds_what_the_contract_says(suite: SAESuite, folder: Path) -> None:
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    plain = {"cfg.json", "sae_weights.safetensors"}
    assert files == {
        "suite.json",
        "checksums.json",
        "runner_cfg.json",
        "training_curves.csv",
        *(f"{name}/{file}" for name in HOOK_NAMES for file in plain | {"sparsity.safetensors"}),
        *(f"groups/{group}/{file}" for group in ("layers_0-2", "layers_3") for file in plain),
        *(f"groups/layers_0-2/layer_{layer}/activation_scaler.json" for layer in range(3)),
        "groups/layers_3/layer_3/activation_scaler.json",
    }
    manifest = json.loads((folder / "suite.json").read_text())
    assert manifest["format_version"] == 1
    assert manifest["model_name"] == "tiny"
    assert manifest["hook_template"] == "blocks.{layer}.hook_resid_post"
    assert manifest["groups"] == [
        {"name": "layers_0-2", "layers": [0, 1, 2], "hook_names": HOOK_NAMES[:3]},
        {"name": "layers_3", "layers": [3], "hook_names": HOOK_NAMES[3:]},
    ]
    assert list(manifest["layers"]) == HOOK_NAMES
    assert manifest["layers"][HOOK_NAMES[1]]["layer"] == 1
    assert manifest["layers"][HOOK_NAMES[1]]["group"] == "layers_0-2"
    factors = [entry["scaling_factor"] for entry in manifest["layers"].values()]
    assert factors == list(suite.manifest.scaling_factors.values())
    assert factors[0] > 2 * factors[1] > 4 * factors[2]  # norms grow with depth in this model
    assert json.loads((folder / "runner_cfg.json").read_text())["layer_groups"] == "0-2,3"


@pytest.mark.seam
def test_a_layers_cfg_is_saelens_inference_form_with_our_facts_under_one_key(folder: Path) -> None:
    cfg = json.loads((folder / HOOK_NAMES[1] / "cfg.json").read_text())
    assert cfg["architecture"] == "topk"
    assert cfg["normalize_activations"] == "none"
    metadata = cfg["metadata"]
    assert metadata["hook_name"] == HOOK_NAMES[1]
    assert metadata["model_name"] == "tiny"
    assert metadata["model_from_pretrained_kwargs"] is not None
    assert metadata["l0"] == pytest.approx(4, abs=0.5)
    ours = metadata["sae_lens_groups"]
    assert (ours["group"], ours["layers"], ours["layer"]) == ("layers_0-2", [0, 1, 2], 1)


def test_sparsity_is_each_layers_own_log10_frequency(suite: SAESuite, folder: Path) -> None:
    of_layer = [load_file(folder / n / "sparsity.safetensors")["sparsity"] for n in HOOK_NAMES]
    assert all(sparsity.shape == (D_SAE,) for sparsity in of_layer)
    assert not torch.equal(of_layer[0], of_layer[2])
    for layer, sparsity in enumerate(of_layer):
        assert (10**sparsity).sum().item() == pytest.approx(
            suite.layer(layer).cfg.metadata.l0, rel=1e-3
        )


@pytest.mark.seam
def test_groups_are_saved_in_training_form(suite: SAESuite, folder: Path) -> None:
    loaded = TrainingSAE.load_from_disk(folder / "groups" / "layers_0-2")
    group_sae = suite.group(LayerGroup(0, 2))
    for name, weight in group_sae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)


@pytest.mark.seam
def test_a_saved_suite_loads_with_equal_outputs(suite: SAESuite, folder: Path) -> None:
    loaded = SAESuite.load(folder)
    assert loaded.manifest == suite.manifest
    assert loaded.path == folder
    rows = torch.randn(8, D_IN)
    for name in HOOK_NAMES:
        assert torch.equal(loaded[name](rows), suite[name](rows))
    again = SAESuite.load(loaded.save(folder.with_name("copy")))
    assert torch.equal(again[HOOK_NAMES[0]](rows), suite[HOOK_NAMES[0]](rows))


_WITHOUT_US = """
import sys, torch, warnings
warnings.simplefilter("ignore")
sys.modules["sae_lens_groups"] = None  # importing it fails
from sae_lens import SAE
folder, rows = sys.argv[1], torch.load(sys.argv[2])
torch.save(SAE.load_from_disk(folder)(rows), sys.argv[3])
try:
    import sae_lens_groups
except ImportError:
    print("loaded without sae_lens_groups")
"""


@pytest.mark.slow
@pytest.mark.seam
def test_plain_saelens_loads_a_layer_where_we_cannot_be_imported(
    suite: SAESuite, folder: Path, tmp_path: Path
) -> None:
    rows = torch.randn(8, D_IN)
    torch.save(rows, tmp_path / "rows.pt")
    files = (str(tmp_path / "rows.pt"), str(tmp_path / "out.pt"))
    shown = run("-c", _WITHOUT_US, str(folder / HOOK_NAMES[1]), *files)
    assert shown.stdout == "loaded without sae_lens_groups\n", shown.stderr
    assert torch.equal(torch.load(tmp_path / "out.pt"), suite[HOOK_NAMES[1]](rows))


def test_a_folder_that_holds_something_is_never_overwritten(
    suite: SAESuite, folder: Path, tmp_path: Path
) -> None:
    before = (folder / "suite.json").read_text()
    with pytest.raises(OutputFolderError) as caught:
        suite.save(folder)
    assert "already holds a finished suite, which is never overwritten" in str(caught.value)
    assert (folder / "suite.json").read_text() == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(OutputFolderError, match="already holds other files"):
        suite.save(tmp_path / "notes")
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["mine.txt"]


def test_a_run_whose_output_folder_was_taken_meanwhile_saves_beside_it(
    model: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    cfg = group_config("3", output_path=str(tmp_path / "out"))
    runner = GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs.txt").write_text("keep")
    suite = runner.run()
    assert suite.path == tmp_path / "out-2"
    assert len(SAESuite.load(tmp_path / "out-2")) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs.txt"]


def test_a_link_to_an_empty_folder_is_filled(suite: SAESuite, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    suite.save(tmp_path / "link")
    assert len(SAESuite.load(tmp_path / "link")) == 4


def test_a_save_that_fails_leaves_nothing_behind(
    suite: SAESuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(TrainingSAE, "save_model", no_space)
    with pytest.raises(OSError, match="No space left"):
        suite.save(tmp_path / "parent" / "suite")
    assert list((tmp_path / "parent").iterdir()) == []


def test_a_group_of_one_width_keeps_its_matrices_on_disk(folder: Path) -> None:
    weights = [load_file(folder / name / "sae_weights.safetensors") for name in HOOK_NAMES[:3]]
    assert torch.equal(weights[0]["W_enc"], weights[2]["W_enc"])
    assert torch.equal(weights[0]["W_dec"], weights[2]["W_dec"])
    assert not torch.equal(weights[0]["b_dec"], weights[2]["b_dec"])


# --- broken suites ---


def edit(folder: Path, change: Any) -> None:
    manifest = json.loads((folder / "suite.json").read_text())
    change(manifest)
    (folder / "suite.json").write_text(json.dumps(manifest))
    (folder / "checksums.json").unlink()  # as if an older version had written it so


def test_a_folder_without_suite_json_is_no_suite(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"neither a suite nor a folder of SAELens SAEs"):
        SAESuite.load(tmp_path)


def test_a_newer_format_asks_for_an_upgrade(folder: Path) -> None:
    edit(folder, lambda manifest: manifest.update(format_version=2))
    with pytest.raises(
        SuiteError, match=r"suite\.json.* format_version is 2.*upgrade sae-lens-groups"
    ):
        SAESuite.load(folder)


def test_an_entry_that_a_later_version_added_does_no_harm(folder: Path) -> None:
    edit(folder, lambda manifest: manifest.update(novelty={"from": "elsewhere"}))
    assert len(SAESuite.load(folder)) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["groups"][0].update(layers=[0, 2]),
        lambda m: m["groups"][1].update(layers=[2, 3]),
        lambda m: m["groups"].pop(),
        lambda m: m["layers"].pop(HOOK_NAMES[1]),
        lambda m: m["layers"][HOOK_NAMES[1]].update(group="layers_3"),
        lambda m: m.update(hook_template="../{layer}"),
        lambda m: m.pop("groups"),
        lambda m: m.update(groups=3),
        lambda m: m.update(model_name=None),
        lambda m: m.update(dataset_rows_read="many"),
        lambda m: m["layers"][HOOK_NAMES[1]].update(scaling_factor="large"),
        lambda m: m.update(plan={"n_tokens": 10**400}),
    ],
)
def test_a_suite_json_that_was_edited_is_refused(folder: Path, change: Any) -> None:
    edit(folder, change)
    with pytest.raises(SuiteError, match=r"suite\.json"):
        SAESuite.load(folder)


@pytest.mark.parametrize("content", [b"\xff", b"[" * 100_000, b'{"format_version": 7'])
def test_a_suite_json_that_cannot_be_read_is_named(folder: Path, content: bytes) -> None:
    (folder / "suite.json").write_bytes(content)
    (folder / "checksums.json").unlink()
    with pytest.raises(SuiteError, match=r"suite\.json cannot be read"):
        SAESuite.load(folder)


def test_a_broken_runner_cfg_is_named(folder: Path) -> None:
    (folder / "runner_cfg.json").write_text("{")
    (folder / "checksums.json").unlink()
    with pytest.raises(SuiteError, match=r"runner_cfg\.json cannot be read"):
        SAESuite.load(folder)


def test_a_missing_layer_is_named(folder: Path) -> None:
    (folder / HOOK_NAMES[1]).rename(folder / "elsewhere")
    with pytest.raises(SuiteError, match=f"lacks the folders {HOOK_NAMES[1]}"):
        SAESuite.load(folder)


def test_broken_weights_are_named(folder: Path) -> None:
    (folder / HOOK_NAMES[1] / "sae_weights.safetensors").write_bytes(b"\0" * 100)
    (folder / "checksums.json").unlink()
    with pytest.raises(
        SuiteError, match=f"{HOOK_NAMES[1]}/sae_weights.safetensors' cannot be used"
    ):
        SAESuite.load(folder)[HOOK_NAMES[1]]


@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    factors=st.lists(st.none() | st.floats(1e-6, 1e6), min_size=20, max_size=20),
)
def test_suite_json_survives_being_written_and_read(
    lengths: list[int], factors: list[float | None]
) -> None:
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    groups = tuple(LayerGroup(end - n, end - 1) for end, n in zip(ends, lengths))
    manifest = SuiteManifest(
        groups=groups,
        hook_template=HookTemplate("blocks.", ".hook_resid_post"),
        scaling_factors=dict(enumerate(factors[: ends[-1]])),
        model_name="a model",
        versions={"torch": "2"},
    )
    assert SuiteManifest.from_json(manifest.to_json()) == manifest


def test_an_sae_can_be_moved_and_stays_moved(folder: Path) -> None:
    loaded = SAESuite.load(folder)
    loaded[HOOK_NAMES[0]].to(torch.float64)
    assert loaded[HOOK_NAMES[0]].W_dec.dtype == torch.float64


@pytest.mark.seam
def test_several_layers_attach_to_a_model_at_once(
    suite: SAESuite, model: HookedTransformer, tokens: Dataset
) -> None:
    from sae_lens import HookedSAETransformer

    sae_model = HookedSAETransformer(model.cfg)
    sae_model.load_state_dict(model.state_dict())
    batch = torch.tensor(tokens[:2]["tokens"])
    saes: list[SAE[Any]] = list(suite.values())[:3]
    _, cache = sae_model.run_with_cache_with_saes(batch, saes=saes)
    for name in HOOK_NAMES[:3]:
        assert cache[f"{name}.hook_sae_acts_post"].shape == (2, 16, D_SAE)
