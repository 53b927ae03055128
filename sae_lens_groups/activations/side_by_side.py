"""Stores that share each pass of the language model, each in a thread of its own."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sae_lens_groups.activations.store import GroupActivationsStore

Take = Callable[[str, torch.Tensor], None]
"""What is done with a hook's activations, given its name."""


@dataclass(eq=False)
class _Asked:
    """An LM batch of which a store waits for the activations."""

    store: "GroupActivationsStore"
    tokens: torch.Tensor
    take: Take
    is_served: bool = False
    error: Exception | None = None


class SideBySide:
    """Lets one thread compute at a time, and serves all that wait for the same LM batch by one pass.

    All stores read the same dataset in the same order, but not at the same steps: a store that leaves
    out more tokens needs more LM batches. So a pass runs once all threads wait for one, and serves
    those that are the least far in the dataset.

    Args:
        stores: of the same model and settings of its pass. Each is shared until it leaves.
    """

    def __init__(self, stores: Iterable["GroupActivationsStore"]) -> None:
        self._turn = threading.Condition()
        self._sharing = list(stores)
        self._asked: list[_Asked] = []
        for store in self._sharing:
            store.shared = self

    @contextmanager
    def turn(self, store: "GroupActivationsStore") -> Iterator[None]:
        """Holds the turn for a store's thread for the block, but for when it waits in it."""
        with self._turn:
            try:
                yield
            finally:
                self.leave(store)

    def leave(self, store: "GroupActivationsStore") -> None:
        """Says that a store needs no more passes, and that others may have what they wait for."""
        if store in self._sharing:
            self._sharing.remove(store)
            store.shared = None
            self._serve_if_all_wait()
        self._turn.notify_all()

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        """Lets others compute until it is so. They leave torch's random numbers as they were."""
        with torch.random.fork_rng():
            self._turn.wait_for(is_so)

    def capture(
        self, store: "GroupActivationsStore", batch_tokens: torch.Tensor, take: Take
    ) -> None:
        """As the store's own `capture`; what a pass raises is raised for all that it was to serve."""
        asked = _Asked(store, batch_tokens, take)
        self._asked.append(asked)
        self._serve_if_all_wait()
        self.wait_for(lambda: asked.is_served)
        if asked.error is not None:
            raise asked.error

    def _serve_if_all_wait(self) -> None:
        if not self._asked or len(self._asked) < len(self._sharing):
            return
        first = min(self._asked, key=lambda one: one.store.place_in_text)
        alike = [
            one
            for one in self._asked
            if one.store.place_in_text == first.store.place_in_text
            and torch.equal(one.tokens, first.tokens)
        ]
        takes: dict[str, list[Take]] = {}
        for one in alike:
            for hook_name in one.store.places:
                takes.setdefault(hook_name, []).append(one.take)

        def take(hook_name: str, acts: torch.Tensor) -> None:
            for each in takes[hook_name]:
                each(hook_name, acts)

        error = None
        try:
            first.store.run_model(first.tokens, takes, take)
        except Exception as raised:
            error = raised
        for one in alike:
            one.is_served, one.error = True, error
            self._asked.remove(one)
        self._turn.notify_all()
