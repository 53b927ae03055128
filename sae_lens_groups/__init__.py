"""An SAE for every layer of a language model at a fraction of the cost, inside SAELens."""

import importlib
from typing import TYPE_CHECKING, Any

from sae_lens_groups._version import __version__

if TYPE_CHECKING:
    from sae_lens_groups.config import GroupSAERunnerConfig
    from sae_lens_groups.evaluate.run import evaluate_suite
    from sae_lens_groups.hookspecs import hookimpl
    from sae_lens_groups.layers import LayerGroup
    from sae_lens_groups.plan.choose import plan_groups
    from sae_lens_groups.plan.distances import LayerDistances
    from sae_lens_groups.plan.group_plan import GroupPlan
    from sae_lens_groups.plan.measure import measure_layer_distances
    from sae_lens_groups.suite import SAESuite
    from sae_lens_groups.train.cache.run import cache_activations
    from sae_lens_groups.train.run import GroupSAETrainingRunner

__all__ = [
    "GroupPlan",
    "GroupSAERunnerConfig",
    "GroupSAETrainingRunner",
    "LayerDistances",
    "LayerGroup",
    "SAESuite",
    "__version__",
    "cache_activations",
    "evaluate_suite",
    "hookimpl",
    "measure_layer_distances",
    "plan_groups",
]

# Importing SAELens takes seconds, so each name brings its module when it is first used.
_MODULES = {
    "GroupPlan": "plan.group_plan",
    "GroupSAERunnerConfig": "config",
    "GroupSAETrainingRunner": "train.run",
    "LayerDistances": "plan.distances",
    "LayerGroup": "layers",
    "SAESuite": "suite",
    "cache_activations": "train.cache.run",
    "evaluate_suite": "evaluate.run",
    "hookimpl": "hookspecs",
    "measure_layer_distances": "plan.measure",
    "plan_groups": "plan.choose",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
