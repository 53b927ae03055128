"""`GroupPlan`: the groups proposed for a model, with all that they were chosen from; `plan.json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sae_lens_groups import files
from sae_lens_groups._version import __version__
from sae_lens_groups.errors import GroupSAEError, LayerGroupsError, PlanError
from sae_lens_groups.layers import (
    HookTemplate,
    LayerGroup,
    disjoint,
    format_layer_groups,
    parse_ranges,
)
from sae_lens_groups.partitions import MANUAL
from sae_lens_groups.plan.cost import SuiteCost
from sae_lens_groups.plan.distances import LayerDistances
from sae_lens_groups.plan.level import PlanLevel

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupPlan:
    """Which layers share an SAE, chosen from a hierarchy of ways to split them.

    `plan_groups` makes plans; `save` and `load` write and read `plan.json`, which
    `layer_groups="plan.json"` trains from.
    """

    distances: LayerDistances
    partition: str
    """The registered name of the partition that made the hierarchy, such as `linkage`."""
    last_alone: bool
    """Whether the model's last layer was kept out of the groups."""
    hierarchy: tuple[PlanLevel, ...]
    """One level for each number of groups, from one group on."""
    chosen: PlanLevel
    rule: str
    """Why it was chosen, such as `AMAD < 0.2`."""
    cost: SuiteCost | None = None
    """In FLOPs; None where it was not counted."""
    time: SuiteCost | None = None
    """In seconds on the machine that made the plan; None where it was not timed."""
    versions: Mapping[str, str] = field(default_factory=lambda: {"sae-lens-groups": __version__})
    """The version of the package that made the plan."""

    @property
    def groups(self) -> tuple[LayerGroup, ...]:
        """The chosen groups, lowest first; together with the last layer's own."""
        return self.chosen.groups

    @property
    def hook_template(self) -> HookTemplate:
        """The hooks that were measured."""
        return self.distances.hook_template

    def require_fit(self, model_name: str, template: HookTemplate, n_layers: int) -> None:
        """Refuses a plan that was made for another model or hook.

        Raises:
            PlanError: says what differs.
        """
        # A local model may lie elsewhere by now.
        facts = {
            "model": (Path(self.distances.model_name).name, Path(model_name).name),
            "hook": (str(self.hook_template), str(template)),
            "number of layers": (self.distances.n_layers, n_layers),
        }
        for what, (planned, given) in facts.items():
            if planned != given:
                raise PlanError(
                    f"the plan was made for the {what} {planned!r}, and this run has {given!r}; "
                    "make a plan for this run, or name the groups themselves: "
                    f"--layer_groups {format_layer_groups(self.groups)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """The content of `plan.json`."""
        return {
            "format_version": FORMAT_VERSION,
            "model_name": self.distances.model_name,
            "hook_template": str(self.hook_template),
            "groups": [
                {
                    "name": group.name,
                    "layers": list(group.layers),
                    "hook_names": self.hook_template.hook_names([group]),
                }
                for group in self.groups
            ],
            "chosen": {**self.chosen.to_dict(), "rule": self.rule},
            "partition": self.partition,
            "last_layer": "alone" if self.last_alone else "grouped",
            "cost": None if self.cost is None else self.cost.to_dict(),
            "time": None if self.time is None else self.time.to_dict(),
            "hierarchy": [level.to_dict() for level in self.hierarchy],
            **self.distances.to_dict(),
            "versions": dict(self.versions),
        }

    def to_json(self) -> str:
        """The text of `plan.json`: a line for each row of a matrix, group or level."""
        return _readable_json(self.to_dict())

    def save(self, path: Path | str) -> Path:
        """Writes `plan.json` under this path, complete or not at all, and returns the path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, self.to_json())
        return path

    @classmethod
    def load(cls, path: Path | str) -> "GroupPlan":
        """Reads a plan. Groups that were edited by hand in `groups` are the chosen ones.

        Raises:
            PlanError: there is no plan, or it is broken or of a newer format.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(
                f"plan {str(path)!r} cannot be read: {error}; "
                "name the plan.json that `sae-lens-groups plan` wrote"
            ) from error
        try:
            return cls.from_json(text)
        except PlanError as error:
            raise PlanError(f"plan {str(path)!r}: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> "GroupPlan":
        """Reads what `to_json` wrote.

        Raises:
            PlanError: the text is no plan, or is of a newer format.
        """
        try:
            data = json.loads(text)
            version = data["format_version"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise PlanError(
                f"it is no plan ({error!r}); name the plan.json that `sae-lens-groups plan` wrote"
            ) from error
        if version != FORMAT_VERSION:
            raise PlanError(
                f"it has format_version {version!r}, and this version of sae-lens-groups reads "
                f"{FORMAT_VERSION}; upgrade sae-lens-groups"
            )
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "GroupPlan":
        """Reads what `to_dict` wrote; figures of a level are worked out from the distances anew.

        Raises:
            PlanError: an entry is missing, or the groups overlap or reach beyond the model.
        """
        try:
            return cls._from_dict(data)
        except LayerGroupsError as error:
            raise PlanError(f"its groups cannot be used: {error}") from error
        except GroupSAEError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"it is broken: {error!r}; make it again") from error

    @classmethod
    def _from_dict(cls, data: Mapping[str, Any]) -> "GroupPlan":
        before, _, after = data["hook_template"].partition("{layer}")
        template = HookTemplate(before, after)
        distances = LayerDistances.from_dict(data, data["model_name"], template)
        cost, time = (
            None if data[name] is None else SuiteCost.from_dict(data[name], distances.n_layers)
            for name in ("cost", "time")
        )
        last_alone = data["last_layer"] == "alone"

        def level(groups: tuple[LayerGroup, ...]) -> PlanLevel:
            if groups[-1].last >= distances.n_layers:
                raise LayerGroupsError(
                    f"group {groups[-1]} reaches beyond the model, whose {distances.n_layers} "
                    f"layers are 0-{distances.n_layers - 1}"
                )
            return PlanLevel.of(groups, distances, cost, last_alone=last_alone)

        groups = disjoint(LayerGroup.from_layers(group["layers"]) for group in data["groups"])
        edited = format_layer_groups(groups) != data["chosen"]["groups"]
        return cls(
            distances=distances,
            partition=data["partition"],
            last_alone=last_alone,
            hierarchy=tuple(level(parse_ranges(entry["groups"])) for entry in data["hierarchy"]),
            chosen=level(groups),
            rule=MANUAL if edited else data["chosen"]["rule"],
            cost=cost,
            time=time,
            versions=data["versions"],
        )


def _readable_json(data: Mapping[str, Any]) -> str:
    """JSON with every entry of a long list on a line of its own."""
    lines = []
    for name, value in data.items():
        if isinstance(value, list):
            items = ",\n".join(f"    {json.dumps(item)}" for item in value)
            lines.append(f"  {json.dumps(name)}: [\n{items}\n  ]")
        else:
            lines.append(f"  {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
