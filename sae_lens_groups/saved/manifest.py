"""`suite.json`: what a suite folder holds, as one frozen value that reads and writes itself."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from numbers import Integral
from typing import Any

from sae_lens_groups import files
from sae_lens_groups.errors import SuiteError, UnknownLayerError, quoted
from sae_lens_groups.files import find_file
from sae_lens_groups.layers import (
    HookTemplate,
    LayerGroup,
    Layers,
    disjoint,
    format_layer_groups,
)
from sae_lens_groups.plan import GroupPlan, PlanEntries
from sae_lens_groups.saved.transfer_report import TransferReport
from sae_lens_groups.scaling import NONE


class _Group(files.Entries):
    name: str
    layers: list[int]
    hook_names: list[str]


class _Layer(files.Entries):
    layer: int
    group: str
    scaling_factor: files.Positive | None


class _Entries(files.FileEntries):
    model_name: str
    hook_template: str
    groups: list[_Group]
    layers: dict[str, _Layer]
    versions: dict[str, str]
    layer_alignment: str = NONE
    plan: PlanEntries | None = None
    is_model_local: bool = False
    transfer: TransferReport | None = None
    dataset_rows_read: int | None = None
    dataset_fingerprint: str | None = None
    sae_step_flops: files.Positive | None = None
    training_step: str | None = None
    refit_tokens: int | None = None
    recipe: str | None = None


@dataclass(frozen=True, kw_only=True)
class SuiteManifest:
    """The groups of a suite, and how each layer's activations were scaled."""

    groups: tuple[LayerGroup, ...]
    hook_template: HookTemplate
    scaling_factors: Mapping[int, float | None]
    """Per layer, what its activations were multiplied by in training; None where they were not."""
    model_name: str
    versions: Mapping[str, str]
    """The versions of the packages that trained the suite."""
    layer_alignment: str = NONE
    """How every layer was mapped to its group's middle layer."""
    plan: GroupPlan | None = None
    """What the groups were chosen from; None where they were named, or follow a rule."""
    is_model_local: bool = False
    """Whether `model_name` is what was left in public of a path: not the Hub's model of that name."""
    transfer: TransferReport | None = None
    """What the SAEs started from; None where they were trained from scratch."""
    dataset_rows_read: int | None = None
    """Rows of the dataset that training read, from its first on; None where it is not known."""
    dataset_fingerprint: str | None = None
    """Of the rows that training read first, so that the dataset is known wherever it lies."""
    sae_step_flops: float | None = None
    """FLOPs per token of a training step of one group's SAE; None where they were not counted."""
    training_step: str | None = None
    """Whether the SAEs were trained with a fast step, and why not; None where it is not known."""
    refit_tokens: int | None = None
    """Tokens that each layer's decoder was refitted on after training; None where it is its group's."""
    recipe: str | None = None
    """How it was made, where more than one run made it: what `sae-lens-groups suite` did."""

    @property
    def layers(self) -> list[int]:
        """All layers of all groups, lowest first."""
        return [layer for group in self.groups for layer in group.layers]

    @property
    def rows_trained_on(self) -> int | None:
        """`dataset_rows_read`, with the row in progress, which nobody counted before 0.10."""
        is_old = self.training_step is None  # which is written since then
        return None if self.dataset_rows_read is None else self.dataset_rows_read + is_old

    @property
    def trained_groups(self) -> tuple[LayerGroup, ...]:
        """The groups that the run trained, rather than took over from what it started from."""
        if self.transfer is None:
            return self.groups
        trained = self.transfer.source_layers
        return tuple(group for group in self.groups if group.first in trained)

    @property
    def hook_names(self) -> list[str]:
        """The hook of each layer, lowest layer first."""
        return self.hook_template.hook_names(self.groups)

    @property
    def is_imported(self) -> bool:
        """Whether the SAEs were trained elsewhere, so that nothing is known of how."""
        return "sae-lens-groups" not in self.versions

    def require_layers(self, layers: Layers | None) -> list[int]:
        """These of its layers, lowest first; all where it is None.

        Raises:
            UnknownLayerError: it lacks one, or none is asked for.
        """
        if layers is None:
            return self.layers
        given: list[object] = [layers]
        if isinstance(layers, Iterable) and not isinstance(layers, str):
            given = [*layers]
        found = [self._layers_named(each) for each in given]
        unknown = [each for each, of_it in zip(given, found) if not of_it]
        if unknown or not given:
            asked = f"layers {quoted(unknown)}" if unknown else "an empty list of layers"
            raise UnknownLayerError(
                f"this suite has no SAE for {asked}; it has the layers "
                f"{format_layer_groups(self.groups)}"
            )
        return sorted({layer for of_it in found for layer in of_it})

    def _layers_named(self, asked: object) -> Iterable[int]:
        layer = self.layer_of(asked)
        group = self.group_named(asked) if layer is None else None
        return [layer] if layer is not None else () if group is None else group.layers

    def layer_of(self, asked: object) -> int | None:
        """The layer of this number or hook name; None where the suite has none."""
        if isinstance(asked, str):
            names = {name: n for n, name in zip(self.layers, self.hook_names)}
            return names.get(asked, {str(n): n for n in self.layers}.get(asked))
        if not isinstance(asked, Integral) or isinstance(asked, bool):
            return None
        return int(asked) if asked in self.scaling_factors else None

    def group_named(self, asked: object) -> LayerGroup | None:
        """The group that is asked for, by its name or a layer of it; None where there is none."""
        layer = self.layer_of(asked)
        for group in self.groups:
            if layer in group.layers or asked in (group, group.name, str(group)):
                return group
        return None

    def require_group(self, asked: LayerGroup | str | int) -> LayerGroup:
        """The same, refused where there is none."""
        found = self.group_named(asked)
        if found is None:
            names = ", ".join(group.name for group in self.groups)
            raise UnknownLayerError(
                f"this suite has no group {quoted(str(asked))}; its groups are {names}"
            )
        return found

    def group_of(self, layer: int) -> LayerGroup:
        """The group that a layer of the suite belongs to."""
        return next(group for group in self.groups if layer in group.layers)

    def to_dict(self) -> dict[str, Any]:
        """The content of `suite.json`; what has a default stands there only if it differs."""
        optional = {
            of.name: value
            for of in fields(self)
            if of.default is not MISSING and (value := getattr(self, of.name)) != of.default
        }
        if self.plan is not None:
            optional["plan"] = self.plan.to_dict()
        if self.transfer is not None:
            optional["transfer"] = self.transfer.model_dump(exclude_none=True)
        return {
            "format_version": _Entries.newest_format,
            "model_name": self.model_name,
            "hook_template": str(self.hook_template),
            "groups": [self.hook_template.group_to_dict(group) for group in self.groups],
            "layers": {
                self.hook_template.hook_name(layer): {
                    "layer": layer,
                    "group": self.group_of(layer).name,
                    "scaling_factor": self.scaling_factors[layer],
                }
                for layer in self.layers
            },
            "versions": dict(self.versions),
            **optional,
        }

    def to_json(self) -> str:
        """The text of `suite.json`."""
        return files.json_text(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> "SuiteManifest":
        """Reads `suite.json`.

        Raises:
            SuiteError: the text is no such file, contradicts itself, or is of a newer format.
        """
        to_do = "copy or download the suite again"
        with files.refusing(SuiteError, f"{files.SUITE} cannot be read", to_do):
            return cls._from_entries(files.read_entries(_Entries, text))

    @classmethod
    def _from_entries(cls, saved: _Entries) -> "SuiteManifest":
        facts = vars(saved) | {
            "groups": disjoint(LayerGroup.from_layers(group.layers) for group in saved.groups),
            "hook_template": HookTemplate.from_text(saved.hook_template),
            "scaling_factors": {of.layer: of.scaling_factor for of in saved.layers.values()},
            "plan": saved.plan and GroupPlan.from_entries(saved.plan),
        }
        del facts["format_version"], facts["layers"]
        manifest = cls(**facts)
        if manifest.transfer is not None:
            manifest.transfer.require_of(manifest.hook_template)
        told = saved.model_dump(include={"groups", "layers"})
        has_all = sorted(manifest.scaling_factors) == manifest.layers
        if not has_all or not told.items() <= manifest.to_dict().items():
            raise ValueError("it contradicts itself: its groups and its layers disagree")
        return manifest


def group_metadata(group: LayerGroup) -> dict[str, Any]:
    """The group's part of the metadata that its SAEs carry under `sae_lens_groups`."""
    return {"group": group.name, "layers": list(group.layers)}


def is_of_suite(path: str, manifest: SuiteManifest) -> bool:
    """Whether a file is one that a suite of these layers and groups has, rather than anybody's."""
    groups = [group.name for group in manifest.groups]
    found = find_file(path, "suite", hook_name=manifest.hook_names, group=groups)
    return found is not None and path != files.CARD  # which is merged with what others wrote there
