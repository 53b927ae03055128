"""Measures how far apart the layers of a model are, in one pass over some tokens.

Shapes: L layers, B tokens of one LM batch, N of one block, D = d_in, C clusters of LM batches.
"""

from collections.abc import Iterator
from typing import Any

import torch
from sae_lens import LanguageModelSAERunnerConfig
from sae_lens.config import HfDataset
from tqdm.auto import tqdm
from transformer_lens import HookedRootModule

from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.dataset import as_stream, open_dataset
from sae_lens_groups.errors import DatasetError, NonFiniteActivationsError, UnknownNameError
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.model import load_hooked_model, n_layers_of, require_hooks
from sae_lens_groups.plan.distances import LayerDistances
from sae_lens_groups.plan.metrics import DistanceMetric
from sae_lens_groups.plugins import distance_metrics
from sae_lens_groups.store import GroupActivationsStore

BLOCK_TOKENS = 256
# The error of a mean over correlated tokens is estimated from this many parts of them.
MAX_CLUSTERS = 32
# One in this many tokens goes into the layers' means, where a metric takes them off.
MEAN_SHARE = 10


def measure_layer_distances(
    cfg: LanguageModelSAERunnerConfig[Any],
    *,
    metric: str = "angular",
    n_tokens: int | None = None,
    override_dataset: HfDataset | None = None,
    override_model: HookedRootModule | None = None,
) -> LayerDistances:
    """How far apart the layers of the model are, each with its standard error.

    Reads tokens as a training run of this config would, special tokens left out, with all layers
    captured in one pass. Memory does not grow with the number of tokens.

    The standard errors are jackknife estimates over up to 32 clusters of LM batches: tokens of one
    prompt are alike, and an error that took them for independent would be too small.

    Args:
        cfg: a SAELens config, or one with layer groups, whose groups play no part here.
        metric: `angular`, `cosine`, `cka`, or a name that another package registered.
        n_tokens: how many tokens to read, in whole LM batches; `cfg.plan_tokens` where the config
            has it, otherwise 200,000. All there are, where the dataset ends before.
        override_dataset: measures on this dataset instead of `cfg.dataset_path`.
        override_model: measures this model, with hooks at all layers, instead of `cfg.model_name`.

    Raises:
        UnknownNameError: no plugin registered the metric.
        DatasetError: the dataset gives too few tokens for a standard error.
        NonFiniteActivationsError: a layer's activations are NaN or infinite.
        GroupSAEError: another mistake in the config, as in training.
    """
    if not isinstance(cfg, GroupSAERunnerConfig):
        cfg = GroupSAERunnerConfig.from_sae_lens(cfg, layer_groups="each")
    chosen = find_metric(metric)
    dataset = open_dataset(cfg) if override_dataset is None else as_stream(override_dataset)
    model = override_model or load_hooked_model(cfg, None)
    store = all_layers_store(cfg, model, dataset)
    n_tokens = cfg.plan_tokens if n_tokens is None else n_tokens
    with tqdm(
        total=n_tokens, desc="Measuring layer distances", unit="tok", unit_scale=True, leave=False
    ) as bar:
        measurement = _Measurement(chosen, n_tokens, cfg.hook_template.hook_names(store.groups))
        for rows_LBD in store.layer_rows():
            measurement.add(rows_LBD)
            bar.update(min(len(rows_LBD[0]), n_tokens - bar.n))
            if measurement.n_tokens >= n_tokens:
                break
    matrix_LL, standard_errors_LL = measurement.result()
    return LayerDistances(
        metric=metric,
        matrix=matrix_LL.numpy(),
        standard_errors=standard_errors_LL.numpy(),
        n_tokens=measurement.n_tokens,
        model_name=cfg.model_name,
        hook_template=cfg.hook_template,
    )


def find_metric(name: str) -> DistanceMetric:
    """The metric of this name among those that plugins registered."""
    known = distance_metrics()
    if name not in known:
        raise UnknownNameError(
            f"metric {name!r} is not known; known metrics: {', '.join(sorted(known))}"
        )
    return known[name]


def all_layers_store(
    cfg: GroupSAERunnerConfig[Any], model: HookedRootModule, dataset: HfDataset
) -> GroupActivationsStore:
    """A store of its own that captures every layer, from the dataset's first row on."""
    every_layer = (LayerGroup(0, n_layers_of(model, cfg.hook_template) - 1),)
    require_hooks(model, cfg.hook_template, every_layer)
    return GroupActivationsStore.from_group_config(model, cfg, every_layer, as_stream(dataset))


class _Measurement:
    """Adds up LM batches; first the layers' means, where the metric wants them, then the sums."""

    def __init__(self, metric: DistanceMetric, n_tokens: int, hook_names: list[str]) -> None:
        self.metric = metric
        self.hook_names = hook_names
        self.n_wanted = n_tokens
        self.n_tokens = 0
        self.n_for_means = n_tokens / MEAN_SHARE if metric.centred else 0
        self._sum_LD: torch.Tensor | None = None
        self._mean_LD: torch.Tensor | None = None
        self._n_batches = 0
        self._sums_C: list[torch.Tensor] = []
        self._n_tokens_C: list[int] = []

    def add(self, rows_LBD: list[torch.Tensor]) -> None:
        """Takes one LM batch into account, as part of the means or of the sums."""
        n_rows = len(rows_LBD[0])
        if n_rows == 0:  # nothing but special tokens
            return
        if self.n_tokens < self.n_for_means:
            self._add_to_means(rows_LBD)
        else:
            for block_LND in _blocks(rows_LBD):
                self._add_block(block_LND)
            self._n_batches += 1
        self.n_tokens += n_rows

    def _add_to_means(self, rows_LBD: list[torch.Tensor]) -> None:
        for block_LND in _blocks(rows_LBD):
            sum_LD = block_LND.sum(dim=1)
            self._require_finite(sum_LD, block_LND)
            self._sum_LD = sum_LD if self._sum_LD is None else self._sum_LD + sum_LD
        assert self._sum_LD is not None
        self._mean_LD = self._sum_LD / (self.n_tokens + len(rows_LBD[0]))

    def _add_block(self, block_LND: torch.Tensor) -> None:
        if self._mean_LD is not None:
            block_LND = block_LND - self._mean_LD[:, None]
        sums = self.metric.sums(block_LND).cpu()
        self._require_finite(sums, block_LND)
        cluster = self._n_batches % MAX_CLUSTERS
        if cluster == len(self._sums_C):
            self._sums_C.append(torch.zeros_like(sums))
            self._n_tokens_C.append(0)
        self._sums_C[cluster] += sums
        self._n_tokens_C[cluster] += block_LND.shape[1]

    def _require_finite(self, sums: torch.Tensor, block_LND: torch.Tensor) -> None:
        if torch.isfinite(sums).all():
            return
        for hook_name, acts_ND in zip(self.hook_names, block_LND):
            if not torch.isfinite(acts_ND).all():
                raise NonFiniteActivationsError(
                    f"the activations at {hook_name} hold NaN or infinite values, so distances "
                    "cannot be measured; load the model in a wider dtype, or leave autocast_lm out"
                )

    def result(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances (L, L) and their standard errors (L, L)."""
        if len(self._sums_C) < 2:
            raise DatasetError(self._too_few())
        sums_C = torch.stack(self._sums_C)
        n_tokens_C = torch.tensor(self._n_tokens_C)
        without_CLL = torch.stack(
            [
                self._distances(sums_C.sum(dim=0) - sums, int(n_tokens_C.sum() - n))
                for sums, n in zip(sums_C, n_tokens_C)
            ]
        )
        n_clusters = len(without_CLL)
        spread_LL = without_CLL.var(dim=0, correction=0)
        return (
            self._distances(sums_C.sum(dim=0), int(n_tokens_C.sum())),
            (spread_LL * (n_clusters - 1)).sqrt(),
        )

    def _too_few(self) -> str:
        if self.n_tokens < self.n_wanted:
            return (
                f"the dataset ends after {self.n_tokens:,} of plan_tokens={self.n_wanted:,} tokens, "
                "too early to measure anything; use more data, or lower plan_tokens to what there is"
            )
        return (
            f"plan_tokens={self.n_wanted:,} are {self._n_batches} LM batches besides those for the "
            "means, too few for a standard error; raise plan_tokens or lower store_batch_size_prompts"
        )

    def _distances(self, sums: torch.Tensor, n_tokens: int) -> torch.Tensor:
        distances_LL = self.metric.distances(sums, n_tokens)
        distances_LL = (distances_LL + distances_LL.T) / 2
        # Rounding, or the noise of an unbiased estimate, may bring equal layers below zero.
        return distances_LL.clamp(min=0).fill_diagonal_(0)


def _blocks(rows_LBD: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    """An LM batch as blocks (L, N, D) in float64, each with rows from all over the batch."""
    device = rows_LBD[0].device
    if device.type == "mps":  # Apple's GPUs have no float64
        device = torch.device("cpu")
    n_blocks = max(1, len(rows_LBD[0]) // BLOCK_TOKENS)
    for block in range(n_blocks):
        # The layers of one model may lie on several devices.
        yield torch.stack([rows_BD[block::n_blocks].to(device).double() for rows_BD in rows_LBD])
