"""Registers our own steps through the hook that other packages use."""

from collections.abc import Callable
from typing import Any

from sae_lens_groups.hookspecs import hookimpl
from sae_lens_groups.train.fast_step.abstopk import AbsTopKStep
from sae_lens_groups.train.fast_step.batchtopk import BatchTopKStep, MatryoshkaBatchTopKStep
from sae_lens_groups.train.fast_step.jumprelu import JumpReLUStep
from sae_lens_groups.train.fast_step.sparse_step import SparseStep
from sae_lens_groups.train.fast_step.standard import StandardStep
from sae_lens_groups.train.fast_step.topk import TopKStep


@hookimpl
def register_fast_steps(register: Callable[[str, type[SparseStep[Any]]], None]) -> None:
    """Those of SAELens's architectures of which few latents are active."""
    register("topk", TopKStep)
    register("batchtopk", BatchTopKStep)
    register("abstopk", AbsTopKStep)
    register("jumprelu", JumpReLUStep)
    register("matryoshka_batchtopk", MatryoshkaBatchTopKStep)
    register("standard", StandardStep)
