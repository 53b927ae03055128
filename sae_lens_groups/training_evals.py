"""SAELens's in-training evals, once per layer."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sae_lens import ActivationsStore, TrainingSAE
from sae_lens.training.activation_scaler import ActivationScaler
from transformer_lens import HookedRootModule

from sae_lens_groups.batches import TrainingBatches
from sae_lens_groups.layer_evals import ReplayedTokens, layer_eval_config
from sae_lens_groups.layers import HookTemplate
from sae_lens_groups.trainer import GroupSAETrainer


@dataclass
class GroupEvaluator:
    """SAELens's in-training evals, once per layer with the layer's own scaling.

    `MultiSAETrainer` calls it where it calls its own evaluator.
    """

    model: HookedRootModule
    store: ActivationsStore
    trainers: Mapping[str, GroupSAETrainer]
    template: HookTemplate
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
        config = layer_eval_config(self.n_eval_batches, self.eval_batch_size_prompts)
        excluded = self.store.exclude_special_tokens
        logs: dict[str, Any] = {}
        is_ours = isinstance(data_provider, TrainingBatches)
        with data_provider.paused() if is_ours else contextlib.nullcontext():
            tokens = ReplayedTokens(self.store)
            for name, sae in saes.items():
                trainer = self.trainers[name]
                for layer, scaler in zip(trainer.group.layers, trainer.scaling.scalers):
                    with _standing_for(sae, self.template.hook_name(layer)):
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


@contextlib.contextmanager
def _standing_for(sae: TrainingSAE[Any], hook_name: str) -> Iterator[None]:
    """Lets `run_evals`, which asks the SAE for its hook, evaluate a group's SAE at one layer."""
    own = sae.cfg.metadata.hook_name
    sae.cfg.metadata.hook_name = hook_name
    try:
        yield
    finally:
        sae.cfg.metadata.hook_name = own
