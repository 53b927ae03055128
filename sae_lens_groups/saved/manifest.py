"""`suite.json`: what a suite folder holds, as one frozen value that reads and writes itself."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sae_lens_groups import files
from sae_lens_groups.errors import SuiteError, UnknownLayerError, quoted
from sae_lens_groups.files.folder import CheckedFolder
from sae_lens_groups.files.names import BESIDE_THE_LAYERS, OF_A_GROUP, OF_A_LAYER, is_of_evaluation
from sae_lens_groups.files.reading import MISREAD, positive_or_none, require_kinds, require_texts
from sae_lens_groups.layers import HookTemplate, LayerGroup, disjoint, format_layer_groups
from sae_lens_groups.plan.group_plan import GroupPlan
from sae_lens_groups.saved.transfer_report import TransferReport
from sae_lens_groups.scaling.alignments import NONE

FORMAT_VERSION = 1
"""What this version writes. It reads this and all that came before."""

_TO_DO = "copy or download the suite anew"
_KINDS = {
    "model_name": str,
    "hook_template": str,
    "groups": list,
    "layers": dict,
    "versions": dict,
}
_OPTIONAL = {
    "layer_alignment": NONE,
    "is_model_local": False,
    "dataset_rows_read": None,
    "sae_step_flops": None,
}
_KINDS_OF_OPTIONAL = {
    "layer_alignment": str,
    "is_model_local": bool,
    "dataset_rows_read": int | None,
}


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
    transfer: TransferReport | None = None
    """What the SAEs started from; None where they were trained from scratch."""
    is_model_local: bool = False
    """Whether `model_name` is what was left in public of a path: not the Hub's model of that name."""
    dataset_rows_read: int | None = None
    """Rows of the dataset that training read, from its first on; None where it is not known."""
    sae_step_flops: float | None = None
    """FLOPs per token of a training step of one group's SAE; None where they were not counted."""

    @property
    def layers(self) -> list[int]:
        """All layers of all groups, lowest first."""
        return [layer for group in self.groups for layer in group.layers]

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

    def require_layers(self, layers: Iterable[int] | None) -> list[int]:
        """These of its layers, lowest first; all where it is None.

        Raises:
            UnknownLayerError: it lacks one, or none is asked for.
        """
        if layers is None:
            return self.layers
        asked = list(layers)
        if not all(isinstance(layer, int) for layer in asked):
            raise UnknownLayerError(
                f"layers is a list of layer numbers, such as [3, 5], and not {layers!r}"
            )
        wanted = sorted(set(asked))
        unknown = [layer for layer in wanted if layer not in self.scaling_factors]
        if unknown or not wanted:
            asked = f"layers {unknown}" if unknown else "an empty list of layers"
            raise UnknownLayerError(
                f"this suite has no SAE for {asked}; it has the layers "
                f"{format_layer_groups(self.groups)}"
            )
        return wanted

    def layer_of(self, hook_name: str) -> int | None:
        """The layer of one of the suite's hooks; None for any other name."""
        layer = self.hook_template.layer_of(hook_name)
        return layer if layer in self.scaling_factors else None

    def group_of(self, layer: int) -> LayerGroup:
        """The group that a layer of the suite belongs to."""
        return next(group for group in self.groups if layer in group.layers)

    def to_dict(self) -> dict[str, Any]:
        """The content of `suite.json`."""
        return {
            "format_version": FORMAT_VERSION,
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
            **({} if self.layer_alignment == NONE else {"layer_alignment": self.layer_alignment}),
            **({} if self.plan is None else {"plan": self.plan.to_dict()}),
            **({"is_model_local": True} if self.is_model_local else {}),
            **self._transfer_entry(),
            **(
                {}
                if self.dataset_rows_read is None
                else {"dataset_rows_read": self.dataset_rows_read}
            ),
            **({} if self.sae_step_flops is None else {"sae_step_flops": self.sae_step_flops}),
        }

    def _transfer_entry(self) -> dict[str, Any]:
        if self.transfer is None:
            return {}
        return {"transfer": self.transfer.to_dict(self.hook_template)}

    def to_json(self) -> str:
        """The text of `suite.json`."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "SuiteManifest":
        """Reads `suite.json`.

        Raises:
            SuiteError: the text is no such file, contradicts itself, or is of a newer format.
        """
        try:
            data = files.parse_json(text)
            version = data["format_version"]
        except MISREAD as error:
            raise SuiteError(f"suite.json cannot be read: {quoted(error)}; {_TO_DO}") from error
        _require_readable(version)
        try:
            manifest = cls._from_dict(data)
            # Only the entries this version writes: a later one may add some without breaking it.
            # A plan's figures are worked out anew, and may come out otherwise in another version.
            # What the SAEs started from contradicts nothing.
            agrees = all(
                data.get(name) == value
                for name, value in manifest.to_dict().items()
                if name not in ("format_version", "plan", "transfer")
            )
        except SuiteError:
            raise
        except MISREAD as error:
            raise SuiteError(f"suite.json is broken: {quoted(error)}; {_TO_DO}") from error
        if not agrees:
            raise SuiteError(
                f"suite.json contradicts itself: its groups and its layers disagree; {_TO_DO}"
            )
        return manifest

    @classmethod
    def _from_dict(cls, data: Mapping[str, Any]) -> "SuiteManifest":
        require_kinds(data, _KINDS)
        require_kinds({**_OPTIONAL, **data}, _KINDS_OF_OPTIONAL)
        template = HookTemplate.from_text(data["hook_template"])
        return cls(
            groups=disjoint(LayerGroup.from_layers(group["layers"]) for group in data["groups"]),
            hook_template=template,
            scaling_factors={
                entry["layer"]: positive_or_none(entry, "scaling_factor")
                for entry in data["layers"].values()
            },
            model_name=data["model_name"],
            versions=require_texts(data["versions"]),
            layer_alignment=data.get("layer_alignment", NONE),
            plan=GroupPlan.from_dict(data["plan"]) if "plan" in data else None,
            transfer=(
                TransferReport.from_dict(data["transfer"], template) if "transfer" in data else None
            ),
            is_model_local=data.get("is_model_local", False),
            dataset_rows_read=data.get("dataset_rows_read"),
            sae_step_flops=positive_or_none({**_OPTIONAL, **data}, "sae_step_flops"),
        )


def _require_readable(version: object) -> None:
    """Refuses a format that is newer than this version, or that no version wrote."""
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise SuiteError(
            f"suite.json has format_version {quoted(version)}, which no version of "
            f"sae-lens-groups writes; {_TO_DO}"
        )
    if version > FORMAT_VERSION:
        raise SuiteError(
            f"suite.json has format_version {quoted(version)}, and this version of "
            f"sae-lens-groups reads up to {FORMAT_VERSION}; upgrade sae-lens-groups"
        )


def group_metadata(group: LayerGroup) -> dict[str, Any]:
    """The group's part of the metadata that its SAEs carry under `sae_lens_groups`."""
    return {"group": group.name, "layers": list(group.layers)}


def read_manifest(folder: CheckedFolder) -> SuiteManifest:
    """The manifest of the suite in a folder.

    Raises:
        SuiteError: there is no suite, or its manifest is broken or of a newer format.
    """
    if not folder.is_suite():
        raise SuiteError(
            f"{str(folder.path)!r} is no suite: it has no {files.SUITE}; "
            "give the output_path of a training run"
        )
    return SuiteManifest.from_json(folder.text(files.SUITE))


def is_of_suite(path: str, manifest: SuiteManifest) -> bool:
    """Whether a file is one that a suite of these layers and groups has, rather than anybody's."""
    folder, _, name = path.partition("/")
    if not name:
        return path in (files.SUITE, files.CHECKSUMS, *BESIDE_THE_LAYERS)
    if folder == files.EVALUATION_FOLDER:
        return is_of_evaluation(name, manifest.hook_names)
    if folder == files.GROUPS:
        group, _, name = name.partition("/")
        names = [group.name for group in manifest.groups]
        return group in names and OF_A_GROUP.fullmatch(name) is not None
    return folder in manifest.hook_names and name in OF_A_LAYER
