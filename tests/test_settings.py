"""Settings that do not fit the run, the model or the machine are found before training, with numbers."""

import json
import shutil
from pathlib import Path
from typing import Any

import datasets.config
import pytest
import torch
from datasets import Dataset
from sae_lens import LanguageModelSAERunnerConfig, PretokenizeRunner, PretokenizeRunnerConfig
from sae_lens.load_model import HookedProxyLM
from transformer_lens import HookedTransformer
from transformers import AutoConfig, AutoModelForCausalLM

from sae_lens_groups import (
    GroupSAERunnerConfig,
    GroupSAETrainingRunner,
    evaluate_suite,
    measure_layer_distances,
)
from sae_lens_groups.activations import (
    GroupActivationsStore,
    load_with_hooks,
    open_train_split,
    require_usable_rows,
)
from sae_lens_groups.demo import MODEL_FOLDER
from sae_lens_groups.errors import ConfigError, DatasetError, HookNameError
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.train.prepare import prepare, settle

from .test_export import HAS_WHITENING
from .tiny import (
    D_IN,
    SMALL_LM_BATCHES,
    group_config,
    make_model,
    make_tokens,
    sae_config,
    settings,
)

WARM_RESTARTS = "cosineannealingwarmrestarts"
LONG_SCHEDULES = [
    ({"lr_warm_up_steps": 31}, "and lr_warm_up_steps takes 31"),
    ({"lr_decay_steps": 31}, "and lr_decay_steps takes 31"),
    (
        {"lr_warm_up_steps": 16, "lr_decay_steps": 15},
        "and lr_warm_up_steps and lr_decay_steps take 31",
    ),
    (
        {"lr_decay_steps": 30, "lr_scheduler_name": "cosineannealing"},
        "and lr_decay_steps and a step of cosineannealing take 31",
    ),
    (
        {"n_restart_cycles": 31, "lr_scheduler_name": WARM_RESTARTS},
        "and n_restart_cycles takes 31",
    ),
    ({"sae": sae_config("standard", l1_warm_up_steps=31)}, "and l1_warm_up_steps takes 31"),
    ({"sae": sae_config("jumprelu", l0_warm_up_steps=31)}, "and l0_warm_up_steps takes 31"),
]


@pytest.mark.parametrize(("changes", "message"), LONG_SCHEDULES)
def test_a_schedule_longer_than_the_run_is_refused_before_the_model_loads(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        settle(group_config(**changes))
    assert f"training_tokens leaves 30 training steps, {message}" in str(caught.value)
    assert str(caught.value).endswith("lower that, or raise training_tokens")


@pytest.mark.seam
def test_schedules_that_fill_the_run_are_trained(model: HookedTransformer, tokens: Dataset) -> None:
    fitting: list[dict[str, Any]] = [
        {"lr_warm_up_steps": 15, "lr_decay_steps": 15},
        {"lr_decay_steps": 29, "lr_scheduler_name": "cosineannealing"},
        {"n_restart_cycles": 30, "lr_scheduler_name": WARM_RESTARTS},
        {"sae": sae_config("standard", l1_warm_up_steps=30)},
    ]
    for changes in fitting:
        GroupSAETrainingRunner(group_config("3", **changes), tokens, model).run()


@pytest.mark.parametrize(
    "changes", [{"lr": 0.0}, {"lr_end": 0.0, "lr_scheduler_name": "cosineannealing"}]
)
def test_a_decay_that_begins_at_0_is_refused_before_the_model_loads(
    changes: dict[str, Any],
) -> None:
    with pytest.raises(ConfigError, match=r"lr_decay_steps is 5, .* begin at (lr|lr_end) = 0"):
        settle(group_config(lr_decay_steps=5, **changes))


ELSEWHERE = "xpu"  # no machine that runs these tests has one


def test_saes_are_trained_on_device_where_their_own_cannot_be_used(
    model: HookedTransformer, tokens: Dataset
) -> None:
    cfg = group_config("3", sae=sae_config(device=ELSEWHERE))
    suite = GroupSAETrainingRunner(cfg, tokens, model).run()
    plain = GroupSAETrainingRunner(group_config("3"), tokens, model).run()
    assert torch.equal(suite.layer(3).W_dec, plain.layer(3).W_dec)


def test_the_settings_of_a_run_on_another_device_are_used_with_device(
    model: HookedTransformer, tokens: Dataset
) -> None:
    saved = group_config("3").to_dict()
    for name in ("device", "llm_device", "act_store_device"):
        saved[name] = ELSEWHERE
    saved["sae"]["device"] = ELSEWHERE
    cfg = GroupSAERunnerConfig.from_saved(saved, device="cpu")
    assert len(GroupSAETrainingRunner(cfg, tokens, model).run()) == 1


def test_the_number_that_a_buffer_needs_is_named() -> None:
    with pytest.raises(ConfigError, match="raise n_batches_in_buffer to 32"):
        group_config(
            context_size=128,
            n_batches_in_buffer=20,
            train_batch_size_tokens=4096,
            training_tokens=8192,
        )


SILENT_HOOKS = [
    ("hook_mlp_in", "use_hook_mlp_in"),
    ("hook_attn_in", "use_attn_in"),
    ("attn.hook_result", "use_attn_result"),
    ("hook_q_input", "use_split_qkv_input"),
]


@pytest.mark.parametrize(("hook", "flag"), SILENT_HOOKS)
def test_a_hook_that_the_model_does_not_compute_names_the_flag_that_makes_it(
    tokens: Dataset, hook: str, flag: str
) -> None:
    model = make_model(n_layers=1)
    d_in = D_IN if hook == "hook_mlp_in" else 2 * D_IN  # two heads
    cfg = group_config("0", hook_name=f"blocks.0.{hook}", sae=sae_config(d_in=d_in))
    with pytest.raises(HookNameError, match=rf"call model\.set_{flag}\(True\)"):
        GroupSAETrainingRunner(cfg, tokens, model)
    with pytest.raises(HookNameError, match=rf"call model\.set_{flag}\(True\)"):
        measure_layer_distances(cfg, override_dataset=tokens, override_model=model)
    getattr(model, f"set_{flag}")(True)
    assert len(GroupSAETrainingRunner(cfg, tokens, model).run()) == 1


NO_ROWS = [
    ("attn.hook_pattern", 0, HookNameError, r"of shape \(1, 2, 7, 7\) for a prompt of 7 tokens"),
    ("attn.hook_pattern", None, HookNameError, r"of shape \(1, 2, 7, 7\)"),
    ("attn.hook_z", 2, ConfigError, "hook_head_index is 2, but .* has the heads 0 to 1"),
    ("hook_resid_post", 0, ConfigError, "hook_head_index is 0, but .* has no heads"),
    ("hook_resid_post", None, ConfigError, "d_in is 8, but .* is 16 wide; set d_in to 16"),
]


@pytest.mark.parametrize(("hook", "head", "error", "message"), NO_ROWS)
def test_a_hook_that_gives_no_rows_of_d_in_is_refused_before_training(
    model: HookedTransformer,
    tokens: Dataset,
    hook: str,
    head: int | None,
    error: type[Exception],
    message: str,
) -> None:
    cfg = group_config(
        "1", hook_name=f"blocks.1.{hook}", hook_head_index=head, sae=sae_config(d_in=8)
    )
    with pytest.raises(error, match=message):
        GroupSAETrainingRunner(cfg, tokens, model)


def hf_model(kind: str, n_positions: int, **changes: Any) -> HookedProxyLM:
    """A random transformers model of one or two layers."""
    sizes = {
        "vocab_size": 60,
        "hidden_size": D_IN,
        "intermediate_size": D_IN,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": n_positions,
    }
    config = AutoConfig.for_model(kind, **{**sizes, **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    return HookedProxyLM(model, None)  # type: ignore[arg-type]  # the tests give it tokens


def test_a_hook_without_a_position_axis_is_not_blamed_on_heads(tokens: Dataset) -> None:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    model = hf_model("mixtral", 64, **experts)
    cfg = group_config(
        "0", hook_name="model.layers.0.mlp.gate", model_class_name="AutoModelForCausalLM"
    )
    with pytest.raises(HookNameError, match=r"gives activations of shape .* row of each token"):
        GroupSAETrainingRunner(cfg, tokens, model)


def test_a_wrong_argument_of_the_models_pass_is_refused_before_training(
    model: HookedTransformer, tokens: Dataset
) -> None:
    with pytest.raises(ConfigError, match=r"model_kwargs \{'stop_here': 1\} cannot be passed"):
        GroupSAETrainingRunner(group_config(model_kwargs={"stop_here": 1}), tokens, model)


long_tokens = Dataset.from_dict({"tokens": [[n % 60] * 32 for n in range(100)]})
OPT = {"ffn_dim": D_IN, "word_embed_proj_dim": D_IN, "pad_token_id": 1}
LEARNED_POSITIONS = [
    ("gpt2", "transformer.h.0", {}),
    ("opt", "model.decoder.layers.0", OPT),
    ("gptj", "transformer.h.0", {"rotary_dim": 8}),
]


@pytest.mark.parametrize(("kind", "hook_name", "changes"), LEARNED_POSITIONS)
def test_prompts_beyond_the_positions_of_a_model_are_refused(
    kind: str, hook_name: str, changes: dict[str, Any]
) -> None:
    cfg = group_config(
        "0",
        hook_name=hook_name,
        model_class_name="AutoModelForCausalLM",
        context_size=32,
    )
    with pytest.raises(ConfigError, match="context_size is 32, and the model has 31 positions"):
        GroupSAETrainingRunner(cfg, long_tokens, hf_model(kind, 31, **changes))
    assert GroupSAETrainingRunner(cfg, long_tokens, hf_model(kind, 32, **changes)).run()


def test_prompts_beyond_the_positions_of_transformerlens_are_refused(
    model: HookedTransformer, tokens: Dataset
) -> None:
    with pytest.raises(ConfigError, match="context_size is 32, and the model has 16 positions"):
        GroupSAETrainingRunner(group_config(context_size=32), long_tokens, model)
    suite = GroupSAETrainingRunner(group_config("3"), tokens, model).run()
    with pytest.raises(ConfigError, match="context_size is 32, and the model has 16 positions"):
        evaluate_suite(suite, model, long_tokens, context_size=32)


def test_prompts_longer_than_a_rotary_model_was_made_for_are_warned_of() -> None:
    cfg = group_config(
        "0",
        hook_name="model.layers.0",
        model_class_name="AutoModelForCausalLM",
        context_size=32,
    )
    with pytest.warns(UserWarning, match="the model was made for prompts of up to 16 tokens"):
        runner = GroupSAETrainingRunner(cfg, long_tokens, hf_model("llama", 16))
    assert runner.run()
    GroupSAETrainingRunner(cfg, long_tokens, hf_model("llama", 32))  # no warning


# --- loading the model ---

ON_HF, ON_TL = "AutoModelForCausalLM", "HookedTransformer"
UNLOADABLE = [
    (ON_HF, str(MODEL_FOLDER), {"typo": 1}, "cannot be loaded with typo=1: "),
    (ON_HF, str(MODEL_FOLDER), {"dtype": "float17"}, "cannot be loaded with dtype='float17': "),
    (
        ON_HF,
        str(MODEL_FOLDER),
        {"quantization_config": {"load_in_8bit": True, "quant_method": "bitsandbytes"}},
        "cannot be loaded with quantization_config={'load_in_8bit': True",
    ),
    (
        ON_TL,
        "gpt2",
        {"center_writing_weights": False, "load_in_8bit": True},
        "cannot be loaded with load_in_8bit=True: Quantization not supported",
    ),
    (ON_TL, str(MODEL_FOLDER), None, "give model_class_name AutoModelForCausalLM"),
    (
        ON_TL,
        "nobody/knows",
        None,
        "the model 'nobody/knows' cannot be loaded: HookedTransformer kn",
    ),
    (ON_HF, "nobody/knows", None, "the model 'nobody/knows' cannot be loaded: We couldn't connect"),
    (ON_TL, "gelu-2l", None, "the model 'gelu-2l' cannot be loaded: "),
    (
        "AutoModel",
        "gpt2",
        None,
        "; model_class_name is AutoModelForCausalLM, HookedTransformer or ",
    ),
]


@pytest.mark.parametrize(("class_name", "name", "kwargs", "message"), UNLOADABLE)
def test_a_model_that_cannot_be_loaded_is_named_with_the_setting_in_one_line(
    class_name: str, name: str, kwargs: dict[str, Any] | None, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_with_hooks(class_name, name, None, "cpu", kwargs)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


# --- the dataset ---


def write_text(folder: Path, text: str) -> str:
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text(json.dumps({"text": text}))
    return text


@pytest.mark.parametrize("streaming", [True, False])
def test_the_path_of_a_dataset_is_taken_literally(tmp_path: Path, streaming: bool) -> None:
    named = [tmp_path / "runs [1]*" / "t?xt", Path("text"), Path("json")]
    for folder in named:
        text = write_text(folder, f"in {folder}")
        rows = open_train_split(str(folder), streaming=streaming)
        assert list(rows) == [{"text": text}]
        saved = folder.with_name(f"{folder.name} saved")
        Dataset.from_list(list(rows)).save_to_disk(saved)
        assert list(open_train_split(str(saved), streaming=streaming)) == [{"text": text}]


def test_the_splits_of_a_folder_whose_name_looks_like_a_pattern_are_told_apart(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "[a]"
    write_text(folder / "test", "not this")
    text = write_text(folder / "train", "this")
    assert list(open_train_split(str(folder))) == [{"text": text}]


def test_several_configurations_are_named_with_a_way_out(tmp_path: Path) -> None:
    write_text(tmp_path / "data" / "a", "a")
    write_text(tmp_path / "data" / "b", "b")
    configs = "".join(f"- config_name: {n}\n  data_files: {n}/*\n" for n in "ab")
    (tmp_path / "data" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    with pytest.raises(DatasetError, match=r"configurations, 'a', 'b'.*save_to_disk\(FOLDER\)"):
        open_train_split(str(tmp_path / "data"))


def test_a_cache_that_cannot_be_written_is_not_blamed_on_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "data", "a")
    (tmp_path / "file").touch()
    for name, place in (("HF_CACHE_HOME", "file"), ("HF_DATASETS_CACHE", "file/datasets")):
        monkeypatch.setattr(datasets.config, name, str(tmp_path / place))
    with pytest.raises(
        DatasetError, match=r"cache of datasets cannot be used.*set HF_HOME"
    ) as caught:
        open_train_split(str(tmp_path / "data"), streaming=False)
    assert "dataset_path" not in str(caught.value)


@pytest.mark.parametrize("in_memory", [True, False])
def test_rows_that_are_padded_on_the_left_are_refused_wherever_they_come(
    model: HookedTransformer, tmp_path: Path, in_memory: bool
) -> None:
    masks = [[1] * 16] * 10 + [[1] * 9 + [0] * 7] * 10  # padding that comes last changes nothing
    rows = {"input_ids": [[5] * 16] * 21, "attention_mask": [*masks, [0, 0] + [1] * 14]}
    write_text(tmp_path / "data", "")
    lines = [json.dumps(dict(zip(rows, row))) for row in zip(*rows.values())]
    (tmp_path / "data" / "rows.jsonl").write_text("\n".join(lines))
    given = Dataset.from_dict(rows) if in_memory else open_train_split(str(tmp_path / "data"))
    cfg = group_config("3", **SMALL_LM_BATCHES)
    with pytest.raises(DatasetError, match="row 20 of the dataset is padded on the left"):
        GroupSAETrainingRunner(cfg, given, model).run()
    right = Dataset.from_dict({name: values[:20] for name, values in rows.items()})
    with pytest.warns(UserWarning, match="starts over"):
        suite = GroupSAETrainingRunner(cfg, right, model).run()
    with pytest.raises(DatasetError, match="row 20 of the dataset is padded on the left"):
        evaluate_suite(suite, model, given, batch_size_prompts=3)


@pytest.fixture(scope="module")
def other_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's tokenizer with two tokens swapped: the ids of a text differ, and none is too high."""
    folder = tmp_path_factory.mktemp("other_tokenizer")
    for path in MODEL_FOLDER.glob("*token*"):
        shutil.copy(path, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    first, second = [token for token, n in vocab.items() if n in (300, 301)]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def test_a_pretokenized_folder_is_checked_before_the_model_loads(
    tmp_path: Path, other_tokenizer: Path
) -> None:
    write_text(tmp_path / "text", "def f(x):\n    return x\n" * 400)
    made = {
        "own": {"tokenizer_name": str(MODEL_FOLDER)},
        "other": {"tokenizer_name": str(other_tokenizer)},
        "plain": {"tokenizer_name": str(MODEL_FOLDER), "begin_batch_token": None},
    }
    for name, how in made.items():
        cfg = PretokenizeRunnerConfig(
            dataset_path=str(tmp_path / "text"),
            save_path=str(tmp_path / name),
            context_size=16,
            num_proc=1,
            **how,
        )
        PretokenizeRunner(cfg).run()

    def prepared(name: str, **changes: Any) -> None:
        given = {"context_size": 16, "dataset_path": str(tmp_path / name), **changes}
        on_demo = {"model_name": str(MODEL_FOLDER), "model_class_name": "AutoModelForCausalLM"}
        prepare(group_config("3", hook_name="gpt_neox.layers.3", **on_demo, **given))

    prepared("own")
    prepared("plain", prepend_bos=False)
    with pytest.raises(DatasetError, match=r"other' was tokenised with .* is token 30"):
        prepared("other")
    with pytest.raises(DatasetError, match=r"begins with 16 input_ids, less than context_size=32"):
        prepared("own", context_size=32)
    without = "plain' was tokenised with begin_batch_token None, so its rows begin without BOS, and"
    with pytest.raises(ConfigError, match=f"{without} prepend_bos is True; set it to False"):
        prepared("plain")
    with pytest.raises(
        ConfigError, match="begin with BOS, and prepend_bos is False; set it to True"
    ):
        prepared("own", prepend_bos=False)


def test_tokens_of_another_tokenizer_are_refused_by_what_saelens_writes_beside_them(
    tmp_path: Path, other_tokenizer: Path
) -> None:
    write_text(tmp_path / "text", "def f(x):\n    return x\n" * 400)
    made_with = {"own": MODEL_FOLDER, "other": other_tokenizer}
    for name, tokenizer in made_with.items():
        pretokenize = PretokenizeRunnerConfig(
            tokenizer_name=str(tokenizer),
            dataset_path=str(tmp_path / "text"),
            save_path=str(tmp_path / name),
            context_size=16,
            num_proc=1,
        )
        PretokenizeRunner(pretokenize).run()
    model = load_with_hooks(ON_HF, str(MODEL_FOLDER), ["gpt_neox.layers.0"], "cpu", None)
    require_usable_rows(str(tmp_path / "own"), open_train_split(str(tmp_path / "own")), model)
    path = str(tmp_path / "other")
    with pytest.raises(DatasetError, match=r"was tokenised with .* is token 30"):
        require_usable_rows(path, open_train_split(path), model)
    gone = json.loads((tmp_path / "other" / "sae_lens.json").read_text())
    (tmp_path / "other" / "sae_lens.json").write_text(
        json.dumps({**gone, "tokenizer_name": "gone"})
    )
    with pytest.warns(UserWarning, match="was tokenised with 'gone', which cannot be compared"):
        require_usable_rows(path, open_train_split(path), model)


def test_the_last_prompts_that_fill_no_batch_are_not_used(model: HookedTransformer) -> None:
    """As with SAELens: of 11 prompts in batches of 4, the last 3."""
    rows = Dataset.from_dict({"tokens": [[n] * 16 for n in range(11)]})
    groups = (LayerGroup(3, 3),)
    cfg = group_config("3", **SMALL_LM_BATCHES)
    store = GroupActivationsStore.from_group_config(model, cfg, groups, rows)
    batches = store.token_batches()
    with pytest.warns(UserWarning, match="the dataset ended after 128 tokens and starts over"):
        read = [next(batches) for _ in range(4)]
    assert torch.cat(read)[:, 0].tolist() == [*range(8), *range(8)]


# --- the norm estimate ---


def test_a_norm_estimate_is_a_tenth_of_the_run_where_it_is_not_given() -> None:
    def batches(n_steps: int, mode: str = "expected_average_only_in", **given: Any) -> int:
        sae = sae_config(normalize_activations=mode)
        return group_config(
            "3", sae=sae, training_tokens=256 * n_steps, train_batch_size_tokens=256, **given
        ).norm_estimate_batches

    default: dict[str, Any] = {"n_batches_for_norm_estimate": None, "n_batches_in_buffer": 16}
    assert batches(40, **default) == 16  # 4,096 rows
    assert batches(3000, **default) == 300
    assert batches(20_000, **default) == 1000
    assert batches(40, n_batches_for_norm_estimate=1000, n_batches_in_buffer=16) == 1000


@pytest.mark.skipif(not HAS_WHITENING, reason="not yet in this SAELens")
def test_a_whitening_is_estimated_on_many_rows_for_each_dimension() -> None:
    wide = sae_config(d_in=1024, normalize_activations="covariance_whitening")
    given: dict[str, Any] = {"n_batches_for_norm_estimate": None, "n_batches_in_buffer": 16}
    cfg = group_config("3", train_batch_size_tokens=256, sae=wide, **given)
    assert cfg.norm_estimate_batches == 200  # 50 rows of 1,024


@pytest.mark.seam
def test_a_saelens_config_keeps_its_norm_estimate() -> None:
    theirs = LanguageModelSAERunnerConfig(**settings(n_batches_for_norm_estimate=1000))
    ours = GroupSAERunnerConfig.from_sae_lens(theirs, layer_groups="3")
    assert ours.to_sae_trainer_config().n_batches_for_norm_estimate == 1000


def test_an_estimate_out_of_proportion_is_said_before_the_model_loads() -> None:
    sae = sae_config(normalize_activations="expected_average_only_in")
    with pytest.warns(
        UserWarning, match="norms are estimated on 32,000 tokens before a run of 960"
    ):
        prepare(group_config("3", sae=sae, n_batches_for_norm_estimate=1000), make_tokens())
