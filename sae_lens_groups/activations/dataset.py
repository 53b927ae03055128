"""Opens the dataset that a config names, local or on the Hub."""

import glob
import hashlib
import itertools
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import datasets
import datasets.config
import datasets.exceptions
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from datasets.data_files import get_data_patterns
from huggingface_hub import hf_hub_download
from sae_lens import LanguageModelSAERunnerConfig
from sae_lens.config import HfDataset
from transformer_lens import HookedRootModule
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sae_lens_groups import files
from sae_lens_groups.activations.model import d_vocab
from sae_lens_groups.errors import DatasetError, first_line, in_one_line

TOKEN_COLUMNS = ("tokens", "input_ids")
_MASK = "attention_mask"
_TOKENIZED_BY = "sae_lens.json"
"""What SAELens's pretokenizer writes beside the tokens, here and on the Hub."""
_COLUMNS = (*TOKEN_COLUMNS, "text", "problem", "messages")
"""What of a row can be read, the first that is there."""
_N_FIRST_ROWS = 16
_OF_NO_ROWS = (IndexError, StopIteration)
"""What `datasets` raises where a folder of `save_to_disk` or a JSON file is empty."""


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
    except (OSError, ValueError, *_OF_NO_ROWS, datasets.exceptions.DatasetsError) as error:
        raise DatasetError(_why_unreadable(path, error)) from error
    return as_stream(dataset)


def _why_unreadable(path: str, error: Exception) -> str:
    reason = " ".join(str(error).split())
    if "Config name is missing" in reason:  # the last word on it is code that nobody can run here
        names = reason.split("[")[1].split("]")[0]
        return (
            f"dataset_path {path!r} has several configurations, {names}, and no setting of SAELens "
            f"names one; write one to a folder with datasets.load_dataset({path!r}, NAME, "
            "split='train').save_to_disk(FOLDER), and name that"
        )
    local = files.expanded(path)
    if files.exists(local) and local.is_file():
        return f"dataset_path {path!r} is a file; name the folder that it lies in"
    if isinstance(error, _OF_NO_ROWS):
        return (
            f"dataset_path {path!r} holds no rows, or one of its splits holds none; name a dataset "
            "that has text or tokens, or the folder of the split that does"
        )
    caches = (str(datasets.config.HF_CACHE_HOME), str(datasets.config.HF_DATASETS_CACHE))
    if str(getattr(error, "filename", None)).startswith(caches):
        return (
            f"the cache of datasets cannot be used: {reason}; set HF_HOME to a folder that can be "
            "written to"
        )
    reason = reason.rstrip(".")
    if not is_local(path):
        reason += f", and there is no folder {path!r} in {str(Path.cwd())!r}"
    return (
        f"dataset_path {path!r} cannot be read: {reason}; name a Hub dataset or a local folder with "
        "a 'train' split"
    )


def held_out_rows(dataset: IterableDataset, n_rows_read: int) -> IterableDataset:
    """The rows that come after those a training run read.

    Raises:
        DatasetError: there are none.
    """
    rest = dataset.skip(n_rows_read)
    if next(iter(rest), None) is None:
        raise DatasetError(
            f"training read all {n_rows_read:,} rows of the dataset, the last at least in part, so none "
            "are held out; name other text with dataset_path"
        )
    return rest


EVERY_ROW = 2**62
"""Read of a dataset, where nobody says how many were."""


class CountedRows:
    """A dataset's rows in order, as often as they are asked for, and how many were given out.

    SAELens counts a row once it asks for the next one, which may be megabytes of text later.
    """

    def __init__(self, dataset: IterableDataset) -> None:
        self.dataset = dataset
        self.n_read = 0
        """Rows from the first one on, of whoever came furthest."""

    @classmethod
    def of(cls, dataset: "HfDataset | CountedRows") -> "CountedRows":
        """Those of a dataset, which are counted anew, or the same."""
        return dataset if isinstance(dataset, cls) else cls(as_stream(cast("HfDataset", dataset)))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for n, row in enumerate(self.dataset, start=1):
            self.n_read = max(self.n_read, n)
            yield row


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
    if not isinstance(dataset, IterableDataset):
        if len(dataset) == 0:
            raise DatasetError("the dataset holds no rows; name one that does")
        dataset = dataset.to_iterable_dataset()
    # Names are not known of every stream before its first row.
    if dataset.column_names is None or _MASK in dataset.column_names:
        return dataset.map(_not_padded_on_the_left, with_indices=True)
    return dataset


def _not_padded_on_the_left(row: dict[str, Any], index: int) -> dict[str, Any]:
    """The row. SAELens's store passes no mask on, which changes nothing where padding comes last."""
    if _MASK in row and any(name in row for name in TOKEN_COLUMNS):
        is_token = [bool(value) for value in row[_MASK]]
        if is_token != sorted(is_token, reverse=True):
            raise DatasetError(
                f"row {index} of the dataset is padded on the left ({_MASK}), and the model would "
                "read the padding as text; tokenise it without padding, or with padding_side right"
            )
    return row


def is_local(dataset_path: str) -> bool:
    """Whether a dataset path means a place on disk rather than a name on the Hub."""
    return files.exists(dataset_path) or dataset_path.startswith((".", "/", "~"))


def _open_local(path: str, streaming: bool, trust_remote_code: bool) -> HfDataset:
    # Whole, because `datasets` takes names such as text and json for its own.
    folder = files.expanded(path).absolute()
    if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
        return datasets.load_from_disk(str(folder))
    literal = glob.escape(str(folder))
    if literal == str(folder):
        return _load(str(folder), streaming, trust_remote_code)
    found = get_data_patterns(literal)  # `datasets` would read the folder's name as a pattern
    data_files = {split: [f"{literal}/{name}" for name in names] for split, names in found.items()}
    return _load(str(folder), streaming, trust_remote_code, data_files=data_files)


def _load(
    path: str, streaming: bool, trust_remote_code: bool, **kwargs: Any
) -> Dataset | IterableDataset:
    if int(datasets.__version__.split(".")[0]) < 4:  # later versions run no remote code at all
        kwargs["trust_remote_code"] = trust_remote_code
    loaded = datasets.load_dataset(path, split="train", streaming=streaming, **kwargs)
    return cast("Dataset | IterableDataset", loaded)


def require_usable_rows(
    dataset_path: str | None, dataset: IterableDataset, model: HookedRootModule
) -> None:
    """Refuses an empty dataset, and one tokenised for another model as far as that can be seen.

    Every dataset is checked by its first row, and one that SAELens's pretokenizer made also by its
    tokenizer. (SAELens takes the path of a local folder for a Hub name and fails.) `dataset_path` is
    None for a dataset that was passed in.
    """
    row = first_row(dataset, dataset_path)
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
    if dataset_path is not None and tokenizer is not None:
        require_same_tokenizer(dataset_path, tokenizer)


def first_row(dataset: IterableDataset, dataset_path: str | None) -> dict[str, Any]:
    """A dataset's first row; refuses one that has none, or cannot be read."""
    try:
        row = cast("dict[str, Any] | None", next(iter(dataset), None))
    except Exception as error:  # of files, servers and formats
        raise DatasetError(f"{named(dataset_path)} cannot be read: {in_one_line(error)}") from error
    if row is None:
        raise DatasetError(f"{named(dataset_path)} holds no rows")
    return row


def pretokenized_as(dataset_path: str) -> dict[str, Any]:
    """What SAELens's pretokenizer says of tokens that it made; nothing of other datasets."""
    try:
        path = (
            files.expanded(dataset_path) / _TOKENIZED_BY
            if is_local(dataset_path)
            else Path(hf_hub_download(dataset_path, _TOKENIZED_BY, repo_type="dataset"))
        )
        said = files.parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # made by something else
        return {}
    return said if isinstance(said, dict) and isinstance(said.get("tokenizer_name"), str) else {}


def require_same_tokenizer(dataset_path: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses tokens that SAELens's pretokenizer made with another tokenizer, by what it says of it.

    Warns where that tokenizer cannot be had to compare. Only an id of another token counts: a model
    may be loaded with tokens that were added to its tokenizer.
    """
    name = pretokenized_as(dataset_path).get("tokenizer_name")
    if name is None:
        return
    known = tokenizer.get_vocab()
    try:
        theirs = AutoTokenizer.from_pretrained(name, trust_remote_code=False).get_vocab()
    except (OSError, ValueError) as error:
        if name != tokenizer.name_or_path:
            warnings.warn(
                f"{named(dataset_path)} was tokenised with {name!r}, which cannot be compared with "
                f"the model's tokenizer: {first_line(error)}",
                stacklevel=3,
            )
        return
    other = next((token for token, n in theirs.items() if known.get(token) != n), None)
    if other is not None:
        raise DatasetError(
            f"{named(dataset_path)} was tokenised with {name!r}, in which {other!r} is token "
            f"{theirs[other]}, and in the model's tokenizer it is {known.get(other)}; use data "
            "tokenised for this model, or text"
        )


def named(dataset_path: str | None) -> str:
    """What a message calls a dataset."""
    return "override_dataset" if dataset_path is None else f"dataset_path {dataset_path!r}"
