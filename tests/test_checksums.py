"""Sizes and hashes: every damage to a folder is found and named."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_groups.files.checksums import Checksums, write_checksums


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inside").mkdir()
    (tmp_path / "a.bin").write_bytes(bytes(range(100)))
    (tmp_path / "inside" / "b.json").write_text('{"b": 1}')
    write_checksums(tmp_path)
    return tmp_path


def test_a_whole_folder_has_no_damage(folder: Path) -> None:
    assert Checksums(folder).names == {"a.bin", "inside/b.json"}
    assert Checksums(folder).damage() is None
    (folder / "new file").write_text("not ours")
    assert Checksums(folder).damage() is None


@given(position=st.integers(0, 99), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    content = bytearray(range(100))
    (folder / "a.bin").write_bytes(content)
    write_checksums(folder)
    content[position] ^= 1 << bit
    (folder / "a.bin").write_bytes(content)
    assert Checksums(folder).damage() == "a.bin was altered after it was written"


def test_damage_is_named(folder: Path) -> None:
    (folder / "inside" / "b.json").write_text("{}")
    assert Checksums(folder).damage() == "inside/b.json is 2 bytes long in place of 8"
    assert Checksums(folder).damage(["a.bin"]) is None
    (folder / "a.bin").unlink()
    assert Checksums(folder).damage() == "a.bin is missing"
    assert Checksums(folder).damage(["c"]) == "c is not in checksums.json"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "checksums.json is missing"),
        ("{", "checksums.json is damaged: it is not JSON ("),
        ("[]", "checksums.json is damaged: it is [], which should be an object"),
        (
            '{"format_version": 2, "files": {}}',
            "this version of sae-lens-groups reads up to 1; upgrade sae-lens-groups",
        ),
        ('{"files": {}}', "checksums.json is damaged: format_version is missing"),
        ('{"format_version": 1, "files": {"../x": {}}}', "outside of the folder, '../x'"),
        ('{"format_version": 1, "files": {"/etc/passwd": {}}}', "outside of the folder"),
        ('{"format_version": 1, "files": {"a": []}}', "damaged: files.a is [], which should"),
    ],
)
def test_damaged_checksums_say_so(folder: Path, text: str | None, message: str) -> None:
    (folder / "checksums.json").unlink()
    if text is not None:
        (folder / "checksums.json").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        Checksums(folder)


def test_checksums_do_not_count_themselves(folder: Path) -> None:
    first = json.loads((folder / "checksums.json").read_text())
    write_checksums(folder)
    assert json.loads((folder / "checksums.json").read_text()) == first
