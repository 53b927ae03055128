"""Opens what a suite is compared with: another suite, or SAEs that SAELens trained."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sae_lens import SAE
from sae_lens.saes.sae import SAEMetadata

from sae_lens_groups import files
from sae_lens_groups.activations import DatasetId
from sae_lens_groups.errors import HookNameError
from sae_lens_groups.layers import HookTemplate
from sae_lens_groups.saved import RenamedSource, named_by, open_saes
from sae_lens_groups.suite import SAESuite


@dataclass(frozen=True)
class Baseline:
    """SAEs by hook name, which take a layer's activations as they are."""

    name: str
    saes: Mapping[str, SAE[Any]]
    n_saes: int
    """How many were trained: fewer than layers where layers share one."""
    is_one_run: bool = False
    """Whether one run trained them all."""
    runner_cfg: Mapping[str, Any] | None = None
    """The settings of the run, where they are known."""
    dataset: DatasetId = field(default_factory=DatasetId)
    """What its training read, where it is known,"""
    dataset_rows_read: int | None = None
    """and how many rows of it."""

    @classmethod
    def of(
        cls, saes: "Baseline | Mapping[str, SAE[Any]] | str | Path", name: str = "baseline"
    ) -> "Baseline":
        """What is known of these SAEs; a suite knows how it was trained, and its folder's name."""
        if isinstance(saes, str | Path):
            return open_baseline(saes)
        if isinstance(saes, Baseline):
            return saes
        if not isinstance(saes, SAESuite):
            return cls(name, saes, len(saes))
        return cls(
            name if saes.path is None else saes.path.resolve().name,
            saes,
            len(saes.manifest.trained_groups),
            is_one_run=not saes.manifest.is_imported,
            runner_cfg=saes.runner_cfg,
            dataset=DatasetId(
                (saes.runner_cfg or {}).get("dataset_path"), saes.manifest.dataset_fingerprint
            ),
            dataset_rows_read=saes.manifest.rows_trained_on,
        )

    def named_as(self, template: HookTemplate) -> "Baseline":
        """The same, under the hook names of this template where they are others for the same site."""
        if isinstance(self.saes, SAESuite):
            source = self.saes.source
            theirs = source.manifest.hook_template
            if theirs == template or not theirs.is_same_site(template):
                return self
            layers, device = list(self.saes.layers), self.saes.device
            return replace(
                self, saes=SAESuite(RenamedSource(source, template), layers, device=device)
            )
        return replace(self, saes={_named(name, template): sae for name, sae in self.saes.items()})

    @property
    def trained_hook_names(self) -> list[str]:
        """The hooks that its training read; a filled-in suite was trained at some of its own."""
        if isinstance(self.saes, SAESuite):
            manifest = self.saes.manifest
            return manifest.hook_template.hook_names(manifest.trained_groups)
        return list(self.saes)

    def metadata(self, hook_name: str) -> SAEMetadata:
        """What its SAE there says of its training; the SAE itself is not kept in memory."""
        if not isinstance(self.saes, SAESuite):
            return self.saes[hook_name].cfg.metadata
        layer = self.saes.manifest.layer_of(hook_name)
        assert layer is not None
        return self.saes.source.layer(layer).cfg.metadata


def _named(hook_name: str, template: HookTemplate) -> str:
    """A hook's name in the template, where it is one for the same site."""
    try:
        theirs = HookTemplate.from_hook_name(hook_name)
    except HookNameError:
        return hook_name
    layer = theirs.layer_of(hook_name)
    if layer is None or not theirs.is_same_site(template):
        return hook_name
    return template.hook_name(layer)


def open_baseline(place: str | Path, device: str = "cpu") -> Baseline:
    """A suite, or SAEs that SAELens trained, in any of the forms of `init_from`."""
    folder = files.expanded(place)
    name = folder.resolve().name if files.exists(folder) else str(place)
    with named_by("baseline"):
        return Baseline.of(SAESuite(open_saes(str(place)), device=device), name)
