"""Distances, their errors, maps and scores are those of ordinary tokens, whatever a sink does.

The model is a table of activations with a sink planted at the first position; what is expected is
worked out in float64 from the table, without the sink.
"""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from typing_extensions import override

from sae_lens_groups import GroupSAETrainingRunner, SAESuite, measure_layer_distances
from sae_lens_groups.scaling.alignments import affine, scale
from sae_lens_groups.scaling.moments import PairMoments

from .test_distances import DEFINITIONS, METRICS
from .tiny import D_IN, D_VOCAB, TableModel, group_config, make_tokens, sae_config

LIMITS = (10.0, 0.0)
SINK_LAYERS, SINK = (1, 2), 1000.0
NO_TRAINING = {"training_tokens": 32, "lr": 1e-30}


class SinkModel(TableModel):
    """At layers 1 and 2 the first position has a norm of 1,000, whatever its token; others have 5."""

    @override
    def forward(self, tokens: torch.Tensor, **_: Any) -> torch.Tensor:
        for layer, (table, block) in enumerate(zip(self.tables, self.blocks)):
            acts = table[tokens]
            if layer in SINK_LAYERS:
                acts[:, 0] += SINK / D_IN**0.5
            block.hook_resid_post(acts)  # type: ignore[operator]
        return tokens


def drifting_tables(seed: int = 0, n_layers: int = 4) -> torch.Tensor:
    """Each layer is the one below and noise. (L, d_vocab, D)"""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(n_layers, D_VOCAB, D_IN, generator=generator)
    steps[1:] *= 0.3
    return steps.cumsum(dim=0) + torch.randn(D_IN, generator=generator)


def quietly(call: Any, *args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **kwargs)


# --- distances ---


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_those_of_ordinary_tokens(metric: str, limit: float) -> None:
    tables, tokens, n_tokens = drifting_tables(), make_tokens(400), 4800
    found = quietly(
        measure_layer_distances,
        group_config(max_activation_norm_multiple=limit),
        metric=metric,
        n_tokens=n_tokens,
        override_dataset=tokens,
        override_model=SinkModel(tables),
    )
    rows = torch.tensor(tokens["tokens"])[:, 1:]
    batches = [tables[:, rows[p : p + 4].flatten()].double().numpy() for p in range(0, 320, 4)]
    np.testing.assert_allclose(found.matrix, DEFINITIONS[metric](batches, n_tokens), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_standard_errors_are_how_far_repeated_measurements_lie_apart(metric: str) -> None:
    model = SinkModel(drifting_tables())
    found = [
        quietly(
            measure_layer_distances,
            group_config(max_activation_norm_multiple=0),
            metric=metric,
            n_tokens=3000,
            override_dataset=make_tokens(220, seed),
            override_model=model,
        )
        for seed in range(16)
    ]
    pairs = np.triu_indices(len(model.tables), 1)
    spread = np.std([one.matrix[pairs] for one in found], axis=0, ddof=1)
    claimed = np.sqrt(np.mean([one.standard_errors[pairs] ** 2 for one in found], axis=0))
    assert 0.7 < (spread / claimed).mean() < 1.4


def test_one_warning_names_the_setting() -> None:
    model, tokens = SinkModel(drifting_tables()), make_tokens(400)
    for layer_groups in ("1-2", "auto:2"):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            trained(model, tokens, layer_groups, max_activation_norm_multiple=0)
        (said,) = [str(one.message) for one in found if "massive" in str(one.message)]
        assert "set max_activation_norm_multiple to 10" in said
        assert "whitening" in said


# --- maps ---


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_map_is_checked_on_rows_that_it_was_not_fitted_on() -> None:
    x = random(0, 300, D_IN)
    y = x @ random(1, D_IN, D_IN) + 3 + random(2, 300, D_IN)
    moments, rest = PairMoments(D_IN), PairMoments(D_IN)
    is_held = torch.arange(300) % 50 >= 40
    for start in range(0, 300, 50):
        moments.add(x[start : start + 50], y[start : start + 50])
    rest.add(x[~is_held], y[~is_held])
    found = moments.held_out_r2(affine(moments.without_held_out()))
    layer_map = affine(rest)
    for r2, predicted, target in (
        (found[0], layer_map.forward(x[is_held]), y[is_held]),
        (found[1], layer_map.backward(y[is_held]), x[is_held]),
    ):
        unexplained = (predicted - target).square().sum()
        expected = 1 - unexplained / (target - target.mean(dim=0)).square().sum()
        assert r2 == pytest.approx(expected.item(), abs=1e-9)
        assert r2 > 0.5
    assert moments.held_out_r2(scale(rest))[0] < 0


def trained(model: Any, tokens: Dataset, layer_groups: str, **changes: Any) -> SAESuite:
    sae = sae_config(normalize_activations="expected_average_only_in")
    cfg = group_config(layer_groups, **{"sae": sae, "plan_tokens": 2000, **changes})
    return GroupSAETrainingRunner(cfg, tokens, model).run()


def zero_shot(model: Any, tokens: Dataset, **changes: Any) -> float:
    """Explained variance of layer 2 before any step, from the SAE of layer 1 in `source`."""
    suite = quietly(trained, model, tokens, "2", init_from="source", **NO_TRAINING, **changes)
    return suite.manifest.transfer.zero_shot[2]["explained_variance"]


@pytest.mark.parametrize("alignment", ["orthogonal", "affine"])
def test_a_start_at_a_layer_with_a_sink_is_as_good_as_without(alignment: str) -> None:
    tables, tokens = drifting_tables(), make_tokens(400)
    tables[2] = 3 * tables[1] @ torch.linalg.qr(random(3, D_IN, D_IN))[0].float()
    long = {"training_tokens": 32 * 300}
    quietly(trained, SinkModel(tables), tokens, "1", output_path="source", **long)
    expected = zero_shot(SinkModel(tables), tokens, init_alignment=alignment)
    found = zero_shot(
        SinkModel(tables), tokens, init_alignment=alignment, max_activation_norm_multiple=0
    )
    assert expected > 0.5
    assert found == pytest.approx(expected, abs=0.02)


FEW = {"plan_tokens": 20, "store_batch_size_prompts": 1}
FALLS_BACK = r"worse than `scale` on tokens held out .* raise plan_tokens"


def test_a_map_that_is_worse_than_one_factor_gives_way_to_it() -> None:
    model, tokens = TableModel(drifting_tables()), make_tokens(400)
    quietly(trained, model, tokens, "1", output_path="source", training_tokens=32 * 300)
    start = {**FEW, **NO_TRAINING, "init_from": "source"}
    with pytest.warns(UserWarning, match=FALLS_BACK):
        suite = trained(model, tokens, "2", init_alignment="affine", output_path="suite", **start)
    report = suite.manifest.transfer
    assert report is not None
    assert report.init_alignment == "affine"
    assert [of.init_alignment for of in report.layers.values()] == ["scale"]
    assert SAESuite.load("suite").manifest.transfer == report
    by_scale = zero_shot(model, tokens, init_alignment="scale")
    assert report.zero_shot[2]["explained_variance"] == pytest.approx(by_scale, abs=0.1)


def test_enough_tokens_keep_the_map_that_was_asked_for() -> None:
    model, tokens = TableModel(drifting_tables()), make_tokens(400)
    quietly(trained, model, tokens, "1", output_path="source")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        suite = trained(
            model, tokens, "2", init_from="source", init_alignment="affine", **NO_TRAINING
        )
    assert not [one for one in found if "held out" in str(one.message)]
    assert suite.manifest.transfer is not None
    assert [of.init_alignment for of in suite.manifest.transfer.layers.values()] == [None]


def test_a_groups_layers_fall_back_too() -> None:
    tokens = make_tokens(400)
    with pytest.warns(UserWarning, match=r"layer \d to layer \d .*" + FALLS_BACK):
        trained(TableModel(drifting_tables()), tokens, "0-2", layer_alignment="affine", **FEW)
