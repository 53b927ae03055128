"""Activations on disk train the same SAEs as the language model does."""

import json
import os
import signal
from collections import namedtuple
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from datasets import Dataset
from sae_lens import (
    SAE,
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
)
from safetensors.torch import load_file
from transformer_lens import HookedTransformer

from sae_lens_groups import (
    GroupSAERunnerConfig,
    GroupSAETrainingRunner,
    SAESuite,
    cache_activations,
)
from sae_lens_groups.cli import main
from sae_lens_groups.errors import (
    CacheError,
    CheckpointError,
    ConfigError,
    DatasetError,
    NonFiniteActivationsError,
    OutputFolderError,
    TrainingInterrupted,
    UnknownNameError,
)
from sae_lens_groups.train.cache import identity
from sae_lens_groups.train.cache.layout import CacheLayout
from sae_lens_groups.train.cache.manifest import CacheManifest
from sae_lens_groups.train.cache.read import CachedActivations
from sae_lens_groups.train.cache.shards import write_dataset

from .test_cli import arguments
from .tiny import (
    CONTEXT_SIZE,
    D_IN,
    HOOK_NAME,
    SMALL_LM_BATCHES,
    group_config,
    make_model,
    make_tokens,
    sae_config,
    settings,
)

N_PROMPTS = 400
NORMALISED = {"sae": sae_config(normalize_activations="expected_average_only_in")}
CACHED: dict[str, Any] = {"use_cached_activations": True, "cached_activations_path": "cache"}


def write_cache(
    layer_groups: str = "0-2,3",
    cache_rows: str = "all",
    cache_dtype: str = "float32",
    model: HookedTransformer | None = None,
    n_prompts: int = N_PROMPTS,
    **changes: Any,
) -> CacheManifest:
    """Caches what a run with these settings reads, in the folder `cache`."""
    cfg = group_config(layer_groups, **{"cached_activations_path": "cache", **changes})
    folder = cache_activations(
        cfg,
        cache_rows=cache_rows,
        cache_dtype=cache_dtype,
        override_dataset=make_tokens(n_prompts),
        override_model=model or make_model(),
    )
    return CacheManifest.load(folder)


def make_runner(
    layer_groups: str = "0-2,3", n_prompts: int = N_PROMPTS, **changes: Any
) -> GroupSAETrainingRunner:
    return GroupSAETrainingRunner(
        group_config(layer_groups, **changes),
        override_dataset=make_tokens(n_prompts),
        override_model=make_model(),
    )


def trained(layer_groups: str = "0-2,3", **changes: Any) -> SAESuite:
    return make_runner(layer_groups, **changes).run()


def assert_same_suites(first: SAESuite, second: SAESuite) -> None:
    assert first.keys() == second.keys()
    for name, sae in first.items():
        for parameter, weight in sae.state_dict().items():
            assert torch.equal(weight, second[name].state_dict()[parameter]), (name, parameter)
    assert first.manifest.dataset_rows_read == second.manifest.dataset_rows_read
    assert first.manifest.scaling_factors == second.manifest.scaling_factors


# --- the same weights ---


@pytest.mark.parametrize("cache_rows", ["all", "drawn"])
@pytest.mark.parametrize(
    ("layer_groups", "changes"),
    [
        ("0-2,3", {}),
        ("each", {}),
        ("0-2,3", NORMALISED),
        ("0-2,3", {"layers_per_token": 2}),
        ("0-2,3", {"exclude_special_tokens": [3, 5, 59], "layers_per_token": 2}),
        ("each", {"prefetch_llm_batches": 3}),
        ("0-1,2-3", {"seqpos_slice": (2, -1), "n_batches_in_buffer": 20}),
        ("0-3", {"activations_mixing_fraction": 0.0, "train_batch_size_tokens": 48}),
        ("0-2", {"hook_name": "blocks.0.attn.hook_z", "layer_alignment": "orthogonal"}),
        ("0-3", {"hook_name": "blocks.0.hook_attn_out", "autocast_lm": True}),  # in bfloat16
        ("even:2", {"seed": 11, "sae": sae_config("standard")}),
    ],
)
def test_training_from_a_cache_gives_the_weights_of_training_from_the_model(
    layer_groups: str, changes: dict[str, Any], cache_rows: str
) -> None:
    changes = {**changes, "plan_tokens": 500}
    write_cache(layer_groups, cache_rows, **changes)
    runner = make_runner(layer_groups, **changes, **CACHED)
    cached = runner.run()  # any warning, as of a cache that starts over, is an error
    plain = make_runner(layer_groups, **changes)
    assert_same_suites(cached, plain.run())
    assert runner.activations_store.rows.n_read == plain.activations_store.rows.n_read


@pytest.mark.parametrize("mixing_fraction", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n_batches_in_buffer", [2, 36, 200])
@pytest.mark.parametrize("changes", [{}, NORMALISED])
def test_exactly_the_prompts_are_cached_that_a_run_reads(
    changes: dict[str, Any], n_batches_in_buffer: int, mixing_fraction: float
) -> None:
    changes = {
        **changes,
        "n_batches_in_buffer": n_batches_in_buffer,
        "activations_mixing_fraction": mixing_fraction,
        "training_tokens": 500,
    }
    manifest = write_cache("0-1", **changes)
    runner = make_runner("0-1", **changes, **CACHED)
    runner.run()
    state = runner.activations_store.state_dict()
    assert int(state["current_row_idx"]) == manifest.n_prompts


def test_other_layers_groups_and_seeds_are_served_from_all_rows() -> None:
    write_cache("0-3", exclude_special_tokens=[1])
    changes = {"seed": 3, "layers_per_token": 1, "train_batch_size_tokens": 64}
    cached = trained("1-2,3", **changes, **CACHED)
    assert_same_suites(cached, trained("1-2,3", **changes))


def test_some_of_the_groups_are_served_from_drawn_rows() -> None:
    write_cache("0-1,2-3", "drawn")
    assert_same_suites(trained("2-3", **CACHED), trained("2-3"))


def test_batches_of_other_sizes_read_the_same_rows() -> None:
    """A piece of the file may then begin in the middle of an LM batch."""
    write_cache("each", **SMALL_LM_BATCHES)
    changes = {
        **SMALL_LM_BATCHES,
        "store_batch_size_prompts": 3,
        "activations_mixing_fraction": 0.0,
    }
    cached = trained("each", **changes, **CACHED)
    plain = trained("each", **changes)
    for name, sae in cached.items():
        # The model itself rounds differently in batches of other sizes.
        torch.testing.assert_close(sae.W_dec, plain[name].W_dec, rtol=1e-3, atol=1e-4)


def test_all_rows_of_a_short_dataset_start_over_where_the_dataset_does() -> None:
    # The last batch of 4 prompts lacks one.
    short: dict[str, Any] = {"n_prompts": 43, **SMALL_LM_BATCHES}
    assert write_cache(**short).n_prompts == 40
    with pytest.warns(UserWarning, match="the cache ended after 640 tokens and starts over"):
        cached = trained(**short, **CACHED)
    with pytest.warns(UserWarning, match="the dataset ended after 640 tokens and starts over"):
        plain = trained(**short)
    for name, sae in cached.items():
        assert torch.equal(sae.W_dec, plain[name].W_dec)


def test_drawn_rows_of_a_short_dataset_are_drawn_anew_each_time() -> None:
    short: dict[str, Any] = {"n_prompts": 43, **SMALL_LM_BATCHES}
    with pytest.warns(UserWarning, match="the dataset ended after 640 tokens and starts over"):
        assert write_cache(cache_rows="drawn", **short).n_prompts == 64
    with pytest.warns(UserWarning, match="the dataset ended after 640 tokens and starts over"):
        plain = trained(**short)
    assert_same_suites(trained(**short, **CACHED), plain)


@pytest.mark.seam
@pytest.mark.parametrize("layer", [0, 3])
def test_saelens_trains_from_a_layer_of_the_cache(layer: int) -> None:
    """With the weights that it trains without a cache."""
    write_cache("each")

    def run(**changes: Any) -> dict[str, torch.Tensor]:
        changes["hook_name"] = f"blocks.{layer}.hook_resid_post"
        cfg = LanguageModelSAERunnerConfig(**settings(**changes))
        torch.manual_seed(cfg.seed)
        runner = LanguageModelSAETrainingRunner(
            cfg, override_dataset=make_tokens(N_PROMPTS), override_model=make_model()
        )
        return runner.run().state_dict()

    cached, plain = run(**CACHED), run()
    for name, weight in cached.items():
        assert torch.equal(weight, plain[name]), name


def test_float16_is_half_as_large_and_nearly_the_same() -> None:
    exact = write_cache("0-2,3", cached_activations_path="exact")
    half = write_cache("0-2,3", cache_dtype="float16")
    sizes = [
        sum(path.stat().st_size for path in Path(folder).glob("*.arrow"))
        for folder in ("exact", "cache")
    ]
    assert 0.5 < sizes[1] / sizes[0] < 0.65  # token ids and Arrow's offsets stay as they are
    prompts = range(exact.n_prompts)
    rows = [CachedActivations(f).rows_ND(HOOK_NAME, prompts) for f in ("exact", "cache")]
    assert (half.activations_dtype, rows[1].dtype) == ("float32", torch.float16)
    torch.testing.assert_close(rows[1].float(), rows[0], rtol=1e-3, atol=1e-4)
    assert len(trained("0-2,3", **CACHED)) == 4


@pytest.mark.seam
def test_in_training_evals_take_nothing_from_the_cache() -> None:
    write_cache(exclude_special_tokens=[2])
    changes: dict[str, Any] = {**CACHED, "exclude_special_tokens": [2], "n_eval_batches": 1}
    logger = LoggingConfig(wandb_log_frequency=5, eval_every_n_wandb_logs=1)
    evaluated = trained(**changes, logger=logger, eval_batch_size_prompts=2)
    plain = trained(**changes)
    for name, sae in evaluated.items():
        assert torch.equal(sae.W_dec, plain[name].W_dec)


# --- on disk ---


def test_a_folder_is_a_dataset_with_a_column_for_each_layer() -> None:
    manifest = write_cache("0,2", seqpos_slice=(1, None))
    dataset: Any = datasets.load_from_disk("cache").with_format("torch")
    names = ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post"]
    assert dataset.column_names == [*names, "token_ids", "dataset_rows_read"]
    first = dataset[:3]
    batch_tokens = torch.tensor(make_tokens(N_PROMPTS)["tokens"][:4])
    _, acts = make_model().run_with_cache(batch_tokens)
    for name in names:
        assert torch.equal(first[name], acts[name][:3, 1:])
    assert torch.equal(first["token_ids"].long(), batch_tokens[:3, 1:])
    assert manifest.n_tokens == len(dataset) * (CONTEXT_SIZE - 1)


def test_drawn_rows_take_as_much_for_a_group_as_for_a_layer() -> None:
    manifest = write_cache("0-2,3", "drawn", exclude_special_tokens=[1, 2])
    cache = CachedActivations("cache")
    group, alone = manifest.groups
    prompts = range(8)
    for which, n_layers in ((group, 3), (alone, 1)):
        rows_ND = cache.rows_ND(which.name, prompts)
        positions_N = cache.positions_N(which.name, prompts)
        is_excluded_N = torch.isin(cache.token_ids_PT(prompts).flatten(), torch.tensor([1, 2]))
        assert rows_ND.shape == (8 * CONTEXT_SIZE, D_IN)
        assert set(positions_N.tolist()) == {-1, *range(n_layers)}
        assert torch.equal(positions_N == -1, is_excluded_N)
        assert (rows_ND[is_excluded_N] == 0).all()


def test_the_manifest_says_what_the_activations_were_made_of() -> None:
    write_cache("0-2,3", "drawn", layers_per_token=2)
    said = json.loads(Path("cache/cached_activations.json").read_text())
    assert said["settings"]["model_name"] == "tiny"
    assert said["settings"]["hook_name"] == "blocks.{layer}.hook_resid_post"
    assert said["settings"]["context_size"] == CONTEXT_SIZE
    assert said["layer_groups"] == "0-2,3"
    assert said["draw_settings"] == {
        "seed": 7,
        "layers_per_token": 2,
        "max_activation_norm_multiple": 10.0,
        "exclude_special_tokens": False,
    }
    assert {"sae-lens-groups", "sae-lens", "datasets", "torch"} == said["versions"].keys()


def test_rows_are_read_without_a_copy() -> None:
    write_cache()
    cache = CachedActivations("cache")
    again = cache.rows_ND(HOOK_NAME, range(4, 8))
    assert again.data_ptr() == cache.rows_ND(HOOK_NAME, range(4, 8)).data_ptr()
    assert again.data_ptr() == cache.rows_ND(HOOK_NAME, range(5, 8)).data_ptr() - again[:16].nbytes


def test_many_files_are_one_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = CacheLayout(
        row_columns=("a",),
        position_columns=(),
        tokens_per_prompt=4,
        rows_per_prompt=4,
        d_in=D_IN,
        dtype="float32",
    )
    rows_ND = torch.randn(10 * 4, D_IN)
    pieces = (
        layout.encode(
            {
                "a": rows_ND[first * 4 : (first + 2) * 4],
                "token_ids": torch.arange(8, dtype=torch.int32),
                "dataset_rows_read": torch.tensor([first, first + 1]),
            }
        )
        for first in range(0, 10, 2)
    )
    monkeypatch.setattr("sae_lens_groups.train.cache.shards._SHARD_BYTES", 500)
    assert write_dataset(tmp_path, layout.features, pieces) == 10
    assert len(list(tmp_path.glob("data-0000?-of-00005.arrow"))) == 5
    dataset: Any = datasets.load_from_disk(str(tmp_path)).with_format("torch")
    assert torch.equal(dataset[:]["a"].reshape(-1, D_IN), rows_ND)
    assert dataset[:]["dataset_rows_read"].tolist() == list(range(10))


@pytest.mark.parametrize("cache_rows", ["all", "drawn"])
def test_the_size_is_known_before(cache_rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_cache("0-2,3", cache_rows, layers_per_token=2)
    size = manifest.n_prompts * manifest.layout.bytes_per_prompt
    assert sum(path.stat().st_size for path in Path("cache").glob("*.arrow")) == pytest.approx(
        size, rel=0.25
    )  # Arrow's own headers, which are large beside prompts this small
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(size - 1))
    with pytest.raises(CacheError) as caught:
        write_cache("0-2,3", cache_rows, layers_per_token=2, cached_activations_path="other")
    assert str(caught.value) == (
        f"cached_activations_path 'other' would take 0.0 GB for {manifest.n_tokens:,} tokens, and "
        "its disk has 0.0 GB left; lower training_tokens or name fewer layers in layer_groups, or "
        "set cache_rows to drawn or cache_dtype to float16"
    )


def test_a_cache_is_whole_or_absent(tmp_path: Path) -> None:
    model = make_model()
    with torch.no_grad():
        model.W_E[17] = torch.nan
    tokens = list(make_tokens(N_PROMPTS, highest=17)["tokens"])
    tokens[30][3] = 17  # all is well until then
    cfg = group_config("0-1,2-3", cached_activations_path="cache")
    for cache_rows in ("all", "drawn"):
        with pytest.raises(NonFiniteActivationsError) as caught:
            cache_activations(
                cfg,
                cache_rows=cache_rows,
                override_model=model,
                override_dataset=Dataset.from_dict({"tokens": tokens}),
            )
        assert "language model's activations at layer" in str(caught.value)
        assert "hold NaN or infinity in the prompts before row 32 of" in str(caught.value)
        assert not list(tmp_path.iterdir())


def test_a_damaged_cache_names_the_layer_that_is_not_finite() -> None:
    write_cache("0-1,2-3")
    (path,) = Path("cache").glob("*.arrow")
    row = CachedActivations("cache").rows_ND("blocks.2.hook_resid_post", range(4))[1]
    content = path.read_bytes()
    broken = content.replace(row.numpy().tobytes(), row.mul(torch.inf).numpy().tobytes())
    path.write_bytes(broken)
    with pytest.raises(NonFiniteActivationsError, match=r"layer 2 \(group layers_2-3\) hold NaN"):
        trained("2-3", layers_per_token=2, **CACHED)


@pytest.mark.parametrize("cache_rows", ["all", "drawn"])
def test_activations_beyond_float16_are_refused(cache_rows: str) -> None:
    model = make_model(norms=(1, 1e7))
    with pytest.raises(CacheError) as caught:
        write_cache("0,1", cache_rows, "float16", model)
    column = "blocks.1.hook_resid_post" if cache_rows == "all" else "layers_1"
    assert str(caught.value).startswith(f"the activations of {column} reach ")
    assert str(caught.value).endswith(", which is beyond float16; set cache_dtype to float32")


# --- checkpoints ---


@pytest.mark.parametrize("cache_rows", ["all", "drawn"])
def test_a_resumed_run_reads_on_where_the_first_one_stopped(
    cache_rows: str, tmp_path: Path
) -> None:
    # More than the run takes, as a resumed one fills its buffer anew.
    manifest = write_cache("0-2,3", cache_rows, training_tokens=3000)
    changes = {**CACHED, **SMALL_LM_BATCHES, "checkpoint_path": str(tmp_path / "ckpt")}
    runner = make_runner(**changes)
    store = runner.activations_store
    next_tokens, n_read = store.next_tokens, 0

    def stop_later(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal n_read
        n_read += 1
        if n_read == 9:
            os.kill(os.getpid(), signal.SIGINT)
        return next_tokens(*args, **kwargs)

    store.next_tokens = stop_later  # type: ignore[method-assign]
    with pytest.raises(TrainingInterrupted) as caught:
        runner.run()
    checkpoint = caught.value.checkpoint
    assert checkpoint is not None
    saved = load_file(checkpoint / "activations_store_state.safetensors")
    assert int(saved["current_row_idx"]) == 9 * 4
    resumed = make_runner(**changes, resume_from_checkpoint=str(checkpoint))
    store = resumed.activations_store
    next_tokens, read = store.next_tokens, []

    def note(*args: Any, **kwargs: Any) -> torch.Tensor:
        read.append(next_tokens(*args, **kwargs))
        return read[-1]

    store.next_tokens = note  # type: ignore[method-assign]
    resumed.run()
    tokens = torch.tensor(make_tokens(N_PROMPTS)["tokens"])
    assert torch.equal(torch.cat(read), tokens[9 * 4 : (9 + len(read)) * 4])
    assert int(store.state_dict()["current_row_idx"]) == (9 + len(read)) * 4 <= manifest.n_prompts


def test_a_checkpoint_goes_on_as_it_began(tmp_path: Path) -> None:
    write_cache()
    make_runner(checkpoint_path=str(tmp_path / "ckpt"), save_final_checkpoint=True).run()
    (checkpoint,) = (tmp_path / "ckpt").glob("*/final_960")
    with pytest.raises(CheckpointError, match="was made with use_cached_activations=False, and"):
        make_runner(resume_from_checkpoint=str(checkpoint), training_tokens=2000, **CACHED)


# --- mistakes ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_name": "large"},
            "was made with model_name='tiny', and this run asks for 'large'; use the same, or write "
            "other activations with `sae-lens-groups cache`",
        ),
        (
            {"hook_name": "blocks.0.hook_mlp_out"},
            "was made with hook_name='blocks.{layer}.hook_resid_post', and this run asks for "
            "'blocks.{layer}.hook_mlp_out'",
        ),
        ({"context_size": 8}, "was made with context_size=16, and this run asks for 8"),
        ({"seqpos_slice": (1, 9)}, "was made with seqpos_slice=[None], and this run asks for [1, "),
        ({"dataset_path": "other/text"}, "was made with dataset_path='', and this run asks for 't"),
        ({"sae": sae_config(d_in=32)}, "holds activations of d_in=16, and this run asks for 32"),
        (
            {"store_batch_size_prompts": 4, "n_batches_in_buffer": 200},
            "tokens in whole batches of 4 prompts, less than the shuffle buffer of "
            "n_batches_in_buffer * 16 positions of a prompt = 3,200 tokens; lower n_batches_in_buffer or",
        ),
        (
            {"layer_groups": "0-3"},
            "holds layers 0-2, and this run needs layer 3 too; leave it out of layer_groups, or",
        ),
    ],
)
@pytest.mark.parametrize("cache_rows", ["all", "drawn"])
def test_activations_of_another_run_are_refused(
    changes: dict[str, Any], message: str, cache_rows: str
) -> None:
    write_cache("0-2", cache_rows)
    with pytest.raises(CacheError) as caught:
        make_runner(**{"layer_groups": "0-2", **changes, **CACHED})
    assert str(caught.value).startswith("cached_activations_path 'cache' ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, "holds rows that were drawn with seed=7, and this run asks for 8"),
        ({"layers_per_token": 2}, "drawn with layers_per_token=1, and this run asks for 2"),
        ({"exclude_special_tokens": [1]}, "exclude_special_tokens=False, and this run asks for [1"),
        (
            {"layer_groups": "0-2"},
            "holds rows drawn for the groups 0-1,2, and this run has the group 0-2; train these "
            "groups or some of them, or write other activations with `sae-lens-groups cache`",
        ),
    ],
)
def test_rows_drawn_otherwise_are_refused(changes: dict[str, Any], message: str) -> None:
    write_cache("0-1,2", "drawn")
    with pytest.raises(CacheError) as caught:
        make_runner(**{"layer_groups": "0-1", **changes, **CACHED})
    assert message in str(caught.value)


@pytest.mark.parametrize("cache_rows", ["all", "drawn"])
def test_several_rows_of_a_token_fill_the_buffer_sooner(cache_rows: str) -> None:
    """256 tokens with four rows of each, where the buffer takes 512 rows."""
    short: dict[str, Any] = {
        "layers_per_token": 4,
        "training_tokens": 256,
        "n_batches_in_buffer": 32,
    }
    assert write_cache("0-3", cache_rows, **short).n_tokens < 512
    assert_same_suites(trained("0-3", **short), trained("0-3", **short, **CACHED))


def _no_folder() -> None:
    pass


def _other_files() -> None:
    Path("cache").mkdir()
    Path("cache/notes.txt").touch()


def _another_dataset() -> None:
    make_tokens().save_to_disk("cache")


def _cut_short() -> None:
    write_cache()
    (path,) = Path("cache").glob("*.arrow")
    path.write_bytes(path.read_bytes()[:5000])


def _broken_manifest() -> None:
    write_cache()
    Path("cache/cached_activations.json").write_text("{}")


def _newer_format() -> None:
    write_cache()
    path = Path("cache/cached_activations.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 2}))


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (
            _no_folder,
            "'cache' does not exist; name a folder that `sae-lens-groups cache` or SAELens",
        ),
        (_other_files, "has no cached_activations.json, so it holds no cached activations"),
        (_another_dataset, "SAELens's cache 'cache' cannot be read: it lacks token_ids or"),
        (_cut_short, "'cache' is damaged: "),
        (
            _broken_manifest,
            "cannot be read: format_version is missing; write the activations again",
        ),
        (
            _newer_format,
            "format_version is 2, and this version of sae-lens-groups reads up to 1; upgrade",
        ),
    ],
)
def test_folders_that_hold_no_usable_activations_are_refused(prepare: Any, message: str) -> None:
    prepare()
    with pytest.raises(CacheError) as caught:
        make_runner(**CACHED)
    assert message in str(caught.value)


def test_the_settings_of_a_cache_are_checked() -> None:
    with pytest.raises(ConfigError, match="cached_activations_path is not given; name the folder"):
        group_config(use_cached_activations=True)
    with pytest.raises(ConfigError, match="cached_activations_path is not given; name the folder"):
        cache_activations(group_config(), override_model=make_model())
    with pytest.raises(UnknownNameError, match="cache_rows 'some' is not known; known names: all,"):
        write_cache(cache_rows="some")
    with pytest.raises(UnknownNameError, match="cache_dtype 'bfloat16' is not known; known names"):
        write_cache(cache_dtype="bfloat16")
    with pytest.raises(
        DatasetError, match="the dataset gives 64 tokens in whole batches of 4 prom"
    ):
        write_cache(n_prompts=7, **SMALL_LM_BATCHES)
    with pytest.raises(ConfigError, match=r"d_in is 8, but blocks\.{layer}\.hook_resid_post is"):
        write_cache(sae=sae_config(d_in=8))
    assert not Path("cache").exists()
    write_cache()
    with pytest.raises(OutputFolderError, match="'cache' already holds cached activations, which"):
        write_cache()


# --- command line ---


def test_one_command_caches_and_another_trains(
    text_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--dataset_path", str(text_folder), "--exclude_special_tokens", "True"]
    path = ["--cached_activations_path", "a cache"]
    assert main(["cache", *arguments(*data, *path)]) == 0
    shown = capsys.readouterr().out
    assert "Caching about 2,480 tokens of 12 layers: 0.01 GB in a cache\n" in shown
    assert (
        "add to these settings:\n    --use_cached_activations --cached_activations_path 'a cache'"
        in (shown)
    )
    groups = ["--layer_groups", "0-3,11"]
    for name, more in (("plain", []), ("cached", ["--use_cached_activations", *path])):
        assert main(["train", *arguments(*data, *groups, *more), "--output_path", name]) == 0
    for layer in (0, 3, 11):
        saes = [
            SAE.load_from_disk(f"{name}/gpt_neox.layers.{layer}") for name in ("plain", "cached")
        ]
        assert torch.equal(saes[0].W_enc, saes[1].W_enc)
    again = [*arguments(*data, *groups, "--use_cached_activations", *path), "--seed", "1"]
    assert main(["train", *again]) == 0
    capsys.readouterr()
    assert main(["cache", *arguments(*data, *path)]) == 2
    assert (
        "error: cached_activations_path 'a cache' already holds cached" in capsys.readouterr().err
    )


def test_drawn_rows_need_groups_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    args = arguments("--cached_activations_path", "cache", "--cache_rows", "drawn")
    assert main(["cache", *args]) == 2
    assert "cache_rows is drawn, and layer_groups does not say for which" in capsys.readouterr().err


def test_a_missing_cache_shows_before_the_model_is_loaded(
    text_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = arguments("--layer_groups", "0-3", "--use_cached_activations", without="--model_name")
    args += ["--model_name", "./no-model", "--dataset_path", str(text_folder)]
    assert main(["train", *args, "--cached_activations_path", "nowhere"]) == 2
    assert "cached_activations_path 'nowhere' does not exist" in capsys.readouterr().err


# --- which settings a cache depends on ---


def test_every_setting_says_whether_a_cache_depends_on_it() -> None:
    """Those of SAELens in lists in `identity.py`, ours by their field's metadata."""
    assert identity.undecided() == ()
    decided = (*identity.IN_ROWS, *identity.IN_DRAWS, *identity.IN_NEITHER)
    assert len(decided) == len(set(decided))
    inherited = {field.name for field in fields(LanguageModelSAERunnerConfig)}
    for flag in fields(GroupSAERunnerConfig):
        assert (flag.metadata.get("cached") in ("rows", "draws", "neither")) == (
            flag.name not in inherited
        )


@pytest.mark.seam
def test_a_setting_that_nobody_has_decided_on_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of a later SAELens would be: a cache that says nothing of it was made by default."""
    write_cache()
    undecided = tuple(name for name in identity.IN_NEITHER if name != "n_eval_batches")
    monkeypatch.setattr(identity, "IN_NEITHER", undecided)
    default = group_config(**CACHED).n_eval_batches
    CacheManifest.load("cache").require_fit(group_config(**CACHED), None)
    with pytest.raises(CacheError, match=rf"n_eval_batches={default}, and this run asks for 3;"):
        CacheManifest.load("cache").require_fit(group_config(**CACHED, n_eval_batches=3), None)
