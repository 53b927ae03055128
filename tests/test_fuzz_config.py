"""Whatever a config is given: it is a config that knows its groups, or is refused clearly."""

import json
import math
import traceback
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sae_lens import LanguageModelSAERunnerConfig, LoggingConfig, StandardSAEConfig

from sae_lens_groups import GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError, GroupSAEError, UnknownNameError
from sae_lens_groups.train.prepare import SettledConfig, settle

from .fuzzing import fuzzed, junk, message_of, numbers, scalars, texts
from .test_fuzz import PLAN, layer_groups_texts
from .tiny import ARCHITECTURES, sae_config, settings

# SAELens warns of any `hook_eval`.
FIELDS = [f.name for f in fields(GroupSAERunnerConfig) if f.name not in ("sae", "hook_eval")]
_counts = st.one_of(st.integers(-2, 40), st.integers(1, 10**6), numbers)
_fractions = st.one_of(st.floats(-0.5, 1.5), numbers)
_flags = st.booleans()
_paths = st.one_of(
    st.none(), texts, st.just("plan.json"), st.just("folder"), st.just(Path("folder"))
)
_steps = st.one_of(st.none(), st.integers(-20, 20))
# Values that each field might be given, right and wrong.
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "layer_groups": st.one_of(
        layer_groups_texts, st.sampled_from(["plan.json", "0-2,3", "auto:2"])
    ),
    "amad_threshold": _fractions,
    "plan_tokens": _counts,
    "layers_per_token": _counts,
    "fast_step": st.sampled_from(["auto", "always", "never", "Always", "yes"]),
    "layer_alignment": st.sampled_from(["none", "orthogonal", "affine", "scale", "None"]),
    "init_from": st.one_of(
        _paths, st.sampled_from(["a/b", "a/b:c", "release:id", "a//b", ":", "/"])
    ),
    "init_direction": st.sampled_from(["nearest", "forward", "backward", "up"]),
    "init_parameters": st.sampled_from(["all", "encoder", "decoder", "none"]),
    "init_alignment": st.sampled_from(["none", "scale", "orthogonal", "affine", "procrustes"]),
    "init_keep_layers": _flags,
    "token_fraction": st.one_of(st.none(), _fractions),
    "hook_name": st.one_of(texts, st.sampled_from(["blocks.3.x", "blocks.x", "a.b.1", "../a.0.x"])),
    "hook_head_index": st.one_of(st.none(), st.integers(-2, 9)),
    "context_size": _counts,
    "training_tokens": _counts,
    "train_batch_size_tokens": _counts,
    "store_batch_size_prompts": _counts,
    "n_batches_in_buffer": _counts,
    "seqpos_slice": st.lists(_steps, max_size=4).map(tuple),
    "sequence_separator_token": st.sampled_from([None, "bos", "eos", "sep", 3, "cls", 1.5]),
    "activations_mixing_fraction": _fractions,
    "exclude_special_tokens": st.one_of(_flags, st.lists(scalars, max_size=3)),
    "device": st.sampled_from(
        ["cpu", "cuda", "cuda:99", "meta", "with_model", "CPU", "mps", "xla"]
    ),
    "llm_device": st.sampled_from([None, "cpu", "gpu", "cpu:x", -1, 7]),
    "act_store_device": st.sampled_from([None, "cpu", "with_model", "", "meta"]),
    "dtype": st.sampled_from(["float32", "bfloat16", "torch.float16", "int8", "double", None]),
    "lr": _fractions,
    "lr_end": st.one_of(st.none(), _fractions),
    "lr_scheduler_name": st.sampled_from(
        ["constant", "cosineannealing", "CosineAnnealing", "step"]
    ),
    "adam_beta1": _fractions,
    "adam_beta2": _fractions,
    "prefetch_llm_batches": st.one_of(_flags, _counts),
    "seed": _counts,
    "verbose": _flags,
    "logger": st.builds(
        LoggingConfig,
        run_name=st.one_of(st.none(), scalars),
        wandb_log_frequency=_counts,
        log_to_wandb=_flags,
    ),
    **dict.fromkeys(
        ["from_pretrained_path", "resume_from_checkpoint", "checkpoint_path", "output_path"], _paths
    ),
}


def changes(likely: dict[str, st.SearchStrategy[Any]], names: list[str]) -> st.SearchStrategy[Any]:
    """Some fields with a value each: one they may well be given, or anything."""
    one = st.sampled_from(names).flatmap(
        lambda name: st.tuples(
            st.just(name),
            st.one_of(likely[name], likely[name], junk) if name in likely else junk,
        )
    )
    return st.lists(one, max_size=5).map(dict)


SAE_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "d_in": _counts,
    "d_sae": _counts,
    "k": _counts,
    "dtype": st.sampled_from(["float32", "bfloat16", "int8", None]),
    "normalize_activations": st.sampled_from(["none", "layer_norm", "expected_average_only_in"]),
    "l1_coefficient": _fractions,
    "l1_warm_up_steps": _counts,
    "decoder_init_norm": st.one_of(st.none(), _fractions),
    "matryoshka_widths": st.lists(_counts, max_size=3),
}


def tried(make: Callable[[], GroupSAERunnerConfig[Any]]) -> SettledConfig | None:
    """The config that `make` makes, settled; None where it is refused with a message."""
    try:
        return settle(make())
    except GroupSAEError as error:
        message_of(error)
        return None
    except ValueError as error:  # what SAELens's config refuses by itself
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        assert raised_in.parts[-2:] == ("sae_lens", "config.py")
        return None


def require_usable(settled: SettledConfig) -> None:
    """What the runner relies on without another look."""
    cfg = settled.cfg
    assert cfg.training_tokens >= cfg.train_batch_size_tokens >= 1
    assert cfg.n_batches_in_buffer * cfg.rows_per_prompt >= cfg.train_batch_size_tokens
    assert math.isfinite(cfg.lr)
    assert isinstance(settled.measures_distances, bool)
    assert cfg.hook_template.layer_of(cfg.hook_template.hook_name(2)) == 2
    assert isinstance(cfg.to_dict(), dict)
    try:
        assert settled.measures_distances or settled.groups_of(4)
    except GroupSAEError as error:
        message_of(error)


@pytest.fixture
def _things_to_find(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.json")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "runner_cfg.json").write_text('{"training_tokens": 100000}')


@pytest.mark.usefixtures("_things_to_find")
@fuzzed(250)
@given(given_flags=changes(LIKELY, FIELDS))
def test_any_flags_over_a_saelens_config_are_usable_or_refused(given_flags: dict[str, Any]) -> None:
    theirs = LanguageModelSAERunnerConfig(**settings(checkpoint_path="checkpoints"))
    flags = {"layer_groups": "0-2,3", **given_flags}
    settled = tried(lambda: GroupSAERunnerConfig.from_sae_lens(theirs, **flags))
    if settled is not None:
        require_usable(settled)


@pytest.mark.usefixtures("_things_to_find")
@fuzzed(250)
@given(
    architecture=st.sampled_from(ARCHITECTURES),
    of_sae=changes(SAE_FIELDS, list(SAE_FIELDS)),
    given_settings=changes(LIKELY, FIELDS),
)
def test_any_settings_are_usable_or_refused(
    architecture: str, of_sae: dict[str, Any], given_settings: dict[str, Any]
) -> None:
    sae = sae_config(architecture)
    for name, value in of_sae.items():
        if hasattr(sae, name):
            setattr(sae, name, value)
    chosen = {**settings(layer_groups="even:2", sae=sae, init_from="folder"), **given_settings}
    settled = tried(lambda: GroupSAERunnerConfig(**chosen))
    if settled is not None:
        require_usable(settled)


# --- what the fuzzing found ---


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"layers_per_token": "2"}, "layers_per_token is '2'; it takes a whole number"),
        ({"amad_threshold": None}, "amad_threshold is None; it takes a number"),
        ({"layer_groups": 3}, "layer_groups is 3; it takes text"),
        ({"layer_alignment": ["none"]}, "layer_alignment is ['none']; it takes text"),
        ({"token_fraction": "a fifth"}, "token_fraction is 'a fifth'; it takes a number or None"),
        ({"streaming": "False"}, "streaming is 'False'; it takes True or False"),
        ({"sequence_separator_token": "cls"}, "it takes a whole number of up to 64 bits or 'bos'"),
        ({"exclude_special_tokens": [1.5]}, "it takes True or False or a list, each item a whole"),
        ({"context_size": 10**12}, "context_size is 1000000000000; it has to be below 100,000,000"),
        ({"train_batch_size_tokens": 0}, "train_batch_size_tokens is 0; it has to be at least 1"),
        ({"training_tokens": 10**400}, "it takes a whole number of up to 64 bits"),
        ({"feature_sampling_window": 0}, "feature_sampling_window is 0; it has to be at least 1"),
        ({"logger": LoggingConfig(wandb_log_frequency=0)}, "logger.wandb_log_frequency is 0"),
        ({"lr": math.nan}, "lr is nan; it takes a number"),
        ({"adam_beta1": 1.0}, "adam_beta1 is 1.0; it has to be below 1"),
        ({"seed": -1}, "seed is -1; it has to be at least 0"),
        ({"seqpos_slice": ()}, "seqpos_slice is (); give the first position"),
        ({"seqpos_slice": (0, 8, 0)}, "seqpos_slice is (0, 8, 0); give the first position"),
        ({"seqpos_slice": (16, None)}, "leaves none of the 16 positions of a prompt"),
        (
            {"seqpos_slice": (1,)},
            "leaves one of the 16 positions of a prompt (context_size); to leave",
        ),
        ({"seqpos_slice": (1,)}, "give (1, None), on the command line 1 16"),
        ({"seqpos_slice": (-1, None)}, "leaves one of the 16 positions"),
        ({"seqpos_slice": (0, 16, 16)}, "leaves one of the 16 positions"),
        ({"device": ["cpu"]}, "device is ['cpu'], which cannot be used here"),
        ({"sae": StandardSAEConfig(d_in=16, d_sae=32)}, "it takes a config that trains"),
        ({"sae": sae_config(k=0)}, "k is 0; at least one feature has to be active"),
        ({"sae": sae_config(d_sae=0)}, "sae.d_sae is 0; it has to be at least 1"),
    ],
)
def test_a_value_that_a_field_does_not_take_is_named(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        GroupSAERunnerConfig(**settings(**{"layer_groups": "0-2,3", **flags}))
    assert message in str(caught.value)


def test_a_flag_that_does_not_exist_names_the_similar_ones() -> None:
    theirs = LanguageModelSAERunnerConfig(**settings())
    with pytest.raises(UnknownNameError, match="no field 'layer_group'; did you mean layer_groups"):
        GroupSAERunnerConfig.from_sae_lens(theirs, layer_group="0-3")
    with pytest.raises(ConfigError, match="layer_groups is not given"):
        GroupSAERunnerConfig.from_sae_lens(theirs)
    not_a_config: Any = {"layer_groups": "0-3"}
    with pytest.raises(ConfigError, match="from_sae_lens takes a LanguageModelSAERunnerConfig"):
        GroupSAERunnerConfig.from_sae_lens(not_a_config)


def test_values_of_another_type_that_mean_the_same_become_what_is_declared() -> None:
    cfg = GroupSAERunnerConfig(
        **settings(
            layer_groups="0-2,3",
            training_tokens=1e4,
            lr=np.float32(0.5),
            seed=np.int64(3),
            output_path=Path("output"),
        )
    )
    assert (cfg.training_tokens, cfg.lr, cfg.seed, cfg.output_path) == (10_000, 0.5, 3, "output")
    assert json.dumps(cfg.to_dict())
