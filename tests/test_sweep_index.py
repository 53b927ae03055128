"""`sweep.json`, which names the suites of a sweep."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_groups.errors import GroupSAEError, OutputFolderError, SuiteError
from sae_lens_groups.files import require_free
from sae_lens_groups.saved import (
    SweepIndex,
    SweepSetting,
    is_sweep_folder,
    read_sweep_index,
    write_sweep_index,
)

from .fuzzing import damaged, fuzzed, message_of

INDEX = SweepIndex(
    settings=(
        SweepSetting(name="k16-lr0.0003", changes={"k": 16, "lr": 3e-4}),
        SweepSetting(
            name="matryoshka",
            changes={
                "architecture": "matryoshka_batchtopk",
                "matryoshka_widths": [64, 128],
                "rescale_acts_by_decoder_norm": True,
            },
        ),
    )
)
CONTENT = {
    "format_version": 1,
    "settings": [
        {"name": "k16-lr0.0003", "changes": {"k": 16, "lr": 3e-4}},
        {
            "name": "matryoshka",
            "changes": {
                "architecture": "matryoshka_batchtopk",
                "matryoshka_widths": [64, 128],
                "rescale_acts_by_decoder_norm": True,
            },
        },
    ],
}


def written(folder: Path, content: object) -> Path:
    folder.joinpath("sweep.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_an_index_is_written_as_agreed_and_read_back_as_it_was(tmp_path: Path) -> None:
    assert not is_sweep_folder(tmp_path)
    write_sweep_index(tmp_path, INDEX)
    assert is_sweep_folder(tmp_path)
    assert json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8")) == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]
    found = read_sweep_index(tmp_path)
    assert found == INDEX
    assert found.names == ("k16-lr0.0003", "matryoshka")
    kinds = [[type(value) for value in of.changes.values()] for of in found.settings]
    assert kinds == [[int, float], [str, list, bool]]


def test_the_same_index_is_the_same_text(tmp_path: Path) -> None:
    write_sweep_index(tmp_path, INDEX)
    before = (tmp_path / "sweep.json").read_bytes()
    write_sweep_index(tmp_path, read_sweep_index(tmp_path))
    assert (tmp_path / "sweep.json").read_bytes() == before


def test_entries_of_later_versions_are_left_alone(tmp_path: Path) -> None:
    settings = [{**of, "cost": 3} for of in CONTENT["settings"]]  # type: ignore[union-attr]
    found = read_sweep_index(written(tmp_path, {**CONTENT, "settings": settings, "later": []}))
    assert found == INDEX


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "settings: there is none"),
        ([{"name": "k16"}], r"settings[0].changes is missing"),
        ([{"name": "../k16", "changes": {}}], "'../k16' is no name of a folder inside the sweep's"),
        ([{"name": ".k16", "changes": {}}], "'.k16' is no name of a folder inside the sweep's"),
        ([{"name": "", "changes": {}}], "'' is no name of a folder inside the sweep's"),
        ([{"name": "k16\n", "changes": {}}], "is no name of a folder inside the sweep's"),
        ([{"name": "k", "changes": {"k": 1}}] * 2, "2 settings are called 'k'"),
        ([{"name": "k", "changes": {"k": None}}], "settings[0].changes.k"),
        ([{"name": "k", "changes": {"lr": float("nan")}}], "settings[0].changes.lr"),
        ([{"name": "k", "changes": [16]}], "settings[0].changes is [16]"),
    ],
)
def test_a_broken_index_says_what_is_wrong(tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(SuiteError) as error:
        read_sweep_index(written(tmp_path, {"format_version": 1, "settings": settings}))
    assert message in str(error.value)
    assert f"{str(tmp_path)!r}: sweep.json cannot be read" in str(error.value)


def test_a_newer_format_says_to_upgrade(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"reads up to 1; upgrade sae-lens-groups$"):
        read_sweep_index(written(tmp_path, {"format_version": 2}))


def test_a_folder_without_an_index_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"sweep\.json is missing"):
        read_sweep_index(tmp_path)


def test_a_run_is_not_written_into_a_sweep(tmp_path: Path) -> None:
    write_sweep_index(tmp_path, INDEX)
    with pytest.raises(OutputFolderError, match="already holds a sweep, which is never"):
        require_free(tmp_path)


@fuzzed(60)
@given(data=st.data())
def test_damaged_content_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = data.draw(damaged(CONTENT))
    folder = written(tmp_path_factory.mktemp("sweep"), content)
    try:
        found = read_sweep_index(folder)
    except GroupSAEError as error:
        message_of(error)
        return
    assert all((folder / name).parent == folder for name in found.names)
