"""Steers a feature while a model runs: on all layers of its group, or on some.

Shapes: S sequences, T positions, D = d_in.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import pandas as pd
import torch
from sae_lens import SAE
from sae_lens.load_model import HookedProxyLM

from sae_lens_groups import files
from sae_lens_groups.activations import Site, norms_of, taking_flat_heads
from sae_lens_groups.errors import ConfigError, HookNameError, SuiteError, quoted
from sae_lens_groups.features.result import SuiteFeatures
from sae_lens_groups.layers import LayerGroup, Layers, in_words
from sae_lens_groups.suite import SAESuite

Mode = Literal["add", "scale", "ablate"]
_Change = Callable[[torch.Tensor], torch.Tensor]


@contextlib.contextmanager
def steer(
    model: torch.nn.Module,
    suite: SAESuite,
    feature: str | int,
    layers: Layers | Literal["all"] = "all",
    strength: float = 1.0,
    mode: Mode = "add",
    *,
    found: SuiteFeatures | None = None,
) -> Iterator[None]:
    """For the block the model computes with a feature turned up, down or off; then as before.

    `generate` and batches work as ever. Nothing of the model is replaced: each layer gets a forward
    hook, which is taken away when the block ends. The SAE computes in its own dtype, and the model
    goes on in its own.

    Args:
        model: a `HookedTransformer`, a model of transformers, or what SAELens's `load_model` gives.
        suite: the suite, whose SAEs say what the feature is.
        feature: as the page calls it, `layers_4-7/17`; its number alone where `layers` or the suite
            tell the group.
        layers: where, by number, hook name or group; `all` are those of the feature's group.
        strength: for `add` how much, in multiples of the feature's highest activation on each layer;
            for `scale` what its own activation is multiplied by.
        mode: `add` adds to every token, `scale` changes what the feature does where it fires, and
            `ablate` takes it away there. Both leave alone tokens that training left out for their
            norm (`max_activation_norm` of the SAE).
        found: what `collect_features` found, for the highest activations; None: what it wrote into
            the suite's folder.

    Raises:
        ConfigError: there is no such feature or mode.
        UnknownLayerError: the suite lacks a layer.
        HookNameError: the model does.
        SuiteError: nobody knows the feature's highest activation.
    """
    if mode not in get_args(Mode):
        raise ConfigError(f"mode {quoted(mode)} is none of {', '.join(get_args(Mode))}")
    group, index = _feature(suite, feature, layers)
    at = _layers(suite, group, layers)
    units = _highest(suite, f"{group.name}/{index}", found) if mode == "add" else {}
    with contextlib.ExitStack() as hooks:
        for layer in at:
            sae, hook_name = suite[layer], suite.manifest.hook_template.hook_name(layer)
            size = strength * units[layer] if mode == "add" else 0.0
            by = {"add": None, "scale": strength - 1.0, "ablate": -1.0}[mode]
            change = _changing(
                sae, Site(hook_name, sae.cfg.metadata.hook_head_index), index, size, by
            )
            handle = _module(model, suite, layer).register_forward_hook(_as_hook(change))
            hooks.callback(handle.remove)
        yield


def _changing(sae: SAE[Any], site: Site, index: int, size: float, by: float | None) -> _Change:
    """Adds a feature of this size to every token, or of its own size times `by` where it fires.

    What an SAE makes of a massive activation, which training left out, means nothing, and is as large.
    """
    limit = sae.cfg.metadata.max_activation_norm
    if sae.cfg.normalize_activations != "none":
        raise SuiteError(
            f"the SAE at {site.hook_name} rescales every token (normalize_activations "
            f"{sae.cfg.normalize_activations!r}), so that a feature has no direction of its own"
        )

    def changed(acts: torch.Tensor) -> torch.Tensor:
        rows_STD = site.rows(acts)
        direction_D = sae.W_dec[index]
        if by is None:
            delta = size * direction_D
        else:
            with taking_flat_heads(sae):
                features = sae.encode(rows_STD.to(device=sae.device, dtype=sae.dtype))
            features = features.to_dense() if features.is_sparse else features
            delta = by * features[..., index, None] * direction_D
            if limit is not None:
                is_massive_ST = norms_of(rows_STD) > limit
                delta = delta.masked_fill(is_massive_ST[..., None].to(delta.device), 0.0)
        return site.with_rows(acts, rows_STD + delta.to(rows_STD))

    return changed


def _as_hook(change: _Change) -> Callable[[torch.nn.Module, Any, Any], Any]:
    """A block of transformers may give a tuple, whose first part is the residual stream."""

    def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, torch.Tensor):
            return change(output)
        return (change(output[0]), *output[1:])

    return hook


def _module(model: torch.nn.Module, suite: SAESuite, layer: int) -> torch.nn.Module:
    """What computes the activations of a layer."""
    template = suite.manifest.hook_template
    names = [template.hook_name(layer)]
    if template.in_transformer_lens is not None:
        names.append(template.in_transformer_lens.hook_name(layer))
    if isinstance(model, HookedProxyLM):
        model = model.model
    modules = {**getattr(model, "hook_dict", {}), **dict(model.named_modules())}
    for name in names:
        if name in modules:
            return modules[name]
    raise HookNameError(
        f"the model has no {' or '.join(names)}; give the model that the suite was trained on, in "
        "the class that it was trained with"
    )


def _feature(suite: SAESuite, feature: str | int, layers: Any) -> tuple[LayerGroup, int]:
    """The group and the number of a feature."""
    group_name, _, number = str(feature).rpartition("/")
    group = suite.manifest.group_named(group_name) if group_name else _only_group(suite, layers)
    d_sae = 0 if group is None else suite[group.first].cfg.d_sae
    if group is None or not number.isdecimal() or int(number) >= d_sae:
        names = ", ".join(
            f"{of.name}/0 to {of.name}/{suite[of.first].cfg.d_sae - 1}" for of in suite.groups
        )
        raise ConfigError(f"the suite has no feature {quoted(feature)}; it has {names}")
    return group, int(number)


def _only_group(suite: SAESuite, layers: Any) -> LayerGroup | None:
    """The group of a feature that is named by its number."""
    asked = (
        suite.layers
        if isinstance(layers, str) and layers == "all"
        else suite.manifest.require_layers(layers)
    )
    groups = {suite.manifest.group_of(layer) for layer in asked}
    return groups.pop() if len(groups) == 1 else None


def _layers(suite: SAESuite, group: LayerGroup, layers: Any) -> list[int]:
    if isinstance(layers, str) and layers == "all":
        return [*group.layers]
    asked = suite.manifest.require_layers(layers)
    others = [layer for layer in asked if layer not in group.layers]
    if others:
        raise ConfigError(
            f"{group.name} has no {in_words(others)}; a feature is one on the layers of its group"
        )
    return asked


def _highest(suite: SAESuite, name: str, found: SuiteFeatures | None) -> dict[int, float]:
    """A feature's highest activation on each layer of its group."""
    if found is not None:
        of, c = found.find(name)
        return {at.layer: float(at.highest_C[c]) for at in of.layers}
    folder = suite.source_folder
    path = None if folder is None else folder / files.FEATURES_FOLDER / files.FEATURES_TABLE
    if path is None or not path.is_file():
        raise SuiteError(
            "nobody has looked at this suite's features, so that the highest activation of "
            f"{name} is not known; call suite.features(model, dataset) before"
        )
    with files.refusing(SuiteError, f"{files.FEATURES_TABLE} cannot be read", "write it again"):
        table = pd.read_csv(path, usecols=["feature", "layer", "highest"])
    rows = table[table["feature"] == name]
    if rows.empty:
        raise SuiteError(f"{name} is not in {files.FEATURES_TABLE}; look at it too (--features)")
    return dict(zip(rows["layer"].tolist(), rows["highest"].tolist()))
