"""A suite at the blocks of a transformers model, in TransformerLens's bridge."""

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from sae_lens.load_model import HookedProxyLM
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sae_lens_groups import GroupSAETrainingRunner, SAESuite
from sae_lens_groups.demo import MODEL_FOLDER
from sae_lens_groups.errors import ConfigError
from sae_lens_groups.layers import HookTemplate

from .tiny import CONTEXT_SIZE, D_IN, group_config, make_model, make_tokens

N_LAYERS = 3
_GPT: dict[str, Any] = {"n_embd": D_IN, "n_layer": N_LAYERS, "n_head": 2, "n_positions": 32}
_LLAMA: dict[str, Any] = {
    "hidden_size": D_IN,
    "intermediate_size": 32,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
FAMILIES = [
    ("gpt_neox", "gpt_neox.layers.", _LLAMA),
    ("gpt2", "transformer.h.", _GPT),
    ("gptj", "transformer.h.", {**_GPT, "rotary_dim": 4}),
    *((name, "model.layers.", _LLAMA) for name in ("llama", "mistral", "qwen2", "phi", "olmo2")),
    *(
        (name, "model.layers.", {**_LLAMA, "head_dim": 8})
        for name in ("qwen3", "gemma", "gemma2", "gemma3_text")
    ),
]


def models(
    family: str, settings: dict[str, Any], folder: Path, bridge_class: Any
) -> tuple[HookedProxyLM, Any]:
    """A random model as SAELens hooks transformers, and as TransformerLens's bridge has it."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=64, **settings)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(MODEL_FOLDER)
    bridge = bridge_class.boot_transformers(
        str(folder), hf_model=model, tokenizer=tokenizer, device="cpu"
    )
    return HookedProxyLM(model, tokenizer), bridge


@pytest.mark.parametrize(("family", "before", "settings"), FAMILIES)
def test_the_blocks_of_a_family_are_the_hooks_that_are_named(
    family: str, before: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    ours = HookTemplate(before, "")
    theirs = ours.in_transformer_lens
    assert theirs is not None
    proxy, bridge = models(family, settings, tmp_path, TransformerBridge)
    tokens = torch.randint(0, 60, (2, 12))
    _, here = proxy.run_with_cache(tokens, names_filter=list(map(ours.hook_name, range(N_LAYERS))))
    _, there = bridge.run_with_cache(tokens)
    for layer in range(N_LAYERS):
        found = there[theirs.hook_name(layer)]
        torch.testing.assert_close(here[ours.hook_name(layer)], found, rtol=1e-4, atol=1e-5)


def test_the_same_site_under_another_name_is_a_source_and_a_baseline(tmp_path: Path) -> None:
    """A suite at `model.layers.N`, and one at `blocks.N.hook_resid_post` that starts from it."""
    proxy, _ = models("llama", _LLAMA, tmp_path / "model", TransformerBridge)
    flags: dict[str, Any] = {"hook_name": "model.layers.0", "output_path": str(tmp_path / "hf")}
    cfg = group_config("0-1,2", **flags)
    ours = GroupSAETrainingRunner(cfg, override_dataset=make_tokens(), override_model=proxy).run()
    cfg = group_config(
        "0-1,2",
        init_from=str(tmp_path / "hf"),
        output_path=str(tmp_path / "tl"),
        training_tokens=32,
        lr=1e-30,
    )
    lens = make_model()
    theirs = GroupSAETrainingRunner(cfg, override_dataset=make_tokens(), override_model=lens).run()
    for layer in range(N_LAYERS):
        assert torch.equal(ours[layer].W_dec, theirs[layer].W_dec)
    said = json.loads((tmp_path / "tl" / "suite.json").read_text())["transfer"]["layers"]
    assert said["blocks.2.hook_resid_post"]["source_hook_name"] == "blocks.2.hook_resid_post"
    for baseline in (str(tmp_path / "tl"), dict(theirs)):
        few: dict[str, Any] = {"n_batches": 2, "batch_size_prompts": 4}
        ours.evaluate(proxy, make_tokens(), baseline=baseline, **few)
        table = pd.read_csv(tmp_path / "hf" / "evaluation.csv")
        assert len(table.dropna(subset="explained_variance_baseline")) == N_LAYERS
        assert table["explained_variance_diff"].tolist() == [0] * N_LAYERS


def test_layers_under_another_name_cannot_be_kept(tmp_path: Path) -> None:
    lens, tokens = make_model(), make_tokens()
    cfg = group_config("0-1,2", output_path=str(tmp_path / "tl"))
    GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=lens).run()
    cfg = group_config(
        "2", hook_name="model.layers.0", init_from=str(tmp_path / "tl"), init_keep_layers=True
    )
    with pytest.raises(ConfigError, match="use the hook names of the suite in init_from"):
        GroupSAETrainingRunner(cfg, override_dataset=tokens, override_model=lens)


@pytest.mark.parametrize(
    "hook", ["blocks.{layer}.hook_resid_post", "model.layers.{layer}.mlp", "h.{layer}"]
)
def test_other_hooks_have_their_own_name_or_none(hook: str) -> None:
    template = HookTemplate.from_text(hook)
    assert template.in_transformer_lens in (template, None)
    assert (template.in_transformer_lens is None) == ("blocks" not in hook)


@pytest.mark.seam
def test_a_layers_files_name_the_hook_that_attaches_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proxy, bridge = models("llama", _LLAMA, tmp_path / "model", SAETransformerBridge)
    cfg = group_config("0-1,2", hook_name="model.layers.0", output_path=str(tmp_path / "suite"))
    GroupSAETrainingRunner(cfg, override_dataset=make_tokens(), override_model=proxy).run()
    sae = SAESuite.load(tmp_path / "suite")[1]
    tokens = torch.randint(0, 60, (1, CONTEXT_SIZE))
    alone = bridge(tokens)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(bridge.run_with_saes(tokens, saes=[sae]), alone)
    assert "No hook found for model.layers.1" in caplog.text
    sae.cfg.metadata.hook_name = sae.cfg.metadata.sae_lens_groups["transformer_lens_hook_name"]
    assert not torch.allclose(bridge.run_with_saes(tokens, saes=[sae]), alone, atol=1e-3)
