"""Writes a dataset folder as `Dataset.save_to_disk` lays it out, piece by piece as it is made.

`save_to_disk` itself needs the whole dataset first, so it would write everything twice.
"""

import json
import uuid
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import pyarrow as pa
from datasets import DatasetInfo, Features

_SHARD_BYTES = 2**30


def write_dataset(folder: Path, features: Features, pieces: Iterable[pa.RecordBatch]) -> int:
    """Writes files of about a gigabyte each, which are a dataset in the end; returns its prompts.

    Memory holds the piece that is being written and no other.
    """
    pieces, paths, n_prompts = iter(pieces), list[Path](), 0
    for first in pieces:
        paths.append(folder / f"{len(paths)}.arrow")
        n_prompts += _write_shard(paths[-1], first, pieces)
    names = [f"data-{i:05d}-of-{len(paths):05d}.arrow" for i in range(len(paths))]
    for path, name in zip(paths, names):
        path.rename(folder / name)
    DatasetInfo(features=features).write_to_directory(str(folder))
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": uuid.uuid4().hex[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
    return n_prompts


def _write_shard(path: Path, first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> int:
    n_prompts = n_bytes = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, first.schema) as shard:
        for piece in chain([first], rest):
            shard.write_batch(piece)
            n_prompts += len(piece)
            n_bytes += piece.nbytes
            if n_bytes >= _SHARD_BYTES:
                break
    return n_prompts
