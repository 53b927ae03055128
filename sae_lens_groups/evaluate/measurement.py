"""What suites are scored on: the same tokens for all of them, of which the same count."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sae_lens import SAE
from sae_lens.config import HfDataset
from sae_lens.saes.sae import SAEMetadata
from transformer_lens import HookedRootModule

from sae_lens_groups.activations import fingerprint
from sae_lens_groups.evaluate.baseline import Baseline
from sae_lens_groups.evaluate.checks import (
    metadata_of_both,
    require_evaluable,
    warn_of_training_text,
    with_baseline,
)
from sae_lens_groups.evaluate.sweep import Ablations
from sae_lens_groups.evaluate.tokens import EvaluatedTokens, read_tokens
from sae_lens_groups.evaluate.write import EvaluationSettings
from sae_lens_groups.suite import SAESuite

BaselineForm = Baseline | Mapping[str, SAE[Any]] | str | Path | None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Made once, before the first suite is scored."""

    model: HookedRootModule
    tokens: EvaluatedTokens
    trained: Mapping[str, Sequence[SAEMetadata]]
    """By hook name, what all SAEs there say of the tokens that they were trained on."""
    baseline: Baseline | None
    settings: EvaluationSettings
    ablations: Ablations = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        suites: Iterable[SAESuite],
        model: HookedRootModule,
        dataset: HfDataset,
        *,
        baseline: BaselineForm = None,
        n_batches: int = 8,
        batch_size_prompts: int = 16,
        context_size: int | None = None,
        tasks: Sequence[str] = (),
        dataset_name: str = "dataset",
        autocast_lm: bool | None = None,
    ) -> "Measurement":
        """Of suites, each of which is looked at once. `evaluate_suite` says what it takes and raises."""
        compared = None if baseline is None else Baseline.of(baseline)
        given, trained, evaluated = fingerprint(dataset), {}, []
        any_sae: SAE[Any] | None = None
        for suite in suites:
            require_evaluable(suite, model)
            named, shared = with_baseline(suite, compared)
            for name, said in metadata_of_both(suite, named, shared, model).items():
                trained.setdefault(name, []).extend(said)
            any_sae = next(iter(suite.values())) if any_sae is None else any_sae
            evaluated.append(replace(Baseline.of(suite, "the suite"), saes={}))
        assert any_sae is not None
        runs = [*evaluated, *([] if compared is None else [compared])]
        warn_of_training_text(runs, given)
        said = [of for each in trained.values() for of in each]
        tokens = read_tokens(
            model, any_sae, said, dataset, n_batches, batch_size_prompts, context_size
        )
        settings = EvaluationSettings(
            dataset=dataset_name,
            dataset_fingerprint=given,
            n_batches=n_batches,
            batch_size_prompts=batch_size_prompts,
            context_size=tokens.context_size,
            autocast_lm=_all_did(runs) if autocast_lm is None else autocast_lm,
            baseline=None if compared is None else compared.name,
            tasks=tuple(tasks),
        )
        return cls(
            model=model, tokens=tokens, trained=trained, baseline=compared, settings=settings
        )


def _all_did(runs: Iterable[Baseline]) -> bool:
    """Whether all trainings of which the settings are known had the model compute in bfloat16."""
    known = [bool(of.runner_cfg.get("autocast_lm")) for of in runs if of.runner_cfg is not None]
    return bool(known) and all(known)
