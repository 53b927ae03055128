"""How numbers are written, in the terminal and on the page."""

import math
from collections.abc import Callable

_PREFIXES = {18: "E", 15: "P", 12: "T", 9: "G", 6: "M"}


def score(value: float) -> str:
    """`0.9123`; fewer decimals where the number is large, and `nan` where there is none."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 10_000:
        return f"{value:.1e}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"


def signed(value: float, written: Callable[[float], str] = score) -> str:
    """The same with a sign, for differences."""
    return written(value) if value < 0 or not math.isfinite(value) else "+" + written(value)


def interval(low: float, high: float) -> str:
    """`[-0.0150, -0.0100]`."""
    return f"[{signed(low)}, {signed(high)}]"


def count(value: float) -> str:
    """`16.0`: a mean number of features, of which a tenth can be told."""
    return f"{value:.1f}"


def as_given(value: object) -> str:
    """A setting: `40,000`, or `0.001`."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def percent(part: float) -> str:
    """`12.3%`; `nan` where there is none."""
    return f"{part:.1%}" if math.isfinite(part) else str(part)


def flops(value: float) -> str:
    """`3.21 TFLOPs`."""
    power = next((power for power in _PREFIXES if value >= 10**power), 6)
    return f"{value / 10**power:.3g} {_PREFIXES[power]}FLOPs"
