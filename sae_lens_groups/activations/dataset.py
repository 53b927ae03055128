"""Opens the dataset that a config names, local or on the Hub."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple, cast

import datasets
import datasets.exceptions
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from sae_lens import LanguageModelSAERunnerConfig
from sae_lens.config import HfDataset
from sae_lens.training.activations_store import validate_pretokenized_dataset_tokenizer
from transformer_lens import HookedRootModule

from sae_lens_groups import files
from sae_lens_groups.activations.model import d_vocab
from sae_lens_groups.errors import DatasetError

TOKEN_COLUMNS = ("tokens", "input_ids")
_COLUMNS = (*TOKEN_COLUMNS, "text", "problem", "messages")
"""What of a row can be read, the first that is there."""
_N_FIRST_ROWS = 16


class DatasetId(NamedTuple):
    """What tells a dataset from others: its path as it was given, and its content."""

    path: str | None = None
    fingerprint: str | None = None
    """Of its first rows; None where nobody looked."""

    def is_same(self, other: "DatasetId") -> bool:
        """Whether both mean one dataset, wherever it lies and however its path is spelled."""
        if self.fingerprint is not None and self.fingerprint == other.fingerprint:
            return True
        if not self.path or not other.path:
            return False
        places = (
            files.expanded(p).resolve() if is_local(p) else p.rstrip("/")
            for p in (self.path, other.path)
        )
        return len(set(places)) == 1


def fingerprint(dataset: HfDataset) -> str:
    """A hash of what the first rows hold: the same in whatever form they are stored."""
    hashed = hashlib.sha256()
    for row in itertools.islice(as_stream(dataset), _N_FIRST_ROWS):
        value: Any = next((row[name] for name in _COLUMNS if name in row), row)
        value = value.tolist() if hasattr(value, "tolist") else value
        hashed.update(json.dumps(value, sort_keys=True, default=str).encode() + b"\n")
    return hashed.hexdigest()[:32]


def open_dataset(cfg: LanguageModelSAERunnerConfig[Any]) -> IterableDataset:
    """The training split, as a stream that starts at its first row.

    A folder may hold text (any files that `datasets` reads) or tokens, also one written by
    `Dataset.save_to_disk` as SAELens's pretokenizer does. Anything else is a Hub name.

    Raises:
        DatasetError: no path is given, or nothing readable is there.
    """
    return open_train_split(
        cfg.dataset_path,
        streaming=cfg.streaming,
        trust_remote_code=cfg.dataset_trust_remote_code,
    )


def open_train_split(
    path: str, *, streaming: bool = True, trust_remote_code: bool = False
) -> IterableDataset:
    """`open_dataset` of a path."""
    if not path:
        raise DatasetError("dataset_path is empty; name a Hub dataset or a local folder")
    try:
        open_path = _open_local if is_local(path) else _load
        dataset = open_path(path, streaming, trust_remote_code)
    except (OSError, ValueError, IndexError, datasets.exceptions.DatasetsError) as error:
        looked = (
            "" if is_local(path) else f", and there is no folder {path!r} in {str(Path.cwd())!r}"
        )
        raise DatasetError(
            f"dataset_path {path!r} cannot be read: {error}{looked}; "
            "name a Hub dataset or a local folder with a 'train' split"
        ) from error
    return as_stream(dataset)


def held_out_rows(dataset: IterableDataset, n_rows_read: int) -> IterableDataset:
    """The rows that come after those a training run read.

    Raises:
        DatasetError: there are none.
    """
    rest = dataset.skip(n_rows_read)
    if next(iter(rest), None) is None:
        raise DatasetError(
            f"training read all rows of the dataset ({n_rows_read:,}, repeats included), so none "
            "are held out; name other text with dataset_path"
        )
    return rest


def as_stream(dataset: HfDataset) -> IterableDataset:
    """A dataset's rows in order, without touching the dataset itself.

    SAELens sets the format of a `Dataset` in place, and takes its number of rows for its number
    of tokens when it warns that there are too few.
    """
    if isinstance(dataset, DatasetDict | IterableDatasetDict):
        if "train" not in dataset:
            raise DatasetError(
                f"the dataset has the splits {', '.join(map(str, dataset))} and no 'train'; "
                "pass one split"
            )
        return as_stream(dataset["train"])
    if isinstance(dataset, IterableDataset):
        return dataset
    if len(dataset) == 0:
        raise DatasetError("the dataset holds no rows; name one that does")
    return dataset.to_iterable_dataset()


def is_local(dataset_path: str) -> bool:
    """Whether a dataset path means a place on disk rather than a name on the Hub."""
    return files.exists(dataset_path) or dataset_path.startswith((".", "/", "~"))


def _open_local(path: str, streaming: bool, trust_remote_code: bool) -> HfDataset:
    folder = files.expanded(path)
    if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
        return datasets.load_from_disk(str(folder))
    return _load(str(folder), streaming, trust_remote_code)


def _load(path: str, streaming: bool, trust_remote_code: bool) -> Dataset | IterableDataset:
    kwargs: dict[str, Any] = {}
    if int(datasets.__version__.split(".")[0]) < 4:  # later versions run no remote code at all
        kwargs["trust_remote_code"] = trust_remote_code
    loaded = datasets.load_dataset(path, split="train", streaming=streaming, **kwargs)
    return cast("Dataset | IterableDataset", loaded)


def require_usable_rows(
    dataset_path: str | None, dataset: IterableDataset, model: HookedRootModule
) -> None:
    """Refuses an empty dataset, and one tokenised for another model as far as that can be seen.

    Every dataset is checked by its first row, and one of the Hub also as SAELens does it, by the
    tokenizer that made it. (SAELens takes the path of a local folder for a Hub name and fails.)

    Args:
        dataset_path: where the dataset was opened; None for one that was passed in.
        dataset: the training split.
        model: the language model that is to read it.

    Raises:
        DatasetError: there is no row, or it holds a token beyond the model's vocabulary.
    """
    try:
        row = cast("dict[str, Any] | None", next(iter(dataset), None))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DatasetError(f"{named(dataset_path)} cannot be read: {error}") from error
    if row is None:
        raise DatasetError(f"{named(dataset_path)} holds no rows")
    column = next((name for name in TOKEN_COLUMNS if name in row), None)
    if column is None:
        return
    highest = max((int(token) for token in row[column]), default=-1)
    if highest >= (n_known := d_vocab(model)):
        raise DatasetError(
            f"{named(dataset_path)} holds token {highest}, but the model's vocabulary "
            f"ends at {n_known - 1}; it was tokenised for another model"
        )
    tokenizer = getattr(model, "tokenizer", None)
    if dataset_path is not None and tokenizer is not None and not is_local(dataset_path):
        validate_pretokenized_dataset_tokenizer(dataset_path, tokenizer)


def named(dataset_path: str | None) -> str:
    """What a message calls a dataset."""
    return "override_dataset" if dataset_path is None else f"dataset_path {dataset_path!r}"
