"""What was found of features, for the tools of others.

Shapes: S sequences, T positions, D = d_in, F = d_sae.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_groups import files
from sae_lens_groups.features.result import (
    HISTOGRAM_EDGES,
    GroupFeatures,
    LayerFeatures,
    SuiteFeatures,
)
from sae_lens_groups.suite import SAESuite

_FEATURES_PER_FILE = 128


def write_neuronpedia(
    found: SuiteFeatures,
    suite: SAESuite,
    folder: str | Path,
    *,
    model_id: str | None = None,
    sae_set: str | None = None,
) -> None:
    """Writes the dashboards of every layer in the form that SAEDashboard hands to Neuronpedia.

    A folder per layer with `batch-0.json` and so on, as SAEDashboard 0.8.0's `neuronpedia-runner`
    writes them. Correlated neurons and features, and the histogram of logits, stay empty.

    Args:
        found: what `collect_features` found.
        suite: the suite that it is about.
        folder: a new one.
        model_id: what Neuronpedia calls the model; the suite's name of it if None.
        sae_set: what the SAEs are to be called there; the suite's folder if None.

    Raises:
        OutputFolderError: the folder already holds something.
    """
    named = "suite" if suite.path is None else suite.path.resolve().name
    model_id = model_id or Path(suite.manifest.model_name).name
    with files.new_folder(folder, "folder") as written:
        for of in found.groups:
            for at in of.layers:
                layer = written / suite.manifest.hook_template.hook_name(at.layer)
                layer.mkdir()
                for n, start in enumerate(range(0, len(of.feature_C), _FEATURES_PER_FILE)):
                    end = min(start + _FEATURES_PER_FILE, len(of.feature_C))
                    batch = {
                        "model_id": model_id,
                        "layer": at.layer,
                        "sae_set": sae_set or named,
                        "sae_id_suffix": None,
                        "features": [_dashboard(found, of, at, c) for c in range(start, end)],
                    }
                    files.write_text(layer / f"batch-{n}.json", json.dumps(batch))


def _dashboard(
    found: SuiteFeatures, of: GroupFeatures, at: LayerFeatures, c: int
) -> dict[str, Any]:
    """One feature on one layer, with the names of SAEDashboard's `NeuronpediaDashboardFeature`."""
    filled = at.histogram_CB[c].nonzero()[:, 0].tolist()
    edges = [0.0, *HISTOGRAM_EDGES]
    dashboard: dict[str, Any] = {
        "feature_index": int(of.feature_C[c]),
        "frac_nonzero": int(at.n_firings_C[c]) / of.n_tokens,
        "freq_hist_data_bar_values": [edges[n] for n in filled],
        "freq_hist_data_bar_heights": [int(at.histogram_CB[c, n]) for n in filled],
        "n_prompts_total": found.n_prompts,
        "n_tokens_in_prompt": found.context_size,
        "dataset": found.dataset_name,
        "activations": list(_activations(found, of, at, c)),
    }
    if at.lens is None:
        return dashboard
    lens = at.lens
    for name, tokens, by in (
        ("pos", lens.raised_CN[c], lens.raised_by_CN[c]),
        ("neg", lens.lowered_CN[c], lens.lowered_by_CN[c]),
    ):
        dashboard[f"{name}_str"] = [found.texts[token] for token in tokens.tolist()]
        dashboard[f"{name}_values"] = by.tolist()
    return dashboard


def _activations(
    found: SuiteFeatures, of: GroupFeatures, at: LayerFeatures, c: int
) -> Iterator[dict[str, Any]]:
    """The examples; of those from the draw the bin is a third of the feature's range."""
    highest = float(at.highest_C[c])
    thirds = {"low": 0, "middle": 1, "top": 2}
    for n, example in enumerate(found.examples(of.name(c), at.layer)):
        is_top = n < int((at.top.prompt_CK[c] >= 0).sum())
        third = thirds[example.stratum]
        values = example.activations[at.layer]
        yield {
            "bin_min": -1 if is_top else third * highest / 3,
            "bin_max": highest if is_top else (third + 1) * highest / 3,
            "bin_contains": -1 if is_top else 0,
            "tokens": example.tokens,
            "values": values,
            "qualifying_token_index": max(range(len(values)), key=lambda n: abs(values[n])),
        }


def delphi_encoders(suite: SAESuite) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """By hook name what delphi's `LatentCache` takes as `hookpoint_to_sparse_encode`.

    From a layer's activations (S, T, D), of any dtype, to its features (S, T, F).
    """

    def encoder(sae: SAE[Any]) -> Callable[[torch.Tensor], torch.Tensor]:
        def encode(acts_STD: torch.Tensor) -> torch.Tensor:
            features_STF = sae.encode(acts_STD.to(device=sae.device, dtype=sae.dtype))
            return features_STF.to_dense() if features_STF.is_sparse else features_STF

        return encode

    return {hook_name: encoder(sae) for hook_name, sae in suite.items()}
