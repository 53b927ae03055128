"""What a version of SAELens takes of an SAE's folder, as JSON: for tests/older_saelens_schema.json.

    old/bin/python tests/older_saelens_schema.py tests/older_saelens_schema.json

It runs in the environment of that version, without this package, and adds the version to the file.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from sae_lens import SAE, __version__
from sae_lens.registry import SAE_CLASS_REGISTRY
from sae_lens.saes.sae import SAEMetadata

# Those that a layer can be exported in; others of SAELens are transcoders and the like.
ARCHITECTURES = ("abstopk", "gated", "jumprelu", "matching_pursuit", "standard", "topk")
D_IN, D_SAE = 5, 7
# What a config without a default needs, in any version so far.
GIVEN = {"d_in": D_IN, "d_sae": D_SAE, "k": 3, "residual_threshold": 0.1}
SIZES = {D_IN: "d_in", D_SAE: "d_sae"}
PROBED = {
    "normalize_activations": [
        *("none", "expected_average_only_in", "constant_norm_rescale"),
        *("layer_norm", "covariance_whitening"),
    ],
    "reshape_activations": ["none", "hook_z"],
    "dtype": ["float32", "float16", "bfloat16"],
}


def architecture(name: str) -> dict[str, Any]:
    """The keys of cfg.json, the values that they may have, and the tensors."""
    config_class: Any = SAE_CLASS_REGISTRY[name][1]
    fields = dataclasses.fields(config_class)
    has_default = (
        field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        for field in fields
    )
    required = [field.name for field, has in zip(fields, has_default) if not has]
    given = {"architecture": name, **{key: GIVEN[key] for key in required}}
    return {
        "required": required,
        "keys": sorted(field.name for field in fields),
        "values": {
            key: [value for value in values if loads({**given, key: value})]
            for key, values in PROBED.items()
        },
        "tensors": {
            key: [SIZES.get(size, size) for size in tensor.shape]
            for key, tensor in SAE.from_dict(given).state_dict().items()
        },
    }


def loads(config: dict[str, Any]) -> bool:
    """Whether an SAE can be made of it."""
    try:
        SAE.from_dict(config)
    except Exception:
        return False
    return True


def schema() -> dict[str, Any]:
    """Of the architectures that this version loads."""
    SAEMetadata(any={"further": "key"})  # is taken; otherwise this fails
    return {name: architecture(name) for name in ARCHITECTURES if name in SAE_CLASS_REGISTRY}


if __name__ == "__main__":
    file = Path(sys.argv[1])
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**known, __version__: schema()}, indent=1) + "\n")
