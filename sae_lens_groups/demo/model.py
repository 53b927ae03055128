"""The language model that ships with the package: 12 layers of GPT-NeoX, trained on Python source.

`tests/benchmarks/demo_model.py` of the repository made it. Hook names are module paths such as `gpt_neox.layers.3`.
"""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sae_lens_groups.demo.corpus import Split, stdlib_texts

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

MODEL_FOLDER = Path(__file__).parent / "model_files"
MODEL_CLASS_NAME = "AutoModelForCausalLM"
HOOK_NAME = "gpt_neox.layers.0"
D_IN = 96
DATASET_NAME = "python-standard-library"
"""What `dataset_path` is in the demo's settings; `stdlib_tokens` gives it."""


def stdlib_tokens(split: Split, context_size: int = 128, seed: int = 0) -> "Dataset":
    """Tokens of the Python standard library's source, for the demo model.

    One row per window of `context_size` tokens, in the column `tokens`, shuffled. Files follow
    one another, each after an end-of-text token.
    """
    import torch
    from datasets import Dataset

    ids = _token_ids(split)
    n_rows = len(ids) // context_size
    rows = ids[: n_rows * context_size].view(n_rows, context_size)
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))
    return Dataset.from_dict({"tokens": rows[order].numpy()})


def _token_ids(split: Split) -> "torch.Tensor":
    """The tokens of all files in one row. Tokenising takes 6 s, so `datasets`'s cache keeps them."""
    import torch
    from datasets import config
    from safetensors.torch import load_file, save_file

    texts = stdlib_texts(split)
    digest = hashlib.sha256((MODEL_FOLDER / "tokenizer.json").read_bytes())
    digest.update("\0".join(texts).encode())
    folder = Path(config.HF_DATASETS_CACHE) / DATASET_NAME
    path = folder / f"{digest.hexdigest()}.safetensors"
    if path.exists():
        return load_file(path)["ids"].long()
    ids = torch.tensor(_tokenised(texts))
    with contextlib.suppress(OSError):  # a cache that cannot be written to
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        save_file({"ids": ids.short()}, partial)  # there are 2048 different ones
        partial.replace(path)
    return ids


def _tokenised(texts: list[str]) -> list[int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL_FOLDER)
    encodings = tokenizer.backend_tokenizer.encode_batch(texts)
    return [token for encoding in encodings for token in (tokenizer.eos_token_id, *encoding.ids)]
