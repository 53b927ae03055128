"""An SAE for every layer of a language model at a fraction of the cost, inside SAELens."""

import importlib
from typing import TYPE_CHECKING, Any

from sae_lens_groups._version import __version__

if TYPE_CHECKING:
    from sae_lens_groups.config import GroupSAERunnerConfig
    from sae_lens_groups.evaluate import evaluate_suite, evaluate_sweep, report_page
    from sae_lens_groups.features import collect_features, steer
    from sae_lens_groups.hookspecs import hookimpl
    from sae_lens_groups.layers import LayerGroup
    from sae_lens_groups.plan import GroupPlan, LayerDistances, measure_layer_distances, plan_groups
    from sae_lens_groups.suite import SAESuite
    from sae_lens_groups.train import (
        GroupSAETrainingRunner,
        SweepTrainingRunner,
        cache_activations,
        refit_suite,
    )

__all__ = [
    "GroupPlan",
    "GroupSAERunnerConfig",
    "GroupSAETrainingRunner",
    "LayerDistances",
    "LayerGroup",
    "SAESuite",
    "SweepTrainingRunner",
    "__version__",
    "cache_activations",
    "collect_features",
    "evaluate_suite",
    "evaluate_sweep",
    "hookimpl",
    "measure_layer_distances",
    "plan_groups",
    "refit_suite",
    "report_page",
    "steer",
]

# Importing SAELens takes seconds, so each name brings its module when it is first used.
_MODULES = {
    "GroupPlan": "plan",
    "GroupSAERunnerConfig": "config",
    "GroupSAETrainingRunner": "train",
    "LayerDistances": "plan",
    "LayerGroup": "layers",
    "SAESuite": "suite",
    "SweepTrainingRunner": "train",
    "cache_activations": "train",
    "collect_features": "features",
    "evaluate_suite": "evaluate",
    "evaluate_sweep": "evaluate",
    "hookimpl": "hookspecs",
    "measure_layer_distances": "plan",
    "plan_groups": "plan",
    "refit_suite": "train",
    "report_page": "evaluate",
    "steer": "features",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
