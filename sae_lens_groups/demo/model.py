"""The language model that ships with the package: 12 layers of GPT-NeoX, trained on Python source.

`tests/benchmarks/demo_model.py` of the repository made it. Hook names are module paths such as `gpt_neox.layers.3`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from sae_lens_groups.demo.corpus import Split, stdlib_texts

if TYPE_CHECKING:
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
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL_FOLDER)
    encodings = tokenizer.backend_tokenizer.encode_batch(stdlib_texts(split))
    ids = [token for encoding in encodings for token in (tokenizer.eos_token_id, *encoding.ids)]
    n_rows = len(ids) // context_size
    rows = torch.tensor(ids[: n_rows * context_size]).view(n_rows, context_size)
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))
    return Dataset.from_dict({"tokens": rows[order].numpy()})
