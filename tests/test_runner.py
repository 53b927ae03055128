"""The runner: settings that reach the training, datasets of every kind, logging."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from datasets import Dataset, DatasetDict
from sae_lens import ActivationsStore, LoggingConfig, TopKTrainingSAE, TrainingSAE
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.load_model import HookedProxyLM, load_model
from sae_lens.training.activation_scaler import ActivationScaler
from transformer_lens import HookedTransformer

from sae_lens_groups import (
    GroupSAERunnerConfig,
    GroupSAETrainingRunner,
    LayerGroup,
    SAESuite,
    evaluate_suite,
)
from sae_lens_groups.activations.model import CAN_CHOOSE_HOOKS
from sae_lens_groups.activations.shuffle_buffer import ShuffleBuffer
from sae_lens_groups.demo.model import D_IN as DEMO_D_IN
from sae_lens_groups.demo.model import MODEL_CLASS_NAME, MODEL_FOLDER, stdlib_tokens
from sae_lens_groups.errors import ConfigError, DatasetError, HookNameError, LayerGroupsError

from .tiny import (
    D_IN,
    D_SAE,
    SMALL_LM_BATCHES,
    group_config,
    make_model,
    make_tokens,
    sae_config,
    settings,
)

needs_chosen_hooks = pytest.mark.skipif(
    not CAN_CHOOSE_HOOKS, reason="this SAELens hooks every module"
)
TEXTS = [f"def f{n}(x):\n    return x + {n}\n" * 20 for n in range(200)]


def train(
    model: HookedTransformer, tokens: Dataset, layer_groups: str = "0-2,3", **changes: Any
) -> SAESuite:
    cfg = group_config(layer_groups, **changes)
    return GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model).run()


def demo_settings(**changes: Any) -> dict[str, Any]:
    """A short run on the demo model, as a user of SAELens would configure it."""
    return settings(
        **{
            "sae": sae_config(d_in=DEMO_D_IN),
            "model_name": str(MODEL_FOLDER),
            "model_class_name": MODEL_CLASS_NAME,
            "hook_name": "gpt_neox.layers.3",
            "training_tokens": 32 * 10,
            **changes,
        }
    )


def decoder(suite: SAESuite, group: LayerGroup | None = None) -> torch.Tensor:
    return suite.group(group or suite.manifest.groups[0]).W_dec


# --- settings ---


def test_training_reduces_the_loss_of_every_layer(model: HookedTransformer) -> None:
    def explained_variances(n_steps: int) -> list[float]:
        cfg = group_config("0-2,3", training_tokens=32 * n_steps, lr=1e-2)
        runner = GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model)
        scores = evaluate_suite(runner.run(), model, make_tokens(seed=1))
        return [score.metrics["explained_variance"] for score in scores]

    tokens = make_tokens(n_prompts=800)
    for before, after in zip(explained_variances(1), explained_variances(300)):
        assert after > before + 0.2


@pytest.mark.seam
@pytest.mark.parametrize("name", ["autocast", "autocast_lm"])
def test_autocast_reaches_the_training(
    model: HookedTransformer, tokens: Dataset, name: str
) -> None:
    difference = decoder(train(model, tokens, "0-2,3", **{name: True})) - decoder(
        train(model, tokens)
    )
    assert 0 < difference.abs().mean() < 0.01


def test_devices_may_be_named_one_by_one(model: HookedTransformer, tokens: Dataset) -> None:
    named = train(model, tokens, llm_device="cpu", act_store_device="with_model", device="cpu")
    assert torch.equal(decoder(named), decoder(train(model, tokens)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("name", ["compile_sae", "compile_llm"])
def test_compiled_training_gives_nearly_the_same_weights(tokens: Dataset, name: str) -> None:
    compiled = train(make_model(), tokens, "0-2,3", **{name: True})
    plain = train(make_model(), tokens)
    torch.testing.assert_close(decoder(compiled), decoder(plain), atol=2e-3, rtol=0)
    assert torch.isfinite(compiled.layer(1)(torch.randn(4, D_IN))).all()


@pytest.mark.seam
def test_override_saes_are_where_training_starts(model: HookedTransformer, tokens: Dataset) -> None:
    start = TrainingSAE.from_dict(sae_config().to_dict())
    start.W_dec.data.mul_(3)
    before = start.W_dec.clone()
    cfg = group_config("3", lr=1e-9)
    runner = GroupSAETrainingRunner(
        cfg,
        override_dataset=tokens,
        override_model=model,
        override_saes={"layers_3": start},
    )
    torch.testing.assert_close(decoder(runner.run(), LayerGroup(3, 3)), before)


def test_override_saes_need_the_groups_names(model: HookedTransformer, tokens: Dataset) -> None:
    sae = TrainingSAE.from_dict(sae_config().to_dict())
    with pytest.raises(ConfigError) as caught:
        GroupSAETrainingRunner(
            group_config("0-2,3"),
            override_dataset=tokens,
            override_model=model,
            override_saes={"layers_3": sae},
        )
    assert str(caught.value) == (
        "override_saes has the keys layers_3; it needs one SAE for each of layers_0-2, layers_3"
    )


def test_override_saes_made_from_the_runs_own_config_are_normalised_per_layer(
    tokens: Dataset,
) -> None:
    model = make_model(norms=(1, 4, 16, 16))
    shared = sae_config(normalize_activations="expected_average_only_in")
    cfg = group_config("0-2,3", sae=shared)
    saes = {name: TopKTrainingSAE(shared) for name in ("layers_0-2", "layers_3")}  # type: ignore[arg-type]
    runner = GroupSAETrainingRunner(
        cfg, override_dataset=tokens, override_model=model, override_saes=saes
    )
    suite = runner.run()
    factors = list(suite.manifest.scaling_factors.values())
    assert None not in factors
    assert len(set(factors)) == 4
    assert cfg.sae.normalize_activations == "expected_average_only_in"
    hooks = [suite.group(group).cfg.metadata.hook_name for group in suite.manifest.groups]
    assert hooks == ["blocks.1.hook_resid_post", "blocks.3.hook_resid_post"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (sae_config(d_in=8), "override_saes['layers_3'] has d_in=8, and the config asks for 16"),
        (sae_config("batchtopk"), "has architecture='batchtopk', and the config asks for 'topk'"),
        (
            # Its own estimate would give all layers of a group one factor.
            sae_config(normalize_activations="expected_average_only_in"),
            "has normalize_activations='expected_average_only_in', and the config asks for 'none'",
        ),
    ],
)
def test_an_sae_to_start_from_that_does_not_fit_is_refused(
    model: HookedTransformer, tokens: Dataset, tmp_path: Path, given: Any, message: str
) -> None:
    sae = TrainingSAE.from_dict(given.to_dict())
    with pytest.raises(ConfigError) as caught:
        GroupSAETrainingRunner(
            group_config("3"),
            override_dataset=tokens,
            override_model=model,
            override_saes={"layers_3": sae},
        )
    assert message in str(caught.value)
    sae.save_model(tmp_path / "start")
    with pytest.raises(ConfigError, match="the SAE at from_pretrained_path has "):
        train(model, tokens, from_pretrained_path=str(tmp_path / "start"))


def test_an_sae_in_inference_form_cannot_be_trained_further(
    model: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    TrainingSAE.from_dict(sae_config().to_dict()).save_inference_model(tmp_path / "start")
    with pytest.raises(ConfigError, match="holds an SAE in inference form, which cannot be"):
        train(model, tokens, from_pretrained_path=str(tmp_path / "start"))


@pytest.mark.seam
def test_from_pretrained_path_is_where_every_group_starts(
    model: HookedTransformer, tokens: Dataset, tmp_path: Path
) -> None:
    start = TrainingSAE.from_dict(sae_config().to_dict())
    start.save_model(tmp_path / "start")
    suite = train(model, tokens, lr=1e-9, from_pretrained_path=str(tmp_path / "start"))
    for group in suite.manifest.groups:
        torch.testing.assert_close(decoder(suite, group), start.W_dec)
    with pytest.raises(ConfigError, match=f"has d_sae={D_SAE}, and the config asks for 96"):
        train(
            model,
            tokens,
            sae=sae_config(d_sae=96),
            from_pretrained_path=str(tmp_path / "start"),
        )


def test_a_hook_z_suite_runs_in_plain_saelens(model: HookedTransformer, tokens: Dataset) -> None:
    suite = train(
        model,
        tokens,
        hook_name="blocks.0.attn.hook_z",
        sae=sae_config(reshape_activations="hook_z", normalize_activations="none"),
    )
    assert list(suite)[2] == "blocks.2.attn.hook_z"
    z = torch.randn(2, 5, 2, 8)
    assert suite["blocks.2.attn.hook_z"](z).shape == z.shape


@pytest.mark.parametrize("hook", ["hook_resid_pre", "hook_mlp_out", "hook_attn_out"])
def test_other_hooks_of_the_same_width_work(
    model: HookedTransformer, tokens: Dataset, hook: str
) -> None:
    suite = train(model, tokens, hook_name=f"blocks.2.{hook}")
    assert list(suite) == [f"blocks.{layer}.{hook}" for layer in range(4)]


# --- models ---


@pytest.mark.seam
@pytest.mark.parametrize(
    ("model_class_name", "hook_name", "last"),
    [
        ("AutoModelForCausalLM", "gpt_neox.layers.3", "gpt_neox.layers.11"),
        ("HookedTransformer", "blocks.3.hook_resid_post", "blocks.11.hook_resid_post"),
    ],
)
def test_both_model_classes_train_from_a_local_checkpoint(
    tmp_path: Path, model_class_name: str, hook_name: str, last: str
) -> None:
    # TransformerLens takes a local checkpoint only under the name of a model that it knows.
    shutil.copytree(MODEL_FOLDER, tmp_path / "EleutherAI" / "pythia-14m")
    cfg = GroupSAERunnerConfig(
        layer_groups="even:2",
        **demo_settings(
            model_name="EleutherAI/pythia-14m",
            model_class_name=model_class_name,
            hook_name=hook_name,
        ),
    )
    runner = GroupSAETrainingRunner(cfg, override_dataset=stdlib_tokens("held_out", 16))
    suite = runner.run()
    assert [group.name for group in suite.manifest.groups] == [
        "layers_0-5",
        "layers_6-10",
        "layers_11",
    ]
    assert list(suite)[-1] == last
    if isinstance(runner.model, HookedProxyLM) and CAN_CHOOSE_HOOKS:
        assert set(runner.model.hook_dict) == set(suite)  # hooked there and nowhere else


@needs_chosen_hooks
def test_only_the_named_layers_of_a_huggingface_model_are_hooked() -> None:
    cfg = GroupSAERunnerConfig(layer_groups="2-3", **demo_settings())
    runner = GroupSAETrainingRunner(cfg, override_dataset=stdlib_tokens("held_out", 16))
    assert list(runner.model.hook_dict) == ["gpt_neox.layers.2", "gpt_neox.layers.3"]


def refused_without_loading(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> str:
    """The message of a run that has to be refused before the model is loaded."""

    def loaded(*_: Any, **__: Any) -> None:
        pytest.fail("the model was loaded")

    monkeypatch.setattr("sae_lens_groups.train.run.load_hooked_model", loaded)
    cfg = GroupSAERunnerConfig(**demo_settings(**{"layer_groups": "0-3", **changes}))
    with pytest.raises((LayerGroupsError, HookNameError)) as caught:
        GroupSAETrainingRunner(cfg, override_dataset=make_tokens())
    return str(caught.value)


def test_layers_beyond_the_model_are_refused_before_it_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = "group 9-12 reaches beyond the model, whose 12 layers are 0-11"
    assert refused_without_loading(monkeypatch, layer_groups="9-12") == message
    hooked = {
        "model_name": "EleutherAI/pythia-14m",
        "model_class_name": "HookedTransformer",
        "hook_name": "blocks.0.hook_resid_post",
    }
    shutil.copytree(MODEL_FOLDER, tmp_path / "EleutherAI" / "pythia-14m")
    assert refused_without_loading(monkeypatch, layer_groups="9-12", **hooked) == message


def test_a_hook_that_the_model_lacks_is_refused_before_it_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = refused_without_loading(monkeypatch, hook_name="gpt_neox.blocks.3.mlp")
    assert message == (
        "the model has no hook named gpt_neox.blocks.{layer}.mlp; its hooks at layer 0 are: "
        "gpt_neox.layers.0.mlp"
    )


@needs_chosen_hooks
def test_a_model_that_was_hooked_elsewhere_is_refused(tokens: Dataset) -> None:
    model = load_model(
        MODEL_CLASS_NAME, str(MODEL_FOLDER), device="cpu", hook_names=["gpt_neox.layers.3"]
    )
    cfg = GroupSAERunnerConfig(layer_groups="2-3", **demo_settings())
    with pytest.raises(HookNameError, match=r"has no hook at gpt_neox\.layers\.2; leave these"):
        GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model)


# --- datasets ---


def write_jsonl(folder: Path, rows: list[dict[str, Any]]) -> str:
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder)


def suite_from(dataset_path: str, **changes: Any) -> SAESuite:
    cfg = GroupSAERunnerConfig(
        layer_groups="3,4-5", **demo_settings(dataset_path=dataset_path, **changes)
    )
    return GroupSAETrainingRunner(cfg).run()


@pytest.mark.seam
@pytest.mark.parametrize("streaming", [True, False])
def test_local_text_is_tokenised_as_saelens_does_it(tmp_path: Path, streaming: bool) -> None:
    path = write_jsonl(tmp_path / "text", [{"text": text} for text in TEXTS])
    from_path = suite_from(path, streaming=streaming)
    cfg = GroupSAERunnerConfig(layer_groups="3,4-5", **demo_settings())
    dataset = Dataset.from_dict({"text": TEXTS})
    passed_in = GroupSAETrainingRunner(cfg, override_dataset=dataset).run()
    group = LayerGroup(4, 5)
    assert torch.equal(decoder(from_path, group), decoder(passed_in, group))


@cache
def _few_tokens() -> Dataset:
    return stdlib_tokens("held_out", 16).select(range(500))


@cache
def _decoder_of_few_tokens() -> torch.Tensor:
    cfg = GroupSAERunnerConfig(layer_groups="3,4-5", **demo_settings())
    passed_in = GroupSAETrainingRunner(cfg, override_dataset=_few_tokens()).run()
    return decoder(passed_in, LayerGroup(3, 3))


@pytest.mark.parametrize("column", ["tokens", "input_ids"])
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("as_dict", [True, False])
def test_pretokenised_folders_train(
    tmp_path: Path, column: str, streaming: bool, as_dict: bool
) -> None:
    """SAELens takes such a folder's path for a Hub name and fails."""
    dataset = _few_tokens()
    if column != "tokens":
        dataset = dataset.rename_column("tokens", column)
    (DatasetDict({"train": dataset}) if as_dict else dataset).save_to_disk(tmp_path / "tokens")
    from_path = suite_from(str(tmp_path / "tokens"), streaming=streaming)
    assert torch.equal(decoder(from_path, LayerGroup(3, 3)), _decoder_of_few_tokens())


def test_chat_formatting_reaches_the_tokens(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": text}]} for text in TEXTS]
    path = write_jsonl(tmp_path / "chats", rows)
    model = load_model(MODEL_CLASS_NAME, str(MODEL_FOLDER), device="cpu")
    assert isinstance(model, HookedProxyLM)
    model.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    )
    cfg = GroupSAERunnerConfig(
        layer_groups="3", **demo_settings(dataset_path=path, use_chat_formatting=True)
    )
    runner = GroupSAETrainingRunner(cfg, override_model=model)
    text = model.tokenizer.decode(runner.activations_store.get_batch_tokens().flatten())
    assert "<user>def f0(x):" in text
    assert len(runner.run()) == 1


@pytest.mark.seam
def test_special_tokens_are_the_tokenizers_own(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "text", [{"text": text} for text in TEXTS])
    cfg = GroupSAERunnerConfig(
        layer_groups="3",
        **demo_settings(dataset_path=path, exclude_special_tokens=True, **SMALL_LM_BATCHES),
    )
    store = GroupSAETrainingRunner(cfg).activations_store
    assert store.exclude_special_tokens is not None
    assert store.exclude_special_tokens.tolist() == [0]
    # prepend_bos starts each of the 4 prompts of 16 tokens with the special token.
    buffer = ShuffleBuffer(1, 999, batch_size=1, mix_fraction=0, d_in=store.d_in)
    next(store.fill(buffer))
    assert 0 < len(list(iter(buffer.next_batch, None))) <= 4 * 15


A_FILE = str(Path(__file__).with_name("floor.txt"))


@pytest.mark.parametrize(
    ("dataset_path", "message"),
    [
        ("", "dataset_path is empty; name a Hub dataset or a local folder"),
        ("./nowhere", "dataset_path './nowhere' cannot be read: "),
        (A_FILE, f"dataset_path {A_FILE!r} is a file; name the folder that it lies in"),
    ],
)
def test_a_dataset_that_is_not_there_is_refused_before_the_model_loads(
    monkeypatch: pytest.MonkeyPatch, dataset_path: str, message: str
) -> None:
    monkeypatch.setattr("sae_lens_groups.train.run.load_hooked_model", pytest.fail)
    cfg = GroupSAERunnerConfig(layer_groups="3", **demo_settings(dataset_path=dataset_path))
    with pytest.raises(DatasetError) as caught:
        GroupSAETrainingRunner(cfg)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("kind", ["save_to_disk", "dict", "jsonl"])
def test_a_dataset_without_rows_is_named(tmp_path: Path, streaming: bool, kind: str) -> None:
    empty, full = (Dataset.from_dict({"text": rows}) for rows in ([], ["some"]))
    folder = tmp_path / "empty"
    if kind == "dict":
        DatasetDict({"train": full, "test": empty}).save_to_disk(folder)
    elif kind == "save_to_disk":
        empty.save_to_disk(folder)
    else:
        folder.mkdir()
        (folder / "train.jsonl").write_text("")
    said = r"empty' holds no rows, or one of its splits holds none; name a dataset that has text"
    with pytest.raises(DatasetError, match=said):
        suite_from(str(folder), streaming=streaming)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_broken_dataset_file_is_named(tmp_path: Path, streaming: bool) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.jsonl").write_text('{"text": "fine"}\n{"text": nonsense')
    with pytest.raises(DatasetError, match="broken' cannot be read"):
        suite_from(str(tmp_path / "broken"), streaming=streaming)


def test_an_empty_dataset_is_refused(model: HookedTransformer) -> None:
    with pytest.raises(DatasetError, match="the dataset holds no rows"):
        train(model, Dataset.from_dict({"tokens": []}))


def test_a_dataset_dict_without_train_says_which_splits_it_has(model: HookedTransformer) -> None:
    splits: Any = DatasetDict({"validation": make_tokens()})
    with pytest.raises(DatasetError, match="has the splits validation and no 'train'"):
        train(model, splits)


def test_tokens_of_another_vocabulary_are_refused(model: HookedTransformer) -> None:
    with pytest.raises(DatasetError) as caught:
        train(model, make_tokens(highest=60_000))
    assert "but the model's vocabulary ends at 59; it was tokenised for another" in str(
        caught.value
    )


# --- logging and evaluation ---


@pytest.mark.seam
def test_wandb_gets_saelens_keys_per_group_and_metrics_per_layer(
    model: HookedTransformer, tokens: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: dict[str, Any] = {}
    artifacts: list[Any] = []
    start = wandb.init

    def start_and_listen(**kwargs: Any) -> Any:
        run = start(**kwargs)  # a real run, offline; it sets wandb.log
        log, log_artifact = wandb.log, wandb.log_artifact
        monkeypatch.setattr(wandb, "log", lambda e, step: (logged.update(e), log(e, step=step)))
        monkeypatch.setattr(
            wandb, "log_artifact", lambda a, **k: (artifacts.append(a), log_artifact(a, **k))
        )
        return run

    monkeypatch.setattr(wandb, "init", start_and_listen)
    suite = train(
        model,
        tokens,
        logger=LoggingConfig(wandb_log_frequency=5, eval_every_n_wandb_logs=2),
        feature_sampling_window=10,
        n_eval_batches=2,
        eval_batch_size_prompts=4,
        output_path=str(tmp_path / "suite"),
    )
    for group in ("layers_0-2", "layers_3"):
        for entry in (
            "losses/overall_loss",
            "losses/mse_loss",
            "metrics/explained_variance",
            "metrics/l0",
            "sparsity/dead_features",
            "sparsity/below_1e-5",
            "details/current_learning_rate",
            "weights/W_dec_norms",
        ):
            assert f"{group}/{entry}" in logged
    for group, layer in (("layers_0-2", 0), ("layers_0-2", 2), ("layers_3", 3)):
        for entry in (
            "losses/mse_loss",
            "metrics/explained_variance",
            "sparsity/dead_features",
        ):
            assert isinstance(logged[f"{group}/{entry}/layer_{layer}"], float | int)
        evals = logged[f"{group}/layer_{layer}/model_performance_preservation"]
        assert evals["ce_loss_with_ablation"] > 0
        assert f"{group}/layer_{layer}/reconstruction_quality" in logged
    names = {artifact.name for artifact in artifacts}
    assert f"sae_tiny_blocks.1.hook_resid_post_{D_SAE}" in names  # the group's middle layer
    # Evals take nothing from what is trained on.
    plain = train(model, tokens, feature_sampling_window=10)
    for group in suite.groups:
        assert torch.equal(suite.group(group).W_dec, plain.group(group).W_dec)


@pytest.mark.seam
def test_in_training_evals_see_each_layer_at_its_own_scale(tokens: Dataset) -> None:
    """The evals of a group in training equal those of its exported layers on the same tokens."""
    model = make_model(norms=(1, 4, 16, 16))
    cfg = group_config(
        "0-2,3",
        sae=sae_config(normalize_activations="expected_average_only_in"),
        **SMALL_LM_BATCHES,
    )
    runner = GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=model)
    seen: dict[str, Any] = {}
    build_trainer = runner._trainer

    def evaluating(batches: Any) -> Any:
        trainer = build_trainer(batches)
        fit = trainer.fit

        def fit_and_evaluate() -> Any:
            result = fit()
            assert trainer.evaluator is not None
            seen.update(
                trainer.evaluator(
                    saes=trainer.saes,
                    data_provider=batches,
                    activation_scalers={},
                    hook_names={},
                )
            )
            return result

        trainer.fit = fit_and_evaluate
        return trainer

    runner._trainer = evaluating  # type: ignore[method-assign]
    suite = runner.run()
    for layer, group in ((0, "layers_0-2"), (2, "layers_0-2"), (3, "layers_3")):
        store = ActivationsStore.from_sae(
            model, suite.layer(layer), tokens, store_batch_size_prompts=4
        )
        config = EvalConfig(
            n_eval_reconstruction_batches=10,
            n_eval_sparsity_variance_batches=10,
            compute_ce_loss=True,
            compute_variance_metrics=True,
        )
        expected, _ = run_evals(
            suite.layer(layer),
            store,
            model,
            ActivationScaler(),
            config,
            exclude_special_tokens=False,
        )
        for section in ("model_performance_preservation", "reconstruction_quality"):
            # A ratio of differences that are nearly zero in a random model.
            expected[section].pop("ce_loss_score", None)
            for name, value in expected[section].items():
                found = seen[f"{group}/layer_{layer}/{section}"][name]
                assert found == pytest.approx(value, rel=1e-4, abs=1e-5)
