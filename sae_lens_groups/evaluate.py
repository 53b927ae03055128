"""SAELens's evals for every layer of a suite, all layers on the same tokens."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sae_lens import SAE, ActivationsStore
from sae_lens.config import HfDataset
from sae_lens.training.activation_scaler import ActivationScaler
from tqdm.auto import tqdm
from transformer_lens import HookedRootModule

from sae_lens_groups import files
from sae_lens_groups.dataset import as_stream
from sae_lens_groups.layer_evals import ReplayedTokens, layer_eval_config, metrics_by_name
from sae_lens_groups.suite import SAESuite


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

    Text becomes prompts, and special tokens are left out, as in the run that trained the suite.
    Writes `evaluation.csv` into the suite's folder, where it has one.

    Args:
        suite: the suite to score.
        model: the language model, as SAELens's `load_model` gives it, with hooks at all layers.
        dataset: text or tokens the suite was not trained on (a `datasets` dataset).
        n_batches: LM batches for each of the two groups of metrics.
        batch_size_prompts: prompts per LM batch.
    """
    tokens: ReplayedTokens | None = None
    scores: list[LayerScores] = []
    for layer in tqdm(suite.manifest.layers, desc="Evaluating layers", unit="layer", leave=False):
        sae = suite.layer(layer)
        if tokens is None:
            tokens = ReplayedTokens(_store(model, sae, dataset, batch_size_prompts))
        metrics = tokens.evaluate(
            sae,
            model,
            ActivationScaler(),
            layer_eval_config(n_batches),
            exclude_special_tokens=_excluded(sae, model),
        )
        scores.append(_layer_scores(suite, layer, metrics))
    if suite.path is not None:
        files.write_text(suite.path / files.EVALUATION, scores_to_csv(scores))
    return scores


def _store(
    model: HookedRootModule, sae: SAE[Any], dataset: HfDataset, batch_size_prompts: int
) -> ActivationsStore:
    """A store that makes prompts of text as the run that trained this SAE did."""
    metadata = sae.cfg.metadata
    return ActivationsStore.from_sae(
        model,
        sae,
        as_stream(dataset),
        store_batch_size_prompts=batch_size_prompts,
        disable_concat_sequences=bool(metadata.disable_concat_sequences),
        sequence_separator_token=metadata.get("sequence_separator_token", "bos"),
    )


def _excluded(sae: SAE[Any], model: HookedRootModule) -> bool | list[int]:
    """The tokens that training left out; SAELens's default where the SAE does not say."""
    if getattr(model, "tokenizer", None) is None:
        return False
    trained_without = sae.cfg.metadata.exclude_special_tokens
    return True if trained_without is None else trained_without


def scores_to_csv(scores: list[LayerScores]) -> str:
    """The text of `evaluation.csv`: one row per layer."""
    text = io.StringIO()
    rows = [score.to_row() for score in scores]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _layer_scores(suite: SAESuite, layer: int, metrics: Mapping[str, Any]) -> LayerScores:
    return LayerScores(
        layer=layer,
        hook_name=suite.manifest.hook_template.hook_name(layer),
        group=suite.manifest.group_of(layer).name,
        scaling_factor=suite.manifest.scaling_factors[layer],
        metrics=metrics_by_name(metrics),
    )
