"""Registers our own alignments through the hook that other packages use."""

from collections.abc import Callable

from sae_lens_groups.hookspecs import hookimpl
from sae_lens_groups.scaling.alignments import SCALE, Alignment, affine, orthogonal, scale


@hookimpl
def register_alignments(register: Callable[[str, Alignment], None]) -> None:
    """One factor, a rotation, and least squares."""
    register(SCALE, Alignment(scale, only_norms=True))
    register("orthogonal", Alignment(orthogonal, keeps_lengths=True))
    register("affine", Alignment(affine))
