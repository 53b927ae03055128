"""The shuffle buffer holds one row per token and group, however many layers a group has."""

import gc

import pytest
import torch
from torch._subclasses import FakeTensor

from sae_lens_groups.activations.batches import BatchStream
from sae_lens_groups.activations.store import GroupActivationsStore
from sae_lens_groups.train.prepare import settle

from .tiny import CONTEXT_SIZE, D_IN, group_config, make_model, make_tokens

pytestmark = pytest.mark.usefixtures("only_new_objects")

ROWS = 64 * CONTEXT_SIZE - 1 + 8 * CONTEXT_SIZE  # too few to serve, and one LM batch on top
SLOT = D_IN * 4 + 8  # a row, and the position of its layer


def live_tensor_bytes() -> int:
    """Bytes of all tensors that are alive, each memory counted once.

    Fake tensors, which a compiler elsewhere in the process may keep, have no memory.
    """
    gc.collect()
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in gc.get_objects()
        if isinstance(tensor, torch.Tensor) and not isinstance(tensor, FakeTensor)
    }
    return sum(storages.values())


def buffer_bytes(layer_groups: str, n_batches: int = 6) -> int:
    """Most bytes that the stream of batches holds between two of them."""
    model = make_model(n_layers=16)
    cfg = group_config(layer_groups, n_batches_in_buffer=64, store_batch_size_prompts=8)
    groups = settle(cfg).groups_of(16)
    assert groups is not None
    store = GroupActivationsStore.from_group_config(model, cfg, groups, make_tokens())
    store.get_batch_tokens()  # whatever reading the dataset keeps is not the buffer's
    before = live_tensor_bytes()
    batches = BatchStream(store)
    held: list[int] = []
    for _ in range(n_batches):
        batch = next(batches)
        del batch
        held.append(live_tensor_bytes() - before)
    return max(held)


def test_the_buffer_does_not_grow_with_the_layers_of_a_group() -> None:
    of_4, of_8, of_16 = (buffer_bytes(groups) for groups in ("0-3", "0-7", "0-15"))
    assert of_4 == of_8 == of_16
    order = 2 * 8  # the order of the slots, and the permutation of it
    assert of_4 <= 1.1 * ROWS * (SLOT + order)


def test_the_buffer_grows_with_the_number_of_groups() -> None:
    """The guard above can fail: a row per layer would show."""
    one, four = buffer_bytes("0-3"), buffer_bytes("0,1,2,3")
    assert four - one == 3 * ROWS * SLOT
