"""Steering: what it changes is what one computes by hand, in every class of model and dtype."""

from typing import Any

import pytest
import torch
from sae_lens.load_model import HookedProxyLM
from transformer_lens import HookedTransformer
from transformers import AutoConfig, AutoModelForCausalLM

from sae_lens_groups import GroupSAETrainingRunner, SAESuite, collect_features, steer
from sae_lens_groups.errors import ConfigError, HookNameError, SuiteError
from sae_lens_groups.features import steering_effects

from .planted import DIRECTION, FEATURE, TOKEN, PlantedModel, planted_suite, planted_tokens
from .tiny import D_VOCAB, group_config, make_tokens

COUNTS: dict[str, Any] = {"n_batches": 2, "batch_size_prompts": 4}


# --- by hand ---


@pytest.fixture(scope="module")
def planted() -> tuple[PlantedModel, SAESuite, Any, torch.Tensor]:
    model, suite, tokens = PlantedModel(), planted_suite(), planted_tokens()
    found = collect_features(suite, model, tokens, **COUNTS)
    return model, suite, found, torch.tensor(tokens["tokens"][:8])


@pytest.mark.parametrize(("layers", "n_layers"), [("all", 2), (1, 1), ([1, 2], 2), (0, 0)])
def test_adding_puts_multiples_of_the_highest_activation_there(
    planted: tuple[PlantedModel, SAESuite, Any, torch.Tensor], layers: Any, n_layers: int
) -> None:
    """The highest is 2 on layers 1 and 2, and 0 on the others, which are left alone."""
    model, suite, found, tokens_ST = planted
    clean = model(tokens_ST)
    with steer(model, suite, FEATURE, layers, strength=1.5, found=found):
        steered = model(tokens_ST)
    by_hand = clean + n_layers * 1.5 * 2.0 * model.W_U[DIRECTION]
    torch.testing.assert_close(steered, by_hand)
    assert torch.equal(model(tokens_ST), clean)


def test_ablating_and_scaling_change_it_where_it_fires(
    planted: tuple[PlantedModel, SAESuite, Any, torch.Tensor],
) -> None:
    """Layer 1 puts 3 onto -1: taken away the 2 that fire, 0 is left; three times as much is 6."""
    model, suite, _, tokens_ST = planted
    clean = model(tokens_ST)
    fires = (tokens_ST == TOKEN)[..., None]
    for mode, strength, change in (
        ("ablate", 1.0, -2.0),
        ("scale", 3.0, 4.0),
        ("scale", 0.0, -2.0),
    ):
        with steer(model, suite, FEATURE, 1, strength, mode):  # type: ignore[arg-type]
            steered = model(tokens_ST)
        torch.testing.assert_close(steered, clean + fires * change * model.W_U[DIRECTION])


def test_massive_activations_that_training_left_out_are_neither_scaled_nor_ablated(
    planted: tuple[PlantedModel, SAESuite, Any, torch.Tensor],
) -> None:
    """Where it fires on layer 1 the norm is 3.3, and elsewhere 2.8."""
    model, _, _, tokens_ST = planted
    suite, clean = planted_suite(), model(tokens_ST)
    suite[1].cfg.metadata.max_activation_norm = 3.0
    with steer(model, suite, FEATURE, 1, mode="ablate"):
        assert torch.equal(model(tokens_ST), clean)
    suite[1].cfg.metadata.max_activation_norm = 3.5
    with steer(model, suite, FEATURE, 1, mode="ablate"):
        assert not torch.equal(model(tokens_ST), clean)


def test_the_table_says_what_steering_does_on_each_layer_and_on_all(
    planted: tuple[PlantedModel, SAESuite, Any, torch.Tensor],
) -> None:
    model, suite, found, tokens_ST = planted
    table: Any = steering_effects(model, suite, FEATURE, tokens_ST, 1.0, found=found, n_tokens=1)
    assert table["layers"].tolist() == [*(f"layer {n}" for n in range(4)), "all"]
    assert table["raised"].tolist()[1:3] == [["3"], ["3"]]
    assert table["loss_change"][0] == table["kl"][0] == 0
    next_N = tokens_ST[:, 1:].reshape(-1)
    for n, times in ((1, 1), (4, 2)):
        by_hand = (model(tokens_ST) + times * 2.0 * model.W_U[DIRECTION])[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(by_hand, next_N).item()
        assert table["loss"][n] == pytest.approx(loss, rel=1e-5)
    assert table["kl"][4] > table["kl"][1] > 0


# --- real models ---


@pytest.fixture(scope="module")
def suite(model: HookedTransformer) -> SAESuite:
    cfg = group_config(training_tokens=32 * 10)
    return GroupSAETrainingRunner(cfg, override_dataset=make_tokens(), override_model=model).run()


def hugging_face_suite() -> tuple[Any, SAESuite]:
    """A random model of transformers, and a suite that is trained on it."""
    torch.manual_seed(0)
    settings = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3}
    settings |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": D_VOCAB}
    lm = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **settings)).eval()
    names = [f"model.layers.{n}" for n in range(3)]
    hooked = HookedProxyLM(lm, None)  # type: ignore[arg-type]
    cfg = group_config("0-1,2", hook_name=names[0], training_tokens=32 * 10, prepend_bos=False)
    runner = GroupSAETrainingRunner(cfg, override_dataset=make_tokens(), override_model=hooked)
    return lm, runner.run()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_generates_while_it_is_steered(dtype: torch.dtype) -> None:
    lm, suite = hugging_face_suite()
    hooked = HookedProxyLM(lm, None)  # type: ignore[arg-type]
    found = collect_features(suite, hooked, make_tokens(seed=1), **COUNTS)
    of = found.groups[0]
    c = int(of.layers[0].n_firings_C.argmax())
    lm = lm.to(dtype)
    prompt = torch.tensor(make_tokens(2)["tokens"])[:, :6]
    how = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    clean = lm.generate(prompt, **how)
    n_hooks = count_hooks(lm)
    with steer(lm, suite, of.name(c), strength=100.0, found=found):
        steered = lm.generate(prompt, **how)
        assert lm(prompt).logits.dtype == dtype
    assert steered.shape == clean.shape
    assert not torch.equal(steered, clean)
    assert count_hooks(lm) == n_hooks
    assert torch.equal(lm.generate(prompt, **how), clean)


def count_hooks(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_hooked_transformer_is_steered_as_by_its_own_hooks(
    model: HookedTransformer, suite: SAESuite
) -> None:
    tokens_ST = torch.tensor(make_tokens(4)["tokens"])
    name, sae = "blocks.1.hook_resid_post", suite[1]
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens_ST)
        acts = sae.encode(cache[name])
        index = int((acts != 0).sum((0, 1)).argmax())
        delta = -acts[..., index, None] * sae.W_dec[index]
        by_hook = model.run_with_hooks(
            tokens_ST,
            fwd_hooks=[(name, lambda acts, hook: acts + delta)],  # noqa: ARG005
        )
        with steer(model, suite, index, 1, mode="ablate"):
            steered = model(tokens_ST)
    assert delta.abs().max() > 0
    torch.testing.assert_close(steered, by_hook)


def test_an_error_inside_leaves_the_model_as_it_was(
    model: HookedTransformer, suite: SAESuite
) -> None:
    n_hooks = count_hooks(model)
    with pytest.raises(RuntimeError, match="inside"), steer(model, suite, 0, 1, mode="ablate"):
        raise RuntimeError("inside")
    assert count_hooks(model) == n_hooks


@pytest.mark.parametrize(
    ("args", "kind", "said"),
    [
        (("layers_0-2/48",), ConfigError, "no feature 'layers_0-2/48'; it has layers_0-2/0 to"),
        (("layers_9/1",), ConfigError, "no feature 'layers_9/1'"),
        ((1,), ConfigError, "no feature 1; it has"),
        (("layers_0-2/1", 3, 1.0, "ablate"), ConfigError, "layers_0-2 has no layer 3"),
        (("layers_0-2/1", "all", 1.0, "clamp"), ConfigError, "none of add, scale, ablate"),
        (("layers_0-2/1",), SuiteError, "call suite.features"),
    ],
)
def test_mistakes(
    model: HookedTransformer, suite: SAESuite, args: tuple[Any, ...], kind: Any, said: str
) -> None:
    with pytest.raises(kind, match=said), steer(model, suite, *args):
        pass


def test_another_model(suite: SAESuite) -> None:
    with (
        pytest.raises(HookNameError, match=r"the model has no blocks\.0\.hook_resid_post"),
        steer(torch.nn.Linear(2, 2), suite, "layers_0-2/1", mode="ablate"),
    ):
        pass
