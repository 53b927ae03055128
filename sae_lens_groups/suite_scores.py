"""Scores the SAEs that a run has so far, as they would be exported, from one pass per LM batch."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from sae_lens.config import HfDataset
from sae_lens.evals import EvalConfig
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.util import extract_stop_at_layer_from_tlens_hook_name
from transformer_lens import HookedRootModule

from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.dataset import as_stream
from sae_lens_groups.fold import layer_sae
from sae_lens_groups.layer_evals import ReplayedTokens, metrics_by_name
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.store import GroupActivationsStore
from sae_lens_groups.trainer import GroupSAETrainer
from sae_lens_groups.transfer_report import Scores

# Few, because a run that starts from trained SAEs may be short; they are scored twice.
_N_TOKENS = 4_000


class SuiteScores:
    """Scores every layer on the same tokens, the dataset's first, whenever it is asked.

    SAELens's metrics of reconstruction and sparsity. The language model runs over the tokens once
    each time; how its loss changes is not measured, which would take passes for every layer.
    """

    def __init__(
        self,
        cfg: GroupSAERunnerConfig[Any],
        model: HookedRootModule,
        dataset: HfDataset,
        groups: tuple[LayerGroup, ...],
    ) -> None:
        self._template = cfg.hook_template
        store = GroupActivationsStore.from_group_config(model, cfg, groups, as_stream(dataset))
        self._tokens = ReplayedTokens(store)
        self._model, self._hook_names = model, self._template.hook_names(groups)
        excluded = store.exclude_special_tokens
        self._excluded = False if excluded is None else excluded.tolist()
        self._model_kwargs = cfg.model_kwargs
        n_prompts = math.ceil(_N_TOKENS / cfg.context_size)  # run_evals reads whole prompts
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
        captures = _OnePass(self._model, self._hook_names)
        with torch.random.fork_rng():  # SAELens draws weights for every SAE that it builds
            return {
                layer: self._of_layer(trainer, layer, scaler, captures)
                for trainer in trainers
                for layer, scaler in trainer.scaling.of_layer.items()
            }

    def _of_layer(
        self,
        trainer: GroupSAETrainer,
        layer: int,
        scaler: ActivationScaler,
        captures: "_OnePass",
    ) -> dict[str, float]:
        hook_name = self._template.hook_name(layer)
        metrics = self._tokens.evaluate(
            layer_sae(trainer.sae, scaler, {"hook_name": hook_name}),
            captures,
            ActivationScaler(),
            self._config,
            exclude_special_tokens=self._excluded,
            model_kwargs=self._model_kwargs,
        )
        return metrics_by_name(metrics)


class _OnePass(HookedRootModule):
    """Stands in for the model in `run_evals`: captures all layers of a batch when it is first
    asked for one of them."""

    def __init__(self, model: HookedRootModule, hook_names: list[str]) -> None:
        super().__init__()
        self._model = [model]  # in a list, so that it is no part of this module
        self._hook_names = hook_names
        self._captured: dict[int, dict[str, torch.Tensor]] = {}

    def run_with_cache(self, tokens: torch.Tensor, **kwargs: Any) -> Any:  # type: ignore[override]
        """Like the model's own, but what comes first is None: nobody has asked for outputs."""
        key = id(tokens)  # they are kept, and given again, by ReplayedTokens
        if key not in self._captured:
            last = extract_stop_at_layer_from_tlens_hook_name(self._hook_names[-1])
            kwargs |= {"names_filter": self._hook_names, "stop_at_layer": last}
            _, cache = self._model[0].run_with_cache(tokens, **kwargs)
            self._captured[key] = {name: cache[name] for name in self._hook_names}
        return None, self._captured[key]
