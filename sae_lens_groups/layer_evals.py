"""SAELens's `run_evals` with the same tokens for every layer."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from sae_lens import SAE, ActivationsStore
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from transformer_lens import HookedRootModule


def layer_eval_config(n_batches: int, batch_size_prompts: int | None = None) -> EvalConfig:
    """SAELens's reconstruction, sparsity and variance metrics, from `n_batches` LM batches each."""
    return EvalConfig(
        batch_size_prompts=batch_size_prompts,
        n_eval_reconstruction_batches=n_batches,
        n_eval_sparsity_variance_batches=n_batches,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
    )


class ReplayedTokens:
    """Stands in for an activation store in `run_evals` and gives every layer the same tokens."""

    def __init__(self, store: ActivationsStore) -> None:
        self.store = store
        self.store_batch_size_prompts = store.store_batch_size_prompts
        self.context_size = store.context_size
        self._batches: list[torch.Tensor] = []
        self._position = 0

    def evaluate(
        self,
        sae: SAE[Any],
        model: HookedRootModule,
        scaler: ActivationScaler,
        config: EvalConfig,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """`run_evals` of one SAE, from the first of these tokens."""
        self._position = 0
        store = cast("ActivationsStore", self)
        metrics, _ = run_evals(sae, store, model, scaler, config, **kwargs)
        return metrics

    def get_batch_tokens(self, batch_size: int | None = None) -> torch.Tensor:
        """The next LM batch, read from the store the first time round."""
        if self._position == len(self._batches):
            self._batches.append(self.store.get_batch_tokens(batch_size))
        self._position += 1
        return self._batches[self._position - 1]

    def reset_input_dataset(self) -> None:
        """SAELens calls this between its two groups of metrics; ours go on to fresh tokens."""


def metrics_by_name(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What `run_evals` returns without its sections and token counts."""
    return {
        name: value
        for section, values in metrics.items()
        if section != "token_stats"
        for name, value in values.items()
    }
