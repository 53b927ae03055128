"""SAELens's evals for every layer of a suite, all layers on the same tokens."""

import contextlib
import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from sae_lens import SAE, ActivationsStore, TrainingSAE
from sae_lens.config import HfDataset
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.training.prefetch import PrefetchingIterator
from tqdm.auto import tqdm
from transformer_lens import HookedRootModule

from sae_lens_groups import files
from sae_lens_groups.dataset import as_stream
from sae_lens_groups.interruption import StoppableIterator
from sae_lens_groups.suite import SAESuite
from sae_lens_groups.trainer import GroupSAETrainer


@dataclass(frozen=True, kw_only=True)
class LayerScores:
    """How well one layer's SAE does: a row of `evaluation.csv`."""

    layer: int
    hook_name: str
    group: str
    scaling_factor: float | None
    metrics: Mapping[str, float]
    """SAELens's metrics by their names: explained_variance, ce_loss_score, l0, ..."""

    def to_row(self) -> dict[str, Any]:
        """The row by column name."""
        return {
            "layer": self.layer,
            "hook_name": self.hook_name,
            "group": self.group,
            "scaling_factor": self.scaling_factor,
            **self.metrics,
        }


def evaluate_suite(
    suite: SAESuite,
    model: HookedRootModule,
    dataset: HfDataset,
    *,
    n_batches: int = 4,
    batch_size_prompts: int = 16,
) -> list[LayerScores]:
    """SAELens's reconstruction, sparsity and variance metrics of every layer, on the same tokens.

    Writes `evaluation.csv` into the suite's folder, where it has one.

    Args:
        suite: the suite to score.
        model: the language model, as SAELens's `load_model` gives it, with hooks at all layers.
        dataset: text or tokens the suite was not trained on (a `datasets` dataset).
        n_batches: LM batches for each of the two groups of metrics.
        batch_size_prompts: prompts per LM batch.
    """
    tokens: _ReplayedTokens | None = None
    scores: list[LayerScores] = []
    for layer in tqdm(suite.manifest.layers, desc="Evaluating layers", unit="layer", leave=False):
        sae = suite.layer(layer)
        if tokens is None:
            store = ActivationsStore.from_sae(
                model, sae, as_stream(dataset), store_batch_size_prompts=batch_size_prompts
            )
            tokens = _ReplayedTokens(store)
        metrics = tokens.evaluate(
            sae,
            model,
            ActivationScaler(),
            _eval_config(n_batches),
            # As SAELens does by default, where there is a tokenizer that knows them.
            exclude_special_tokens=getattr(model, "tokenizer", None) is not None,
        )
        scores.append(_layer_scores(suite, layer, metrics))
    if suite.path is not None:
        files.write_text(suite.path / files.EVALUATION, scores_to_csv(scores))
    return scores


def scores_to_csv(scores: list[LayerScores]) -> str:
    """The text of `evaluation.csv`: one row per layer."""
    text = io.StringIO()
    rows = [score.to_row() for score in scores]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _layer_scores(suite: SAESuite, layer: int, metrics: Mapping[str, Any]) -> LayerScores:
    by_name = {
        name: value
        for section, values in metrics.items()
        if section != "token_stats"
        for name, value in values.items()
    }
    return LayerScores(
        layer=layer,
        hook_name=suite.manifest.hook_template.hook_name(layer),
        group=suite.manifest.group_of(layer).name,
        scaling_factor=suite.manifest.scaling_factors[layer],
        metrics=by_name,
    )


def _eval_config(n_batches: int, batch_size_prompts: int | None = None) -> EvalConfig:
    return EvalConfig(
        batch_size_prompts=batch_size_prompts,
        n_eval_reconstruction_batches=n_batches,
        n_eval_sparsity_variance_batches=n_batches,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
    )


class _ReplayedTokens:
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


@dataclass
class GroupEvaluator:
    """SAELens's in-training evals, once per layer with the layer's own scaling.

    `MultiSAETrainer` calls it where it calls its own evaluator.
    """

    model: HookedRootModule
    store: ActivationsStore
    trainers: Mapping[str, GroupSAETrainer]
    hook_names: Mapping[int, str]
    eval_batch_size_prompts: int | None
    n_eval_batches: int
    model_kwargs: Mapping[str, Any]

    def __call__(
        self,
        saes: dict[str, TrainingSAE[Any]],
        data_provider: Any,
        activation_scalers: dict[str, ActivationScaler],  # noqa: ARG002  # ours are per layer
        hook_names: dict[str, str],  # noqa: ARG002  # these are the groups' names
    ) -> dict[str, Any]:
        """Log entries `<group>/layer_<n>/<section>` of SAELens's metrics."""
        config = _eval_config(self.n_eval_batches, self.eval_batch_size_prompts)
        excluded = self.store.exclude_special_tokens
        logs: dict[str, Any] = {}
        with _paused(data_provider):
            tokens = _ReplayedTokens(self.store)
            for name, sae in saes.items():
                trainer = self.trainers[name]
                for layer, scaler in zip(trainer.group.layers, trainer.scaling.scalers):
                    with _standing_for(sae, self.hook_names[layer]):
                        metrics = tokens.evaluate(
                            sae,
                            self.model,
                            scaler,
                            config,
                            exclude_special_tokens=False if excluded is None else excluded.tolist(),
                            model_kwargs=self.model_kwargs,
                        )
                    logs.update({f"{name}/layer_{layer}/{key}": v for key, v in metrics.items()})
        return logs


def _paused(data_provider: Any) -> AbstractContextManager[None]:
    """Keeps the prefetching thread off the dataset while the evals read from it."""
    source = data_provider.source if isinstance(data_provider, StoppableIterator) else data_provider
    return source.paused() if isinstance(source, PrefetchingIterator) else nullcontext()


@contextlib.contextmanager
def _standing_for(sae: TrainingSAE[Any], hook_name: str) -> Iterator[None]:
    """Lets `run_evals`, which asks the SAE for its hook, evaluate a group's SAE at one layer."""
    own = sae.cfg.metadata.hook_name
    sae.cfg.metadata.hook_name = hook_name
    try:
        yield
    finally:
        sae.cfg.metadata.hook_name = own
