"""A small real language model and its text, for the demo, the tests and the tutorials."""

from typing import TYPE_CHECKING, Any

from sae_lens_groups.demo.corpus import stdlib_texts
from sae_lens_groups.demo.model import DATASET_NAME, MODEL_FOLDER, stdlib_tokens

if TYPE_CHECKING:
    from sae_lens_groups.demo.run import demo, demo_config

__all__ = [
    "DATASET_NAME",
    "MODEL_FOLDER",
    "demo",
    "demo_config",
    "stdlib_texts",
    "stdlib_tokens",
]


def __getattr__(name: str) -> Any:
    if name in ("demo", "demo_config"):  # they bring torch, and with it a second
        from sae_lens_groups.demo import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
