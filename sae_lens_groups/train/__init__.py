"""Rows in, a suite out: one shared pass of the language model trains an SAE per group."""

from sae_lens_groups.train.cache.layout import ALL_ROWS, CACHE_DTYPES, CACHE_ROWS, DRAWN_ROWS
from sae_lens_groups.train.cache.run import CacheRun, cache_activations
from sae_lens_groups.train.cost import count_flops, time_steps
from sae_lens_groups.train.fast_step import (
    ActiveLatents,
    PreActivations,
    SparseStep,
    TopKLikeStep,
)
from sae_lens_groups.train.prepare import settle
from sae_lens_groups.train.progress import followed_by
from sae_lens_groups.train.ranks.world import world_of_process
from sae_lens_groups.train.recipe import Budget, SuiteParts, SuiteRecipe
from sae_lens_groups.train.refit.suite import (
    is_text_of_training,
    refit_suite,
    refit_text,
    require_refittable_suite,
)
from sae_lens_groups.train.run_text import dry_run, run_text
from sae_lens_groups.train.runner import GroupSAETrainingRunner, SweepTrainingRunner
from sae_lens_groups.train.sweep import replace_flags

__all__ = [
    "ALL_ROWS",
    "CACHE_DTYPES",
    "CACHE_ROWS",
    "DRAWN_ROWS",
    "ActiveLatents",
    "Budget",
    "CacheRun",
    "GroupSAETrainingRunner",
    "PreActivations",
    "SparseStep",
    "SuiteParts",
    "SuiteRecipe",
    "SweepTrainingRunner",
    "TopKLikeStep",
    "cache_activations",
    "count_flops",
    "dry_run",
    "followed_by",
    "is_text_of_training",
    "refit_suite",
    "refit_text",
    "replace_flags",
    "require_refittable_suite",
    "run_text",
    "settle",
    "time_steps",
    "world_of_process",
]
