"""`GroupPlan`: the groups proposed for a model, with all that they were chosen from; `plan.json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sae_lens_groups import files
from sae_lens_groups._version import __version__
from sae_lens_groups.errors import LayerGroupsError, PlanError, quoted
from sae_lens_groups.files.reading import MISREAD, require_kinds, require_texts
from sae_lens_groups.layers import (
    HookTemplate,
    LayerGroup,
    disjoint,
    format_layer_groups,
    parse_ranges,
    require_within,
)
from sae_lens_groups.plan.cost import SuiteCost
from sae_lens_groups.plan.distances import LayerDistances
from sae_lens_groups.plan.level import PlanLevel

FORMAT_VERSION = 1
_NAME_ONE = "name the plan.json that `sae-lens-groups plan` wrote"
_KINDS = {
    "model_name": str,
    "hook_template": str,
    "hook_head_index": int | None,
    "metric": str,
    "n_tokens": int,
    "partition": str,
    "groups": list,
    "hierarchy": list,
    "chosen": dict,
    "versions": dict,
}
_KINDS_OF_CHOSEN = {"chosen_by": str, "stability": int | float | None}


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
    chosen_by: str
    """Why it was chosen, such as `AMAD < 0.2`."""
    stability: float | None = None
    """The share of resamplings of the distances, within their standard errors, that give the same
    groups; None where the distances did not decide."""
    flops: SuiteCost | None = None
    """What suites cost in FLOPs; None where it was not counted."""
    seconds: SuiteCost | None = None
    """The same in seconds on the machine that made the plan; None where it was not timed."""
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

    def require_fit(
        self,
        model_name: str,
        template: HookTemplate,
        hook_head_index: int | None,
        n_layers: int,
    ) -> None:
        """Refuses a plan that was made for another model or hook.

        Raises:
            PlanError: says what differs.
        """
        # A local model may lie elsewhere by now.
        facts = {
            "model": (Path(self.distances.model_name).name, Path(model_name).name),
            "hook": (str(self.hook_template), str(template)),
            "hook_head_index": (self.distances.hook_head_index, hook_head_index),
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
            "groups": [self.hook_template.group_to_dict(group) for group in self.groups],
            "chosen": {
                "chosen_by": self.chosen_by,
                "stability": self.stability,
                **self._chosen_figures(),
            },
            "partition": self.partition,
            "last_layer": "alone" if self.last_alone else "grouped",
            "flops": None if self.flops is None else self.flops.to_dict(),
            "seconds": None if self.seconds is None else self.seconds.to_dict(),
            "hierarchy": [level.to_dict() for level in self.hierarchy],
            **self.distances.to_dict(),
            "versions": dict(self.versions),
        }

    def _chosen_figures(self) -> dict[str, Any]:
        # Its groups stand in `groups`, once, so that an edit by hand has one place.
        figures = self.chosen.to_dict()
        del figures["groups"]
        return figures

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
        except (OSError, ValueError) as error:  # the latter for what is no path or no text
            raise PlanError(f"plan {str(path)!r} cannot be read: {error}; {_NAME_ONE}") from error
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
            data = files.parse_json(text)
        except ValueError as error:
            raise PlanError(f"it is no JSON file ({error}); {_NAME_ONE}") from error
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "GroupPlan":
        """Reads what `to_dict` wrote; figures of a level are worked out from the distances anew.

        Raises:
            PlanError: an entry is missing, or the groups overlap or reach beyond the model.
        """
        try:
            version = data["format_version"]
        except (KeyError, TypeError) as error:
            raise PlanError(f"it is no plan ({quoted(error)}); {_NAME_ONE}") from error
        if version != FORMAT_VERSION:
            raise PlanError(
                f"it has format_version {quoted(version)}, and this version of sae-lens-groups reads "
                f"{FORMAT_VERSION}; upgrade sae-lens-groups"
            )
        try:
            return cls._from_dict(data)
        except LayerGroupsError as error:
            raise PlanError(f"its groups cannot be used: {error}") from error
        except PlanError:
            raise
        except MISREAD as error:
            raise PlanError(f"it is broken: {quoted(error)}; make it again") from error

    @classmethod
    def _from_dict(cls, data: Mapping[str, Any]) -> "GroupPlan":
        require_kinds(data, _KINDS)
        require_kinds(data["chosen"], _KINDS_OF_CHOSEN)
        if data["last_layer"] not in ("alone", "grouped"):
            raise ValueError(f"last_layer is {quoted(data['last_layer'])}")
        last_alone = data["last_layer"] == "alone"
        distances = LayerDistances.from_dict(data)
        flops, seconds = (
            None if data[name] is None else SuiteCost.from_dict(data[name], distances.n_layers)
            for name in ("flops", "seconds")
        )

        def level(groups: tuple[LayerGroup, ...]) -> PlanLevel:
            require_within(groups, distances.n_layers)
            return PlanLevel.of(groups, distances, flops, last_alone=last_alone)

        plan = cls(
            distances=distances,
            partition=data["partition"],
            last_alone=last_alone,
            hierarchy=tuple(level(parse_ranges(entry["groups"])) for entry in data["hierarchy"]),
            chosen=level(
                disjoint(LayerGroup.from_layers(group["layers"]) for group in data["groups"])
            ),
            chosen_by=data["chosen"]["chosen_by"],
            stability=data["chosen"]["stability"],
            flops=flops,
            seconds=seconds,
            versions=require_texts(data["versions"]),
        )
        was_edited = plan._chosen_figures().items() - data["chosen"].items()
        if was_edited:
            return replace(plan, chosen_by="edited by hand", stability=None)
        return plan


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
