"""Writes a dataset folder as `Dataset.save_to_disk` lays it out, piece by piece as it is made.

`save_to_disk` itself needs the whole dataset first, so it would write everything twice.
"""

import contextlib
import json
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
from datasets import DatasetInfo, Features

_SHARD_BYTES = 2**30


class ShardWriter:
    """Files of about a gigabyte each in a folder, which is a dataset once the block ends.

    Memory holds the piece that is being written and no other.
    """

    def __init__(self, folder: Path, features: Features, shard_bytes: int = _SHARD_BYTES) -> None:
        self.folder = folder
        self.features = features
        self.shard_bytes = shard_bytes
        self.n_prompts = 0
        self._paths: list[Path] = []
        self._bytes_of_shard = 0
        self._shard = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def write(self, piece: pa.RecordBatch) -> None:
        """Appends some prompts."""
        if not self._paths or self._bytes_of_shard >= self.shard_bytes:
            self._start_shard()
        self._stream.write_batch(piece)
        self._bytes_of_shard += piece.nbytes
        self.n_prompts += len(piece)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._shard.close()
        if error is None:
            self._finish()

    def _start_shard(self) -> None:
        self._shard.close()
        path = self.folder / f"{len(self._paths)}.arrow"
        self._paths.append(path)
        file = self._shard.enter_context(pa.OSFile(str(path), "wb"))
        schema = self.features.arrow_schema
        self._stream: Any = self._shard.enter_context(pa.ipc.new_stream(file, schema))
        self._bytes_of_shard = 0

    def _finish(self) -> None:
        n_shards = len(self._paths)
        names = [f"data-{i:05d}-of-{n_shards:05d}.arrow" for i in range(n_shards)]
        for path, name in zip(self._paths, names):
            path.rename(self.folder / name)
        DatasetInfo(features=self.features).write_to_directory(str(self.folder))
        state = {
            "_data_files": [{"filename": name} for name in names],
            "_fingerprint": uuid.uuid4().hex[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        (self.folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
