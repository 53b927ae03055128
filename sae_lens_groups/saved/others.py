"""What is known of SAEs that others trained, in the form of a suite's manifest."""

from collections.abc import Mapping

from sae_lens_groups.errors import HookNameError, SuiteError
from sae_lens_groups.layers import HookTemplate, LayerGroup
from sae_lens_groups.saved.manifest import SuiteManifest
from sae_lens_groups.saved.sae import SavedSAE


def imported_manifest(name: str, saes: Mapping[str, SavedSAE]) -> SuiteManifest:
    """What is known of SAEs that were trained elsewhere, one for each layer.

    Raises:
        SuiteError: they are not for one kind of hook.
    """
    templates = {_template(name, hook_name, sae) for hook_name, sae in saes.items()}
    kinds = sorted(map(str, templates))
    if len(kinds) > 1:
        raise SuiteError(
            f"{name!r} holds SAEs for {len(kinds)} kinds of hooks, {', '.join(kinds)}; "
            "give a folder that has one kind (of a repository on the Hub, `hf download` makes one)"
        )
    template = HookTemplate.from_text(kinds[0])
    layers = sorted(n for hook_name in saes if (n := template.layer_of(hook_name)) is not None)
    metadata = next(iter(saes.values())).metadata
    return SuiteManifest(
        groups=tuple(LayerGroup(layer, layer) for layer in layers),
        hook_template=template,
        scaling_factors={
            layer: _scaling_factor(saes[template.hook_name(layer)]) for layer in layers
        },
        model_name=str(metadata.get("model_name") or "unknown"),
        versions={"sae-lens": str(metadata.get("sae_lens_version") or "unknown")},
    )


def _template(name: str, hook_name: str, sae: SavedSAE) -> HookTemplate:
    try:
        return HookTemplate.from_hook_name(hook_name)
    except HookNameError as error:
        raise SuiteError(
            f"{name!r} is no suite, because of the SAE in {sae.folder.name!r}: {error}"
        ) from error


def _scaling_factor(sae: SavedSAE) -> float | None:
    """What the SAE says, if it comes from a suite of ours."""
    return (sae.metadata.get("sae_lens_groups") or {}).get("scaling_factor")
