"""What further layers of a group cost on the Hub, by the Hub client's own chunking."""

import hashlib
from pathlib import Path

import pytest
from sae_lens.constants import SPARSITY_FILENAME

from sae_lens_groups import SAESuite

from .benchmarks.hub_storage import folded_by_saelens, topk, train, upload, weights_files
from .hub import hub, xet
from .hub.client import client

D_IN, D_SAE = 512, 4096
ONE_PERCENT = 2 * D_IN * D_SAE * 4 / 100  # of the bytes of both matrices


@pytest.fixture(scope="module", autouse=True)
def _hf_xet() -> None:
    hf_xet = pytest.importorskip("hf_xet", reason="huggingface_hub brings it on most machines only")
    if not hasattr(hf_xet, "XetSession"):
        pytest.skip("this version of hf_xet has no XetSession to upload with")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> SAESuite:
    """One group of four layers."""
    return train(topk(D_IN, D_SAE), tmp_path_factory.mktemp("suite") / "suite")


def test_a_further_layer_costs_at_most_one_percent_of_its_file(
    suite: SAESuite, tmp_path: Path
) -> None:
    files = [[file, file.with_name(SPARSITY_FILENAME)] for file in weights_files(suite)]
    first, *further = upload(tmp_path / "store", files)
    assert first.new_bytes == first.file_bytes > 100 * ONE_PERCENT
    assert len(further) == 3
    for layer in further:
        assert layer.file_bytes == first.file_bytes
        assert 0 < layer.new_bytes <= ONE_PERCENT
        assert 0 < layer.store_bytes <= ONE_PERCENT


def test_from_another_machine_too(suite: SAESuite, tmp_path: Path) -> None:
    files = [[file] for file in weights_files(suite)]
    _, *further = upload(tmp_path / "store", files, new_client=True)
    assert max(layer.new_bytes for layer in further) <= ONE_PERCENT


def test_all_further_layers_may_share_an_upload_but_not_with_the_first(
    suite: SAESuite, tmp_path: Path
) -> None:
    """hf_xet finds what the store holds, not what another file of the same upload brings."""
    files = weights_files(suite)
    _, further = upload(tmp_path / "in_two", [files[:1], files[1:]])
    assert further.new_bytes <= 3 * ONE_PERCENT
    (at_once,) = upload(tmp_path / "at_once", [files])
    assert at_once.new_bytes > 300 * ONE_PERCENT


def test_layers_that_do_not_share_their_matrices_cost_all_of_them(
    suite: SAESuite, tmp_path: Path
) -> None:
    files = folded_by_saelens(suite, tmp_path / "folded")
    for layer in upload(tmp_path / "store", [[file] for file in files]):
        assert layer.new_bytes > 100 * ONE_PERCENT


def test_a_published_group_is_stored_once_beside_its_training_form(
    suite: SAESuite, tmp_path: Path
) -> None:
    assert suite.path is not None
    size = weights_files(suite)[0].stat().st_size
    with hub(mode="lfs") as server:
        server.xet_store = tmp_path / "store"
        repository = server.add_repository("owner/suite")
        for path in suite.path.rglob("*.*"):
            if path.is_file():
                content = path.read_bytes()
                repository.lfs_objects[hashlib.sha256(content).hexdigest()] = content
        with client(server, tmp_path / "home") as process:
            assert process.command("publish", suite.path, "owner/suite").status == 0
    assert len(repository.commits) == 2
    assert repository.contents()[f"{list(suite)[3]}/sae_weights.safetensors"]
    # Four layers' files and the group's own: two files' worth, before compression.
    assert 1.5 * size < xet.n_bytes(tmp_path / "store") < 2.1 * size
