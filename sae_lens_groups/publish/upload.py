"""Sends the weights of a suite, a layer at a time."""

from collections.abc import Callable, Iterable
from itertools import groupby

from huggingface_hub import CommitOperationAdd
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from tqdm.auto import tqdm

_WEIGHTS = ".safetensors"


def upload_weights(
    send: Callable[[list[CommitOperationAdd]], None], additions: Iterable[CommitOperationAdd]
) -> None:
    """Sends the weights among these files before the commit that names them, with one progress bar.

    The client shares chunks with what the Hub has already, and not between the files of one upload.
    So every layer is an upload, and those of a group are stored once.
    """
    weights = [addition for addition in additions if addition.path_in_repo.endswith(_WEIGHTS)]
    if not weights:
        return
    n_bytes = sum(addition.upload_info.size for addition in weights)
    is_silent = are_progress_bars_disabled()
    bar = tqdm(total=n_bytes, unit="B", unit_scale=True, disable=is_silent)
    disable_progress_bars()  # the client has one for each file
    try:
        for folder, of_folder in groupby(weights, _folder):
            bar.set_description(folder)
            sent = list(of_folder)
            send(sent)
            bar.update(sum(addition.upload_info.size for addition in sent))
    finally:
        bar.close()
        if not is_silent:
            enable_progress_bars()


def _folder(addition: CommitOperationAdd) -> str:
    return addition.path_in_repo.rpartition("/")[0]
