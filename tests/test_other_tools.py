"""What goes out to other people's tools, read by these tools; each test runs where its tool is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from sae_lens_groups import SAESuite
from sae_lens_groups.demo import MODEL_FOLDER
from sae_lens_groups.features import SuiteFeatures, delphi_encoders, write_neuronpedia

from .test_features import (  # noqa: F401  # its fixtures
    CONTEXT,
    N_BATCHES,
    N_PROMPTS,
    found,
    model,
    suite,
    text,
    tokens_folder,
)


@pytest.mark.slow
def test_delphi_caches_and_reads_a_suites_features(
    suite: SAESuite,  # noqa: F811
    found: SuiteFeatures,  # noqa: F811
    model: Any,  # noqa: F811
    text: Dataset,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Its cache run, saved, and read by its own dataset; the firings are those of our pass."""
    pytest.importorskip("delphi", reason="pip install eai-delphi, in an environment of its own")
    from delphi.config import (  # pyright: ignore[reportMissingImports]
        CacheConfig,
        ConstructorConfig,
        SamplerConfig,
    )
    from delphi.latents import LatentCache, LatentDataset  # pyright: ignore[reportMissingImports]

    tokens_PT = torch.tensor(text["tokens"][: N_BATCHES * N_PROMPTS])
    cache = LatentCache(model.model, delphi_encoders(suite), batch_size=N_PROMPTS)
    cache.run(tokens_PT.numel(), tokens_PT)
    cache.save_splits(n_splits=2, save_dir=tmp_path)
    cache.save_config(tmp_path, CacheConfig(cache_ctx_len=CONTEXT), str(MODEL_FOLDER))
    small: dict[str, Any] = {"example_ctx_len": 16, "min_examples": 1}
    cfg = ConstructorConfig(**small, n_non_activating=0, non_activating_source="random")
    read = LatentDataset(tmp_path, SamplerConfig(), cfg, tokenizer=model.tokenizer)
    assert set(read.modules) == set(suite)
    ordinary_PT = tokens_PT != model.tokenizer.eos_token_id
    for hook_name, at in zip(suite, (at for of in found.groups for at in of.layers)):
        assert len(cache.hookpoint_firing_counts[hook_name]) == 192
        n_read, highest = torch.zeros(192, dtype=torch.long), torch.zeros(192)
        for buffer in (one for one in read.buffers if one.module_path == hook_name):
            for feature, _, data in buffer:
                row_N, position_N, _ = data.locations.long().T
                is_kept_N = ordinary_PT[row_N, position_N]
                n = int(feature.latent_index)
                n_read[n] = int(is_kept_N.sum())
                if is_kept_N.any():
                    highest[n] = float(data.activations[is_kept_N].float().max())
        assert torch.equal(n_read, at.n_firings_C)
        torch.testing.assert_close(highest, at.highest_C, rtol=1e-3, atol=1e-3)  # kept in float16


def test_saedashboard_reads_what_goes_to_neuronpedia(
    suite: SAESuite,  # noqa: F811
    found: SuiteFeatures,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Its own classes take every file, and write it again as it was."""
    pytest.importorskip("sae_dashboard", reason="pip install --no-deps sae-dashboard==0.8.0")
    from sae_dashboard.neuronpedia.neuronpedia_dashboard import (  # pyright: ignore[reportMissingImports]
        NeuronpediaDashboardBatch,
    )

    write_neuronpedia(found, suite, tmp_path / "out")
    for hook_name, layer in zip(suite, suite.layers):
        batches = sorted((tmp_path / "out" / hook_name).glob("batch-*.json"))
        assert len(batches) == 2  # 192 features
        features = []
        for path in batches:
            written = json.loads(path.read_text())
            batch = NeuronpediaDashboardBatch(**written)
            assert (batch.layer, batch.model_id) == (layer, MODEL_FOLDER.name)
            again = batch.to_dict()
            for ours, theirs in zip(written["features"], again["features"], strict=True):
                assert {name: theirs[name] for name in ours} == ours
            features += batch.features
        assert [of.feature_index for of in features] == list(range(192))


def test_wandb_takes_the_table_offline(
    found: SuiteFeatures,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real run of W&B, whose file of the table is read back."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    with wandb.init(project="features", dir=tmp_path) as run:
        run.log({"features": wandb.Table(dataframe=found.to_dataframe())})
    (written,) = tmp_path.rglob("media/table/*.table.json")
    table = json.loads(written.read_text())
    assert len(table["data"]) == 192 * 3
    first = dict(zip(table["columns"], table["data"][0], strict=True))
    of, at = found.groups[0], found.groups[0].layers[0]
    assert (first["feature"], first["layer"]) == (of.name(0), at.layer)
    assert first["density"] == pytest.approx(int(at.n_firings_C[0]) / found.n_tokens)
    assert first["highest"] == pytest.approx(float(at.highest_C[0]))
