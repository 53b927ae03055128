"""Silences one warning of SAELens where it would come once per layer."""

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def without_model_kwargs_advice() -> Iterator[None]:
    """For building SAEs whose model needs loading options, as most of TransformerLens's do."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r"\s*This SAE has non-empty model_from_pretrained"
        )
        yield
