"""Activations that SAELens's own runner cached, a folder for each hook, feed a run."""

from typing import Any

import pytest
from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig, cache_activations_runner
from transformer_lens import HookedTransformer

from sae_lens_groups import GroupSAETrainingRunner, SAESuite
from sae_lens_groups.errors import CacheError

from .test_cached_activations import CACHED, N_PROMPTS, NORMALISED, assert_same_suites
from .tiny import CONTEXT_SIZE, D_IN, group_config, make_model, make_tokens

pytestmark = pytest.mark.seam


@pytest.fixture(autouse=True)
def _hand_over_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAELens's runner loads a model by its name, which the tests' has not."""
    monkeypatch.setattr(cache_activations_runner, "load_model", lambda **_: make_model())


def cache(
    layer: int, seed: int = 0, site: str = "hook_resid_post", seqpos_slice: Any = (None,)
) -> None:
    """What SAELens writes of a hook."""
    cfg = CacheActivationsRunnerConfig(
        dataset_path="tokens",
        model_name="tests",
        model_batch_size=4,
        hook_name=f"blocks.{layer}.{site}",
        d_in=D_IN,
        training_tokens=N_PROMPTS * CONTEXT_SIZE,
        context_size=CONTEXT_SIZE,
        new_cached_activations_path=f"caches/{layer}",
        seqpos_slice=seqpos_slice,
        shuffle=False,
        buffer_size_gb=1e-4,
        device="cpu",
        prepend_bos=False,
    )
    CacheActivationsRunner(cfg, override_dataset=make_tokens(N_PROMPTS, seed)).run()


def trained(
    layer_groups: str, path: str | None, model: HookedTransformer | None = None, **changes: Any
) -> SAESuite:
    cached = {**CACHED, "cached_activations_path": path}
    return GroupSAETrainingRunner(
        group_config(layer_groups, **NORMALISED, **changes, **(cached if path else {})),
        override_dataset=make_tokens(N_PROMPTS),
        override_model=model or make_model(),
    ).run()


@pytest.mark.parametrize(("layer_groups", "path"), [("0-1,3", "caches"), ("3", "caches/3")])
def test_they_train_the_saes_that_the_model_trains(layer_groups: str, path: str) -> None:
    for layer in (0, 1, 3):
        cache(layer)
    assert_same_suites(trained(layer_groups, None), trained(layer_groups, path))


@pytest.mark.parametrize("positions", [(0, -2), (3, None), (None, None, 2)])
def test_parts_of_prompts_are_taken_as_they_were_cached(positions: tuple[int | None, ...]) -> None:
    cache(1, seqpos_slice=positions)
    of_part: dict[str, Any] = {"seqpos_slice": positions}
    assert_same_suites(trained("1", None, **of_part), trained("1", "caches", **of_part))


def other_tokens() -> None:
    cache(1, seed=1)


def other_site() -> None:
    cache(1, site="hook_mlp_out")


def no_layer_1() -> None:
    pass


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (
            other_tokens,
            r"'caches/1' cannot be read: it is of other tokens, width or dtype than 'caches/0'; name",
        ),
        (other_site, r"it holds activations of blocks.1.hook_mlp_out, and this run trains at"),
        (no_layer_1, "'caches' holds layers 0, and this run needs layer 1 too"),
    ],
)
def test_caches_that_do_not_fit_are_refused(prepare: Any, message: str) -> None:
    cache(0)
    prepare()
    with pytest.raises(CacheError, match=message):
        trained("0-1", "caches")


def test_another_model_is_told_by_the_first_prompt() -> None:
    cache(1)
    with pytest.raises(CacheError, match=r"of blocks.1.hook_resid_post than this model gives for"):
        trained("1", "caches/1", make_model(norms=(1, 2, 1, 1)))


def test_a_prompt_of_another_length_is_refused() -> None:
    cache(1)
    n = CONTEXT_SIZE
    with pytest.raises(
        CacheError, match=f"{n} positions of every prompt, and this run trains on {n - 1}"
    ):
        trained("1", "caches/1", seqpos_slice=(1, None))
