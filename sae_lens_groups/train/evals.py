"""Scores of the SAEs while they train, and before and after a transfer."""

import contextlib
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from sae_lens import SAE, ActivationsStore, TrainingSAE
from sae_lens.config import HfDataset
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from transformer_lens import HookedRootModule
from typing_extensions import override

from sae_lens_groups.activations import GroupActivationsStore
from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.saved import Scores
from sae_lens_groups.scaling import layer_sae
from sae_lens_groups.train.trainer import GroupSAETrainer


class ReplayedTokens:
    """Stands in for an activation store in `run_evals` and gives every layer the same tokens."""

    def __init__(self, store: GroupActivationsStore) -> None:
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
        model_kwargs: dict[str, Any],
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """`run_evals` of one SAE, from the first of these tokens: its metrics, and those per feature."""
        self._position = 0
        return run_evals(
            sae,
            cast("ActivationsStore", self),
            model,
            scaler,
            config,
            exclude_special_tokens=self.excluded or False,
            model_kwargs=model_kwargs,
        )

    @property
    def excluded(self) -> list[int]:
        """Ids of tokens that do not count."""
        excluded = self.store.exclude_special_tokens
        return [] if excluded is None else excluded.tolist()

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

    cfg: GroupSAERunnerConfig[Any]
    model: HookedRootModule
    groups: tuple[LayerGroup, ...]
    """Of the run."""
    dataset: HfDataset
    """From whose first row on the tokens are, the same every time."""
    trainers: Mapping[str, GroupSAETrainer]

    @functools.cached_property
    def _tokens(self) -> ReplayedTokens:
        args = self.model, self.cfg, self.groups, self.dataset
        return ReplayedTokens(GroupActivationsStore.from_group_config(*args))

    def __call__(
        self,
        saes: dict[str, TrainingSAE[Any]],
        data_provider: Any,
        activation_scalers: dict[str, ActivationScaler],  # noqa: ARG002  # ours are per layer
        hook_names: dict[str, str],  # noqa: ARG002  # these are the groups' names
    ) -> dict[str, Any]:
        """Log entries `<group>/layer_<n>/<section>` of SAELens's metrics."""
        cfg = self.cfg
        config = EvalConfig(
            batch_size_prompts=cfg.eval_batch_size_prompts,
            n_eval_reconstruction_batches=cfg.n_eval_batches,
            n_eval_sparsity_variance_batches=cfg.n_eval_batches,
            compute_ce_loss=True,
            compute_l2_norms=True,
            compute_sparsity_metrics=True,
            compute_variance_metrics=True,
        )
        logs: dict[str, Any] = {}
        with data_provider.paused():
            for name, sae in saes.items():
                for layer, scaler in self.trainers[name].scaling.of_layer.items():
                    with _standing_for(sae, cfg.hook_template.hook_name(layer)):
                        metrics, _ = self._tokens.evaluate(
                            sae, self.model, scaler, config, cfg.model_kwargs
                        )
                    logs.update({f"{name}/layer_{layer}/{key}": v for key, v in metrics.items()})
        return logs


@contextlib.contextmanager
def _standing_for(sae: TrainingSAE[Any], hook_name: str) -> Iterator[None]:
    """Lets `run_evals`, which asks the SAE for its hook, evaluate a group's SAE at one layer."""
    own = sae.cfg.metadata.hook_name
    sae.cfg.metadata.hook_name = hook_name
    try:
        yield
    finally:
        sae.cfg.metadata.hook_name = own


# Few, because a run that starts from trained SAEs may be short; they are scored twice.
_N_TOKENS = 4_000


class SuiteScores:
    """Scores every layer on the same tokens, the first that are trained on, whenever it is asked.

    SAELens's metrics of reconstruction and sparsity. The language model runs over the tokens once;
    how its loss changes is not measured, which would take passes for every layer.
    """

    def __init__(
        self,
        cfg: GroupSAERunnerConfig[Any],
        model: HookedRootModule,
        dataset: HfDataset,  # its rows are not counted, as no SAE learns from scores
        groups: tuple[LayerGroup, ...],
        norm_limits: Mapping[str, float],
    ) -> None:
        self._template = cfg.hook_template
        self._tokens = _CapturedTokens(
            GroupActivationsStore.from_group_config(model, cfg, groups, dataset, norm_limits)
        )
        n_tokens = min(_N_TOKENS, cfg.training_tokens)
        n_prompts = math.ceil(n_tokens / cfg.context_size)  # run_evals reads whole prompts
        batch_size_prompts = min(n_prompts, cfg.store_batch_size_prompts)
        self._config = EvalConfig(
            compute_l2_norms=True,
            compute_sparsity_metrics=True,
            compute_variance_metrics=True,
            batch_size_prompts=batch_size_prompts,
            n_eval_sparsity_variance_batches=math.ceil(n_prompts / batch_size_prompts),
        )

    def of(self, trainers: Iterable[GroupSAETrainer]) -> Scores:
        """The scores of these groups' layers, each by the SAE that it would now be exported as."""
        return {
            layer: self._of_layer(trainer.sae, layer, scaler, self._config)[0]
            for trainer in trainers
            for layer, scaler in trainer.scaling.of_layer.items()
        }

    def firing_frequency(
        self, sae: TrainingSAE[Any], layer: int, scaler: ActivationScaler
    ) -> torch.Tensor:
        """How often each feature of an SAE, exported for a layer, fires on these tokens. Shape (d_sae,)."""
        config = replace(self._config, compute_featurewise_density_statistics=True)
        _, of_features = self._of_layer(sae, layer, scaler, config)
        return torch.tensor(of_features["feature_density"])

    def _of_layer(
        self, sae: TrainingSAE[Any], layer: int, scaler: ActivationScaler, config: EvalConfig
    ) -> tuple[dict[str, float], dict[str, Any]]:
        with torch.random.fork_rng():  # SAELens draws weights for every SAE that it builds
            plain = layer_sae(sae, scaler, {"hook_name": self._template.hook_name(layer)})
        model = cast("HookedRootModule", self._tokens)
        found, of_features = self._tokens.evaluate(plain, model, ActivationScaler(), config, {})
        del found["token_stats"]
        metrics = {name: value for section in found.values() for name, value in section.items()}
        return metrics, of_features


_LEFT_OUT = -1  # no token's id; the language model never sees it


class _CapturedTokens(ReplayedTokens):
    """Stands in for the model in `run_evals` too: captures all layers of a batch when it is first read.

    Has another id in the place of every token that training leaves out, which does not count.
    """

    def __init__(self, store: GroupActivationsStore) -> None:
        super().__init__(store)
        self._captured: list[dict[str, torch.Tensor]] = []

    @override
    def get_batch_tokens(self, batch_size: int | None = None) -> torch.Tensor:
        is_new = self._position == len(self._batches)
        tokens = super().get_batch_tokens(batch_size)
        if not is_new:
            return tokens
        store, captured = self.store, dict[str, torch.Tensor]()
        store.run_model(tokens, store.places, captured.__setitem__)
        layers = {name: store.trained_rows(acts) for name, acts in captured.items()}
        kept_B = store.ordinary_positions(tokens, layers)
        is_kept_PT = torch.zeros_like(tokens, dtype=torch.bool)
        part_PT = torch.zeros_like(store.trained_tokens(tokens), dtype=torch.bool)
        part_PT.view(-1)[kept_B] = True
        is_kept_PT[:, slice(*store.seqpos_slice)] = part_PT
        self._captured.append(captured)
        self._batches[-1] = torch.where(is_kept_PT, tokens, _LEFT_OUT)
        return self._batches[-1]

    @property
    @override
    def excluded(self) -> list[int]:
        return [_LEFT_OUT]

    def run_with_cache(self, *_: Any, **__: Any) -> tuple[None, dict[str, torch.Tensor]]:
        """The activations of the batch that was read last; nobody has asked for the model's outputs."""
        return None, self._captured[self._position - 1]
