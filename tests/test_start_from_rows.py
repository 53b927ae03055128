"""`init_features rows`: the features of new SAEs point to rows of the data."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupSAETrainingRunner, SAESuite, SweepTrainingRunner
from sae_lens_groups.errors import ConfigError, UnknownNameError

from .tiny import (
    ARCHITECTURES,
    D_IN,
    D_SAE,
    group_config,
    make_tokens,
    sae_config,
)


def started(model: HookedTransformer, sae: object, **changes: object) -> SAESuite:
    """As training starts: with a learning rate of 0 nothing moves."""
    flags = {"sae": sae, "init_features": "rows", "lr": 0.0, "n_batches_in_buffer": 32, **changes}
    cfg = group_config(**flags)
    return GroupSAETrainingRunner(cfg, make_tokens(), model).run()


def rows_of(model: HookedTransformer, tokens: Dataset, *layers: int) -> torch.Tensor:
    """Every row (N, D) that these layers have of the tokens."""
    prompts = torch.tensor(tokens.with_format(None)["tokens"])
    _, cache = model.run_with_cache(prompts)
    return torch.cat([cache[f"blocks.{n}.hook_resid_post"].reshape(-1, D_IN) for n in layers])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_feature_points_from_the_mean_to_a_row(
    model: HookedTransformer, architecture: str
) -> None:
    sae = sae_config(architecture)
    suite = started(model, sae)
    for group, layers in (("layers_0-2", (0, 1, 2)), ("layers_3", (3,))):
        found = suite.group(group).state_dict()
        rows_ND = rows_of(model, make_tokens(), *layers)
        direction_FD = torch.nn.functional.normalize(found["W_dec"])
        offset_ND = torch.nn.functional.normalize(rows_ND - found["b_dec"])
        cosine_F, row_F = (direction_FD @ offset_ND.T).max(1)
        torch.testing.assert_close(cosine_F, torch.ones(D_SAE), atol=1e-4, rtol=0)
        assert len(set(row_F.tolist())) > D_SAE * 0.8
        torch.testing.assert_close(found["b_dec"], rows_ND.mean(0), atol=0.5, rtol=0)
        if "W_enc" in found:
            assert torch.equal(found["W_enc"], found["W_dec"].T)
        norm = sae.decoder_init_norm or 1.0
        torch.testing.assert_close(found["W_dec"].norm(dim=1), torch.full([D_SAE], norm))


def test_each_layer_is_scaled_as_in_training(model: HookedTransformer) -> None:
    sae = sae_config(normalize_activations="expected_average_only_in")
    suite = started(model, sae, layer_groups="3")
    found, factor = suite.group("layers_3").state_dict(), suite.layer(3).cfg.metadata
    scaled_ND = rows_of(model, make_tokens(), 3) * factor["sae_lens_groups"]["scaling_factor"]
    offset_ND = torch.nn.functional.normalize(scaled_ND - found["b_dec"])
    cosine_F = (torch.nn.functional.normalize(found["W_dec"]) @ offset_ND.T).amax(1)
    torch.testing.assert_close(cosine_F, torch.ones(D_SAE), atol=1e-4, rtol=0)


def test_saes_that_start_elsewhere_are_left_alone(model: HookedTransformer, tmp_path: Path) -> None:
    source = GroupSAETrainingRunner(group_config(), make_tokens(), model).run()
    source.save(tmp_path / "source")
    suite = started(model, sae_config(), init_from=str(tmp_path / "source"))
    assert torch.equal(suite.group("layers_3").W_dec, source.group("layers_3").W_dec)


def test_mistakes_are_one_line(model: HookedTransformer) -> None:
    with pytest.raises(UnknownNameError, match="init_features 'row' is not known"):
        group_config(init_features="row")
    saes = GroupSAETrainingRunner(group_config(), make_tokens(), model).saes
    with pytest.raises(ConfigError, match="init_features rows and override_saes both say"):
        GroupSAETrainingRunner(group_config(init_features="rows"), make_tokens(), model, saes)
    cfg = group_config(init_features="rows", sweep=["d_sae=32,48"])
    with pytest.raises(ConfigError, match="init_features rows needs one d_sae"):
        SweepTrainingRunner(cfg, make_tokens(), model)
