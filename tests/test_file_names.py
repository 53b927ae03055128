"""The table of files: what is on disk is in it, and in the documents."""

import tarfile
from pathlib import Path, PurePosixPath

import pytest

from sae_lens_groups import files

ROOT = Path(__file__).parents[1]
_SECTIONS = {
    "suite": "## A suite",
    "plan": "## A plan",
    "cache": "## Cached activations",
    "checkpoint": "## A checkpoint",
    "sweep": "## A sweep",
}


def section(of: str) -> str:
    text = (ROOT / "tutorials" / "files.md").read_text(encoding="utf-8")
    return text.split(_SECTIONS[of], 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("kind", files.FILES, ids=lambda kind: f"{kind.of} {kind.path}")
def test_every_file_is_in_the_documents(kind: files.FileKind) -> None:
    name = PurePosixPath(kind.path).name.replace("<shard>", "…")
    if "<" in name:  # SAELens's results of every layer
        assert "a JSON file each" in section(kind.of)
    else:
        assert name in section(kind.of)


def test_every_file_on_disk_is_in_the_table() -> None:
    """Of the folders that 0.7.0 wrote."""
    with tarfile.open(Path(__file__).parent / "assets" / "written_by_0_7_0.tar.xz") as archive:
        paths = [PurePosixPath(file.name) for file in archive if file.isfile()]
    marks = {
        files.SUITE: "suite",
        files.CACHE: "cache",
        files.CHECKPOINT: "checkpoint",
        files.PLAN: "plan",
    }
    whole = {path.parent: marks[path.name] for path in paths if path.name in marks}
    found = set()
    for path in paths:
        folder = next(parent for parent in path.parents if parent in whole)
        of = "checkpoint" if folder / files.CHECKPOINT in paths else whole[folder]
        kind = files.find_file(path.relative_to(folder).as_posix(), of)
        assert kind is not None, path
        found.add(kind.of)
    assert found == {"suite", "cache", "checkpoint", "plan"}


def test_what_is_fetched_with_what() -> None:
    facts = {"suite.json", "checksums.json", "runner_cfg.json", "README.md"}
    assert set(files.fetched_with("facts")) == facts
    assert files.fetched_with("layers") == ["training_curves.csv"]
    assert files.fetched_with("groups") == ["groups/*"]
    assert files.fetched_with("whole") == ["evaluation.csv", "report.html", "evaluation/*"]


def test_what_is_written_anew_has_no_checksum() -> None:
    rewritten = ["evaluation.csv", "evaluation/x", "report.html", "README.md", "checksums.json"]
    assert not any(map(files.is_covered, rewritten))
    assert all(map(files.is_covered, ["suite.json", "groups/layers_0/cfg.json", "evaluation.txt"]))
