"""Writes what an evaluation found beside the suite: CSV for people, SAELens's JSON for tools."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sae_lens.evals import get_eval_everything_config, process_results

from sae_lens_groups import files
from sae_lens_groups.evaluate.circuits.report import ROW_COLUMNS
from sae_lens_groups.evaluate.metrics import SECTIONS
from sae_lens_groups.evaluate.report.markdown_table import layers_markdown
from sae_lens_groups.evaluate.report.page import report_page
from sae_lens_groups.evaluate.result import LayerScores, SuiteEvaluation
from sae_lens_groups.evaluate.sweep import LayerResults
from sae_lens_groups.suite import SAESuite

_MISSED_COLUMNS = (
    *("layer", "hook_name", "baseline_feature", "frequency", "largest_cosine"),
    "nearest_feature",
)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What an evaluation was asked for: the content of `evaluation/settings.json`."""

    dataset: str
    dataset_fingerprint: str
    n_batches: int
    batch_size_prompts: int
    context_size: int
    autocast_lm: bool
    baseline: str | None
    tasks: Sequence[str]

    def measures_all_of(self, earlier: Mapping[str, Any]) -> bool:
        """Whether nothing is lost where this evaluation takes the place of that one."""
        settings = asdict(self) | {"tasks": list(self.tasks)}
        added = {name: settings[name] for name in ("baseline", "tasks") if not earlier.get(name)}
        return {**earlier, **added} == settings


def keep_earlier(folder: Path, settings: EvaluationSettings) -> str | None:
    """Puts aside an evaluation that measured something else, and says where; None if there is none."""
    names = (files.EVALUATION, files.EVALUATION_FOLDER, files.REPORT)
    present = [folder / name for name in names if (folder / name).exists()]
    path = folder / files.EVALUATION_FOLDER / files.EVALUATION_SETTINGS
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        is_measured_again = settings.measures_all_of(earlier)
    except (OSError, ValueError, TypeError, AttributeError):  # of an earlier version, or edited
        is_measured_again = False
    if not present or is_measured_again:
        return None
    kept = files.free_folder(folder / files.EARLIER_EVALUATION)
    kept.mkdir(exist_ok=True)
    for old in present:
        old.rename(kept / old.name)
    return kept.name


def write_evaluation(
    suite: SAESuite,
    evaluation: SuiteEvaluation,
    results: Mapping[str, LayerResults],
    settings: EvaluationSettings,
    commands: Sequence[str],
) -> None:
    """Writes `evaluation.csv`, the folder `evaluation` and `report.html` into the suite's folder.

    Each replaces what an earlier evaluation left there.
    """
    assert suite.path is not None
    saelens_results = [
        _saelens_result(suite, evaluation, scores, results[scores.hook_name])
        for scores in evaluation
    ]
    with files.replaced_folder(suite.path / files.EVALUATION_FOLDER) as details:
        process_results(saelens_results, str(details))
        files.write_text(details / files.FEATURE_LAYERS, files.csv_text(_feature_rows(evaluation)))
        if evaluation.comparison is not None:
            files.write_text(
                details / files.MISSED_FEATURES,
                files.csv_text(_missed_rows(evaluation), _MISSED_COLUMNS),
            )
        files.write_text(details / files.LAYER_TABLE, layers_markdown(evaluation))
        if evaluation.faithfulness is not None:
            rows = evaluation.faithfulness.to_rows()
            files.write_text(details / files.FAITHFULNESS, files.csv_text(rows, ROW_COLUMNS))
        files.write_text(details / files.EVALUATION_SETTINGS, files.json_text(asdict(settings)))
    files.write_text(suite.path / files.EVALUATION, files.csv_text(score_rows(evaluation)))
    page = report_page(suite, evaluation, commands)
    files.write_text(suite.path / files.REPORT, page)


def score_rows(evaluation: SuiteEvaluation) -> list[dict[str, Any]]:
    """The rows of `evaluation.csv`, one per layer."""
    counts = _token_counts(evaluation)
    return [{**scores.to_row(), **counts} for scores in evaluation]


def _token_counts(evaluation: SuiteEvaluation) -> dict[str, int]:
    tokens = evaluation.tokens
    left_out = {f"n_left_out_{why}": n for why, n in tokens.left_out.items()}
    return {"n_tokens": tokens.n_tokens, **left_out}


def _saelens_result(
    suite: SAESuite, evaluation: SuiteEvaluation, scores: LayerScores, results: LayerResults
) -> dict[str, Any]:
    """One layer's entry in the form that SAELens's `process_results` takes."""
    assert suite.path is not None
    suite_name = suite.path.resolve().name
    tokens = evaluation.tokens
    n_batches, n_read = len(tokens.batches), tokens.n_prompts * tokens.context_size
    config = get_eval_everything_config(len(tokens.batches[0]), n_batches, n_batches)
    # The dataset becomes a part of file names.
    facts = {"context_size": tokens.context_size, "dataset": evaluation.dataset_name[:80]}
    facts |= _token_counts(evaluation)
    # SAELens has NaN for a feature without a firing and writes -1.
    heuristic_F = results.n_firings_F.double() / results.n_prompts_F
    return {
        "unique_id": f"{suite_name}-{scores.hook_name}",
        "sae_set": suite_name,
        "sae_id": scores.hook_name,
        "eval_cfg": facts | vars(config),
        "metrics": {
            **{
                section: {name: scores.metrics[name] for name in names}
                for section, names in SECTIONS.items()
            },
            "token_stats": {
                "total_tokens_eval_reconstruction": n_read,
                "total_tokens_eval_sparsity_variance": n_read,
            },
        },
        "feature_metrics": {
            "feature_density": (results.n_firings_F / tokens.n_tokens).tolist(),
            "consistent_activation_heuristic": heuristic_F.tolist(),
        },
        "sae_cfg": suite[scores.hook_name].cfg.to_dict(),
    }


def _feature_rows(evaluation: SuiteEvaluation) -> Iterable[dict[str, Any]]:
    """A row per feature of every group: how often it fires on each layer."""
    for features in evaluation.features:
        frequency_LF = features.n_firings_LF / features.n_tokens
        for feature, entropy in enumerate(features.entropy_F):
            frequencies = zip(features.group.layers, frequency_LF[:, feature])
            yield {
                "group": features.group.name,
                "feature": feature,
                "entropy": "" if math.isnan(entropy) else f"{entropy:.4f}",
                **{f"layer_{layer}": f"{value:.3e}" for layer, value in frequencies},
            }


def _missed_rows(evaluation: SuiteEvaluation) -> Iterable[dict[str, Any]]:
    """A row per feature of the baseline that the suite has nothing like, the most frequent first."""
    n_tokens = evaluation.tokens.n_tokens
    for scores in evaluation:
        if scores.baseline is None or (match := scores.baseline.match) is None:
            continue
        order = match.n_firings_G.argsort(descending=True, stable=True)
        for n in order[match.is_missed_G[order]].tolist():
            yield {
                "layer": scores.layer,
                "hook_name": scores.hook_name,
                "baseline_feature": match.features_G[n].item(),
                "frequency": f"{match.n_firings_G[n].item() / n_tokens:.3e}",
                "largest_cosine": f"{match.cosine_G[n].item():.4f}",
                "nearest_feature": match.nearest_G[n].item(),
            }
