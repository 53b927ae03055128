"""`GroupPlan`: the groups proposed for a model, with all that they were chosen from; `plan.json`."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, field_validator

from sae_lens_groups import files
from sae_lens_groups._version import __version__
from sae_lens_groups.errors import PlanError
from sae_lens_groups.layers import (
    HookTemplate,
    LayerGroup,
    disjoint,
    format_layer_groups,
    parse_ranges,
    require_within,
)
from sae_lens_groups.plan.cost import CostEntries, SuiteCost
from sae_lens_groups.plan.distances import LayerDistances
from sae_lens_groups.plan.level import PlanLevel


class _Group(files.Entries):
    layers: list[int]


class _Level(files.Entries):
    groups: str


class _Chosen(files.Entries):
    model_config = ConfigDict(extra="allow")  # the figures, which are worked out anew
    chosen_by: str
    stability: float | None


class PlanEntries(files.FileEntries):
    """The entries of `plan.json`, as far as they are read."""

    groups: list[_Group]
    chosen: _Chosen
    partition: str
    last_layer: Literal["alone", "grouped"]
    flops: CostEntries | None
    seconds: CostEntries | None
    hierarchy: list[_Level]
    model_name: str
    hook_template: str
    hook_head_index: int | None
    metric: str
    n_tokens: int
    distances: list[list[float]]
    standard_errors: list[list[float]]
    versions: dict[str, str]

    @field_validator("distances", "standard_errors")
    @classmethod
    def _require_rows_alike(cls, rows: list[list[float]]) -> list[list[float]]:
        if len(set(map(len, rows))) > 1:
            raise ValueError("its rows differ in length")
        return rows


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
        """Refuses a plan that was made for another model or hook."""
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
            "format_version": PlanEntries.newest_format,
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
        path = files.expanded(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, self.to_json())
        return path

    @classmethod
    def load(cls, path: Path | str) -> "GroupPlan":
        """Reads a plan from its file, or from the folder that `sae-lens-groups plan` wrote.

        Groups that were edited by hand in `groups` are the chosen ones.

        Raises:
            PlanError: there is no plan, or it is broken or of a newer format.
        """
        path = files.expanded(path)
        path = path / files.PLAN if files.exists(path / files.PLAN) else path
        if not files.exists(path):
            raise PlanError(
                f"plan {str(path)!r} cannot be read: it is not there{files.did_you_mean(path)}"
            )
        with _refusing(f"plan {str(path)!r}"):
            return cls.from_entries(
                files.read_entries(PlanEntries, path.read_text(encoding="utf-8"))
            )

    @classmethod
    def from_json(cls, text: str) -> "GroupPlan":
        """Reads what `to_json` wrote.

        Raises:
            PlanError: the text is not a plan, or is of a newer format.
        """
        with _refusing("the plan"):
            return cls.from_entries(files.read_entries(PlanEntries, text))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "GroupPlan":
        """Reads what `to_dict` wrote; figures of a level are worked out from the distances anew.

        Raises:
            PlanError: an entry is missing, or the groups overlap or reach beyond the model.
        """
        with _refusing("the plan"):
            return cls.from_entries(files.read_entries(PlanEntries, data))

    @classmethod
    def from_entries(cls, saved: PlanEntries) -> "GroupPlan":
        """The plan of a `plan.json`, or of such an entry."""
        distances = _distances(saved)
        last_alone = saved.last_layer == "alone"
        flops, seconds = (
            None if cost is None else SuiteCost.from_entries(cost, distances.n_layers)
            for cost in (saved.flops, saved.seconds)
        )

        def level(groups: tuple[LayerGroup, ...]) -> PlanLevel:
            require_within(groups, distances.n_layers)
            return PlanLevel.of(groups, distances, flops, last_alone=last_alone)

        plan = cls(
            distances=distances,
            partition=saved.partition,
            last_alone=last_alone,
            hierarchy=tuple(level(parse_ranges(entry.groups)) for entry in saved.hierarchy),
            chosen=level(disjoint(LayerGroup.from_layers(group.layers) for group in saved.groups)),
            chosen_by=saved.chosen.chosen_by,
            stability=saved.chosen.stability,
            flops=flops,
            seconds=seconds,
            versions=saved.versions,
        )
        figures = saved.chosen.model_dump()
        if any(figures.get(name) != value for name, value in plan._chosen_figures().items()):
            return replace(plan, chosen_by="edited by hand", stability=None)
        return plan


def _refusing(plan: str) -> AbstractContextManager[None]:
    to_do = "correct it, or name the plan.json that `sae-lens-groups plan` wrote"
    return files.refusing(PlanError, f"{plan} cannot be read", to_do)


def _distances(saved: PlanEntries) -> LayerDistances:
    return LayerDistances(
        metric=saved.metric,
        matrix=np.array(saved.distances, dtype=np.float64),
        standard_errors=np.array(saved.standard_errors, dtype=np.float64),
        n_tokens=saved.n_tokens,
        model_name=saved.model_name,
        hook_template=HookTemplate.from_text(saved.hook_template),
        hook_head_index=saved.hook_head_index,
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
