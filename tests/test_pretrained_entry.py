"""The entry for SAELens's `pretrained_saes.yaml`, read by SAELens's own loader."""

import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders, pretrained_saes_directory
from sae_lens.loading.pretrained_saes_directory import (
    get_pretrained_saes_directory,
    get_repo_id_and_folder_name,
)

from sae_lens_groups.errors import PublishError
from sae_lens_groups.publish.entry import pretrained_entry

from .test_model_card import REPO, demo_sae, facts, scores, with_metadata

HOOK_NAMES = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]


@pytest.fixture
def saelens_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Puts an entry behind SAELens's own, as a pull request would; the first three do for all."""

    def add(entry: str) -> None:
        own = files("sae_lens").joinpath("pretrained_saes.yaml").read_text()
        releases = re.split(r"^(?=[^\s#-])", own, flags=re.MULTILINE)
        text = "".join([*releases[:4], entry])  # before the first there is nothing, or a comment
        (tmp_path / "pretrained_saes.yaml").write_text(text)
        monkeypatch.setattr(pretrained_saes_directory, "files", lambda _: tmp_path)
        get_pretrained_saes_directory.cache_clear()

    yield add
    get_pretrained_saes_directory.cache_clear()


def test_the_entry_is_what_saelens_list_has_for_others() -> None:
    suite = facts("0-1")
    rows = scores(suite, l0="32.01234")
    rows[1] |= {"l0": "nan", "explained_variance": ""}
    assert pretrained_entry(replace(suite, scores=rows)) == (
        "my-suite:\n"
        "  conversion_func: null\n"
        "  model: pythia-160m\n"
        "  repo_id: me/my-suite\n"
        "  saes:\n"
        "  - id: blocks.0.hook_resid_post\n"
        "    path: blocks.0.hook_resid_post\n"
        "    l0: 32.0123\n"
        "    variance_explained: 0.9123\n"
        "  - id: blocks.1.hook_resid_post\n"
        "    path: blocks.1.hook_resid_post\n"
    )


def test_a_suite_that_was_not_evaluated_has_an_entry_without_scores() -> None:
    [entry] = yaml.safe_load(pretrained_entry(facts("0-1"))).values()
    assert entry["saes"] == [{"id": name, "path": name} for name in HOOK_NAMES]


def test_a_model_of_transformers_is_named_as_on_the_hub() -> None:
    suite = with_metadata(facts("0"), model_class_name="AutoModelForCausalLM")
    [entry] = yaml.safe_load(pretrained_entry(suite)).values()
    assert entry["model"] == "EleutherAI/pythia-160m"


@pytest.mark.seam
def test_saelens_own_loader_finds_every_layer_of_the_entry(saelens_with: Any) -> None:
    suite = facts("0-1")
    saelens_with(pretrained_entry(replace(suite, scores=scores(suite, l0="32"))))
    directory = get_pretrained_saes_directory()
    assert len(directory) == 4
    release = directory["my-suite"]
    assert (release.model, release.repo_id, release.conversion_func) == ("pythia-160m", REPO, None)
    assert release.saes_map == {name: name for name in HOOK_NAMES}
    assert release.expected_l0 == dict.fromkeys(HOOK_NAMES, 32.0)
    assert release.expected_var_explained == dict.fromkeys(HOOK_NAMES, 0.9123)
    assert get_repo_id_and_folder_name("my-suite", HOOK_NAMES[1]) == (REPO, HOOK_NAMES[1])


def test_from_pretrained_takes_the_release_to_the_layers_folder(
    saelens_with: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saelens_with(pretrained_entry(facts("0-1")))
    sae = demo_sae(HOOK_NAMES[1])
    sae.save_model(tmp_path / HOOK_NAMES[1])
    (tmp_path / HOOK_NAMES[1] / "sparsity.safetensors").write_bytes(b"")

    def download(repo_id: str, filename: str, **_: Any) -> str:
        assert repo_id == REPO
        if filename.endswith("sparsity.safetensors"):
            raise pretrained_sae_loaders.EntryNotFoundError("no such file")
        return str(tmp_path / filename)

    monkeypatch.setattr(pretrained_sae_loaders, "hf_hub_download", download)
    loaded = SAE.from_pretrained("my-suite", HOOK_NAMES[1])
    assert loaded.cfg.metadata.hook_name == HOOK_NAMES[1]
    assert (loaded.W_enc == sae.W_enc).all()


def test_a_release_name_that_saelens_has_for_other_saes_is_refused() -> None:
    with pytest.raises(PublishError) as caught:
        pretrained_entry(facts(repo_id="me/gpt2-small-res-jb"))
    assert str(caught.value) == (
        "SAELens has a release 'gpt2-small-res-jb' already, of "
        "'jbloom/GPT2-Small-SAEs-Reformatted'; publish to a repository of another name"
    )


def test_a_branch_has_no_entry_because_saelens_reads_main() -> None:
    with pytest.raises(PublishError, match="SAELens reads main; the suite is on 'v2'"):
        pretrained_entry(facts(revision="v2"))
