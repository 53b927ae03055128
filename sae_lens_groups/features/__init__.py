"""A suite's features: seen with their text on a page, followed through layers, and steered."""

from sae_lens_groups.features.choose import chosen_features
from sae_lens_groups.features.collect import collect_features
from sae_lens_groups.features.effect import steering_effects
from sae_lens_groups.features.export import delphi_encoders, write_neuronpedia
from sae_lens_groups.features.result import HISTOGRAM_EDGES, Example, SuiteFeatures
from sae_lens_groups.features.steer import steer
from sae_lens_groups.features.write import write_features

__all__ = [
    "HISTOGRAM_EDGES",
    "Example",
    "SuiteFeatures",
    "chosen_features",
    "collect_features",
    "delphi_encoders",
    "steer",
    "steering_effects",
    "write_features",
    "write_neuronpedia",
]
