"""Trains the language model that ships with the package: `python -m tests.benchmarks.demo_model FOLDER`.

A GPT-NeoX model of 12 layers on the Python standard library's source. It prints its held-out
loss beside that of a unigram model of the same tokens. The package holds the result, so nobody
needs to run this; it is kept so that anybody can.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from sae_lens_groups.demo.corpus import Split, stdlib_texts

END_OF_TEXT = "<|endoftext|>"
VOCAB_SIZE = 2048
_CONTEXT_SIZE = 256
# 12 layers * 12 * 96^2 = 1.33M in the blocks, 2 * 2048 * 96 = 0.39M in the embeddings: 3.4 MB in float16.
MODEL_CONFIG: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 96,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "max_position_embeddings": _CONTEXT_SIZE,
    "rotary_pct": 0.5,
    "use_parallel_residual": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def main() -> None:
    """Trains the tokenizer and the model and writes both to the folder given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3)
    args = parser.parse_args()

    torch.manual_seed(0)
    tokenizer = train_tokenizer(stdlib_texts("train"))
    train_tokens, held_out_tokens = tokenize(tokenizer, "train"), tokenize(tokenizer, "held_out")
    print(
        f"{len(train_tokens):,} tokens to train on, {len(held_out_tokens):,} held out", flush=True
    )

    model = GPTNeoXForCausalLM(GPTNeoXConfig(**MODEL_CONFIG))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    train_model(model, train_tokens, args.steps, args.batch_size, args.lr)

    save(model, tokenizer, args.folder)
    reloaded = GPTNeoXForCausalLM.from_pretrained(args.folder)  # the float16 weights users get
    print(f"held-out loss: {held_out_loss(reloaded, held_out_tokens):.3f} nats per token")
    print(f"unigram model: {unigram_loss(train_tokens, held_out_tokens):.3f} nats per token")


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with one special token, as GPT-NeoX has it."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
    )


def tokenize(tokenizer: PreTrainedTokenizerFast, split: Split) -> torch.Tensor:
    """All tokens of a split in one row, each file after an end-of-text token. Shape (n_tokens,)."""
    bos = tokenizer.bos_token_id
    ids = [
        i
        for text in stdlib_texts(split)
        for i in [bos, *tokenizer.backend_tokenizer.encode(text).ids]
    ]
    return torch.tensor(ids)


def train_model(
    model: GPTNeoXForCausalLM, tokens: torch.Tensor, steps: int, batch_size: int, lr: float
) -> None:
    """AdamW with a short warm-up and a cosine decay to a tenth of `lr`."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.1, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / 200) * (0.55 + 0.45 * math.cos(math.pi * step / steps)),
    )
    model.train()
    start = time.time()
    for step, batch in enumerate(random_batches(tokens, batch_size, steps)):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step:5d} loss {loss.item():.3f} {time.time() - start:.0f} s", flush=True)
    model.eval()


def random_batches(tokens: torch.Tensor, batch_size: int, steps: int) -> Iterator[torch.Tensor]:
    """`steps` batches of random windows. Each of shape (batch_size, context size)."""
    offsets = torch.arange(_CONTEXT_SIZE)
    for _ in range(steps):
        starts = torch.randint(len(tokens) - _CONTEXT_SIZE, (batch_size, 1))
        yield tokens[starts + offsets]


def save(model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the model with float16 weights that load as float32."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _change_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    weights_path = folder / "model.safetensors"
    weights = {name: w.half() for name, w in load_file(weights_path).items()}
    save_file(weights, weights_path, metadata={"format": "pt"})
    # transformers loads weights in the dtype that the config names, whatever the file holds.
    _change_json(folder / "config.json", dtype="float32")


def _change_json(path: Path, **changes: str) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}, indent=2) + "\n")


@torch.no_grad()
def held_out_loss(model: GPTNeoXForCausalLM, tokens: torch.Tensor) -> float:
    """Mean next-token loss in nats over consecutive windows of the context size."""
    model.eval()
    windows = tokens[: len(tokens) // _CONTEXT_SIZE * _CONTEXT_SIZE].view(-1, _CONTEXT_SIZE)
    losses = [model(input_ids=batch, labels=batch).loss * len(batch) for batch in windows.split(32)]
    return (torch.stack(losses).sum() / len(windows)).item()


def unigram_loss(train_tokens: torch.Tensor, held_out_tokens: torch.Tensor) -> float:
    """Mean loss in nats of a model that knows only how often each token occurs (add-one smoothed)."""
    counts = torch.bincount(train_tokens, minlength=VOCAB_SIZE).double() + 1
    return -(counts / counts.sum()).log()[held_out_tokens].mean().item()


if __name__ == "__main__":
    main()
