"""How much of the language model's activations a training run reads."""

from typing import Any

from sae_lens_groups.activations import n_batches_to_serve
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.scaling import ESTIMATED_MODES


class TrainingDemand:
    """Counts rows as the run's shuffle buffer does, until all its training batches are served.

    A run reads more than it trains on: the buffer has to be full before the first batch, a part of
    it is never served, and norms are estimated on batches of their own.
    """

    def __init__(self, cfg: GroupSAERunnerConfig[Any]) -> None:
        self._batch_size = cfg.train_batch_size_tokens
        self._buffer_size = cfg.n_batches_in_buffer * cfg.rows_per_prompt
        self._mix_fraction = cfg.activations_mixing_fraction
        self._n_held = 0
        self._n_batches_left = n_training_batches(cfg)

    @property
    def is_met(self) -> bool:
        """Whether the run needs no more rows."""
        return self._n_batches_left <= 0

    def add(self, n_rows: int) -> None:
        """Counts the rows that an LM batch gives each group."""
        self._n_held += n_rows
        n_batches = n_batches_to_serve(
            self._n_held, self._buffer_size, self._batch_size, self._mix_fraction
        )
        self._n_held -= n_batches * self._batch_size
        self._n_batches_left -= n_batches


def n_training_batches(cfg: GroupSAERunnerConfig[Any]) -> int:
    """Batches of `train_batch_size_tokens` rows that a run takes from its buffer."""
    n_batches = -(-cfg.training_tokens // cfg.train_batch_size_tokens)
    if cfg.sae.normalize_activations in ESTIMATED_MODES:
        n_batches += cfg.norm_estimate_batches
    n_ahead = int(cfg.prefetch_llm_batches)
    return n_batches + (n_ahead + 1 if n_ahead else 0)  # one more waits for room in the queue


def n_lm_batches(cfg: GroupSAERunnerConfig[Any]) -> int:
    """LM batches that a run reads; some more where it leaves out special tokens."""
    demand, n_lm_batches = TrainingDemand(cfg), 0
    while not demand.is_met:
        demand.add(cfg.store_batch_size_prompts * cfg.rows_per_prompt * cfg.layers_per_token)
        n_lm_batches += 1
    return n_lm_batches
