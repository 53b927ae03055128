"""Takes settings over from another run, without what SAELens had worked out from them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# SAELens appends the W&B id, or eight hexadecimal digits (in 6.44, eight letters and digits).
_RUN_ID = re.compile(r"[0-9a-z]{8}")


def underived(values: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `flags` over them, and None for what SAELens is to derive from those anew.

    SAELens fills in `llm_device` from `device`, `lr_end` from `lr` and so on. Taken over as they
    are, a new `device` would leave the language model on the old one.
    """
    merged = {**values, **flags}
    derived = {
        "llm_device": ("device", values.get("device")),
        "act_store_device": ("device", values.get("device")),
        "lr_end": ("lr", _tenth(values.get("lr"))),
        "model_from_pretrained_kwargs": (
            "model_class_name",
            {"center_writing_weights": False}
            if values.get("model_class_name") == "HookedTransformer"
            else {},
        ),
    }
    for name, (source, value) in derived.items():
        if source in flags and name not in flags and values.get(name) == value:
            merged[name] = None
    return merged


def _tenth(lr: object) -> float | None:
    return lr / 10 if isinstance(lr, int | float) else None


def without_run_id(checkpoint_path: str | None, wandb_id: str | None) -> str | None:
    """The checkpoint path as the user gave it, without the id that SAELens appended."""
    if checkpoint_path is None:
        return None
    path = Path(checkpoint_path)
    if path.name == wandb_id or _RUN_ID.fullmatch(path.name):
        return str(path.parent)
    return checkpoint_path


def with_run_id(checkpoint_path: str | None, default_with_id: str | None) -> str | None:
    """`checkpoint_path` with the run id that the config generated for its default path."""
    if checkpoint_path is None or default_with_id is None:
        return None
    return f"{checkpoint_path}/{Path(default_with_id).name}"
