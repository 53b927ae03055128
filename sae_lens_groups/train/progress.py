"""What is seen of a run while it trains."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from statistics import fmean
from typing import Any

from sae_lens.saes.sae import TrainStepOutput

_follower: ContextVar[Callable[[float], None] | None] = ContextVar("_follower", default=None)


@contextlib.contextmanager
def followed_by(follower: Callable[[float], None]) -> Iterator[None]:
    """Tells `follower` which share of a run or of a cache is done, as often as its bar moves."""
    token = _follower.set(follower)
    try:
        yield
    finally:
        _follower.reset(token)


def tell_share(share: float) -> None:
    """Says how much is done to who follows."""
    if follower := _follower.get():
        follower(share)


class ProgressBar:
    """Tokens, rate, time left and the mean loss, on the bar that SAELens's trainer opens.

    Of a sweep the lowest and the highest loss of a setting. Where bars are off, as in a log, a line
    a minute, with the loss of every setting.
    """

    def __init__(self, total_tokens: int, n_saes: int, verbose: bool = True) -> None:
        self.total_tokens = total_tokens
        self.title = f"Training {n_saes} SAE{'s' if n_saes > 1 else ''}"
        self.verbose = verbose
        self._next_refresh = 0.0
        self._is_set_up = False

    def show(self, pbar: Any, n_tokens: int, step_outputs: Mapping[str, TrainStepOutput]) -> None:
        """Moves the bar to `n_tokens`; reads the losses only when the bar is redrawn."""
        if not self._is_set_up:
            self._set_up(pbar, n_tokens, next(iter(step_outputs.values())))
        pbar.n = min(n_tokens, self.total_tokens)
        tell_share(pbar.n / self.total_tokens)
        now = time.monotonic()
        if now < self._next_refresh and n_tokens < self.total_tokens:
            return
        # Reading a loss waits for the device, so it is done a few times a second at most.
        self._next_refresh = now + (60 if pbar.disable else 0.5)
        losses = dict[str, list[float]]()
        for name, output in step_outputs.items():
            losses.setdefault(name.rpartition("/")[0], []).append(output.loss.item())
        means = {of: fmean(found) for of, found in losses.items()}
        if not pbar.disable:
            pbar.set_postfix_str(_on_a_bar(means), refresh=False)
            pbar.refresh()
        elif self.verbose:
            loss = ", ".join(f"{of} {mean:.4g}".strip() for of, mean in means.items())
            line = f"{self.title}: {pbar.n:,} of {self.total_tokens:,} tokens, loss {loss}"
            pbar.write(line, file=sys.stderr)

    def _set_up(self, pbar: Any, n_tokens: int, output: TrainStepOutput) -> None:
        pbar.unit, pbar.unit_scale = "tok", True
        pbar.initial = n_tokens - len(output.sae_in)  # a resumed run's rate counts its own tokens
        pbar.set_description_str(self.title, refresh=False)
        pbar.leave = _follower.get() is None  # who follows has a bar of its own below
        self._is_set_up = True


def _on_a_bar(means: Mapping[str, float]) -> str:
    """The losses, as short as a line of a terminal asks for."""
    lowest, highest = min(means.values()), max(means.values())
    return f"loss {lowest:.4g}" + f" to {highest:.4g}" * (len(means) > 1)
