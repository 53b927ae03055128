"""Random language models, random tokens for them, and the SAEs: speed depends on shapes alone."""

from statistics import NormalDist
from typing import Any

import torch
from datasets import Dataset
from sae_lens import TrainingSAEConfig
from sae_lens.load_model import HookedProxyLM
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from transformer_lens import HookedRootModule, HookedTransformer, HookedTransformerConfig
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tests.benchmarks.speed.jobs import (
    BATCHES_FOR_NORM_ESTIMATE,
    BFLOAT16,
    CONTEXT_SIZE,
    HOOKED_TRANSFORMER,
    JUMPRELU,
    MATRYOSHKA,
    STORE_BATCH_SIZE_PROMPTS,
    Job,
    K,
)


def make_model(job: Job) -> HookedRootModule:
    """The model as SAELens's `load_model` would return it, but for a tokenizer."""
    dtype = torch.bfloat16 if job.lm_dtype == BFLOAT16 else torch.float32
    if job.model_class == HOOKED_TRANSFORMER:
        return _transformer_lens(job, dtype)
    return _hugging_face(job, dtype)


def _transformer_lens(job: Job, dtype: torch.dtype) -> HookedTransformer:
    return HookedTransformer(
        HookedTransformerConfig(
            n_layers=job.n_layers,
            d_model=job.shape.d_model,
            n_ctx=CONTEXT_SIZE,
            d_head=job.shape.d_model // job.shape.n_heads,
            n_heads=job.shape.n_heads,
            d_vocab=job.shape.d_vocab,
            act_fn="gelu",
            normalization_type="LN",
            device=job.device,
            dtype=dtype,
        )
    ).eval()


def _hugging_face(job: Job, dtype: torch.dtype) -> HookedProxyLM:
    model = (_llama(job) if job.shape.is_llama else _gpt_neox(job)).eval()
    torch.nn.Module.to(model, device=torch.device(job.device), dtype=dtype)
    hook_names = [job.hook_name(layer) for layer in range(job.n_layers)]
    return HookedProxyLM(model, _NO_TOKENIZER, hook_names=hook_names)


def _gpt_neox(job: Job) -> PreTrainedModel:
    config = GPTNeoXConfig(intermediate_size=4 * job.shape.d_model, **_sizes(job))
    return GPTNeoXForCausalLM(config)


def _llama(job: Job) -> PreTrainedModel:
    """As SmolLM2 is made, whose perceptrons are not much wider than its residual stream."""
    config = LlamaConfig(
        intermediate_size=8 * job.shape.d_model // 3,
        num_key_value_heads=job.shape.n_key_value_heads,
        tie_word_embeddings=True,
        **_sizes(job),
    )
    return LlamaForCausalLM(config)


def _sizes(job: Job) -> dict[str, Any]:
    return {
        "num_hidden_layers": job.n_layers,
        "hidden_size": job.shape.d_model,
        "num_attention_heads": job.shape.n_heads,
        "vocab_size": job.shape.d_vocab,
        "max_position_embeddings": CONTEXT_SIZE,
    }


_NO_TOKENIZER: PreTrainedTokenizerBase = None  # type: ignore[assignment]  # the tokens are ready


def make_dataset(job: Job) -> Dataset:
    """Tokenised prompts, enough for the run, its buffer and the estimate of norms."""
    n_batches = job.n_steps + job.batches_in_buffer + BATCHES_FOR_NORM_ESTIMATE
    n_prompts = n_batches * job.batch // CONTEXT_SIZE + 2 * STORE_BATCH_SIZE_PROMPTS
    tokens = torch.randint(0, job.shape.d_vocab, (n_prompts, CONTEXT_SIZE))
    return Dataset.from_dict({"input_ids": tokens.numpy()})


def sae_config(job: Job) -> TrainingSAEConfig:
    """SAELens's defaults, in the job's shape; Matryoshka's levels are a 16th, a quarter and all."""
    d_sae = job.shape.d_sae
    own: dict[str, Any] = {"k": K}
    if job.architecture == MATRYOSHKA:
        own["matryoshka_widths"] = [d_sae // 16, d_sae // 4, d_sae]
    if job.architecture == JUMPRELU:
        own = {"decoder_init_norm": 1.0, "jumprelu_init_threshold": _threshold_of_trained(d_sae)}
    config_class: Any = SAE_TRAINING_CLASS_REGISTRY[job.architecture][1]
    return config_class(
        d_in=job.shape.d_model,
        d_sae=d_sae,
        **own,
        device=job.device,
        normalize_activations=job.normalize_activations,
    )


def _threshold_of_trained(d_sae: int) -> float:
    """Above which K latents of a row are, as late in training, whatever they are at first.

    Of rows of norm sqrt(d_in) and decoder rows of norm 1, which few steps change little, a
    pre-activation is about normal.
    """
    return NormalDist().inv_cdf(1 - K / d_sae)
