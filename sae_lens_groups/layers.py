"""Which layers form a group, and which hook each layer has."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any

from sae_lens_groups.errors import HookNameError, LayerGroupsError, counted, quoted


@dataclass(frozen=True, order=True)
class LayerGroup:
    """A run of neighbouring layers that share one SAE, `first` to `last` inclusive."""

    first: int
    last: int

    def __post_init__(self) -> None:
        for layer in (self.first, self.last):
            if not isinstance(layer, Integral) or isinstance(layer, bool):
                raise LayerGroupsError(f"layer {quoted(layer)} is not a whole number")
        if self.first < 0:
            raise LayerGroupsError(f"layer {self.first} does not exist; layers count from 0")
        if self.last < self.first:
            raise LayerGroupsError(
                f"the range {self.first}-{self.last} runs backwards; write {self.last}-{self.first}"
            )

    @classmethod
    def from_layers(cls, layers: Iterable[int]) -> "LayerGroup":
        """The group of exactly these layers, in any order. They must be neighbours."""
        groups = [cls(layer, layer) for layer in layers]
        ordered = sorted(group.first for group in groups)
        if not ordered:
            raise LayerGroupsError("a group needs at least one layer")
        for below, above in pairwise(ordered):
            if above == below:
                raise LayerGroupsError(f"layer {above} is named twice in one group")
            if above != below + 1:
                raise LayerGroupsError(
                    f"layers {below} and {above} leave a gap; a group needs neighbouring layers "
                    f"such as {below}-{above}"
                )
        return cls(ordered[0], ordered[-1])

    @property
    def layers(self) -> range:
        """The layer numbers, lowest first."""
        return range(self.first, self.last + 1)

    @property
    def middle(self) -> int:
        """The layer that stands for the group where one hook name is asked for."""
        return (self.first + self.last) // 2

    @property
    def name(self) -> str:
        """`layers_0-3`, or `layers_11` for a single layer."""
        return f"layers_{self}"

    def __len__(self) -> int:
        return len(self.layers)

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


Layers = int | LayerGroup | Iterable[int | str | LayerGroup]
"""Layers as a user names them: numbers, hook names, groups or the names of groups; one or several."""


def format_layer_groups(groups: Sequence[LayerGroup]) -> str:
    """The flag that names these groups: `0-3,4-7,8-10,11`."""
    return ",".join(map(str, groups))


def saes_for_layers(groups: Collection[LayerGroup]) -> str:
    """`5 SAEs for 12 layers`, which is what groups are for."""
    return f"{counted(len(groups), 'SAE')} for {counted(sum(map(len, groups)), 'layer')}"


def in_words(layers: Sequence[int]) -> str:
    """`layers 0-3 and 11`."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    names = [str(LayerGroup(run[0], run[-1])) for run in runs]
    listed = ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]
    return "layer" + "s" * (len(layers) > 1) + f" {listed}"


# No more digits than any model has layers, and than Python reads.
_RANGE = re.compile(r"\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?")


def parse_ranges(text: str) -> tuple[LayerGroup, ...]:
    """Reads `0-3,4-7,8-10,11`; the groups come back sorted by layer.

    Raises:
        LayerGroupsError: a part is not a range, runs backwards, or shares a layer with another.
    """
    groups = [_parse_range(part, text) for part in text.split(",")]
    return disjoint(groups)


def _parse_range(part: str, text: str) -> LayerGroup:
    match = _RANGE.fullmatch(part)
    if match is None:
        given = quoted(part.strip()) if part.strip() else "an empty group"
        raise LayerGroupsError(
            f"layer_groups {quoted(text)} has {given} between its commas; "
            "each part is a layer such as 11 or a range such as 0-3"
        )
    first, last = match.groups()
    return LayerGroup(int(first), int(last if last is not None else first))


def layer_groups_text(given: object) -> object:
    """`layer_groups` as text where it is given as a list of groups, or as what has groups, a plan.

    A group is a `LayerGroup`, its layers, the first and the last of them, a layer, or text. What is
    no list comes back as it is.
    """
    groups = getattr(given, "groups", given)
    if not isinstance(groups, list | tuple):
        return given
    return format_layer_groups(disjoint(group for each in groups for group in _given(each)))


def _given(group: Any) -> Sequence[LayerGroup]:
    if isinstance(group, str):
        return parse_ranges(group)
    if isinstance(group, LayerGroup) or not isinstance(group, Iterable):
        return [group if isinstance(group, LayerGroup) else LayerGroup(group, group)]
    layers = list(group)
    return [LayerGroup(*layers) if len(layers) == 2 else LayerGroup.from_layers(layers)]


def disjoint(groups: Iterable[LayerGroup]) -> tuple[LayerGroup, ...]:
    """The groups sorted by layer, checked to be at least one and to share no layer."""
    ordered = tuple(sorted(groups))
    if not ordered:
        raise LayerGroupsError("layer_groups names no group; name at least one, such as 0-3")
    for below, above in pairwise(ordered):
        if above.first <= below.last:
            raise LayerGroupsError(
                f"groups {below} and {above} overlap in layer {above.first}; "
                "every layer belongs to one group"
            )
    return ordered


def require_within(groups: Iterable[LayerGroup], n_layers: int) -> None:
    """Refuses a group with a layer that a model of `n_layers` layers has not."""
    for group in groups:
        if group.last >= n_layers:
            raise LayerGroupsError(
                f"group {group} reaches beyond the model, whose {n_layers} layers "
                f"are 0-{n_layers - 1}"
            )


# Names of files have up to 255 bytes, and a layer has up to 18 digits.
_LONGEST_NAME = 230


# Modules of transformers whose output is the residual stream after the block, as
# tests/test_transformer_lens.py finds for the families that it has.
_BLOCKS = ("gpt_neox.layers.", "transformer.h.", "model.layers.")


@dataclass(frozen=True)
class HookTemplate:
    """A hook name whose layer number is the variable part: `blocks.{layer}.hook_resid_post`."""

    before: str
    after: str

    def __post_init__(self) -> None:
        # A suite has a folder of this name for each layer.
        name = self.before + self.after
        if not {"/", "\\", ":", "\0"}.isdisjoint(name):
            raise HookNameError(f"a hook is not called {quoted(str(self))}, which names a path")
        if not name.isprintable() or len(name.encode()) > _LONGEST_NAME:
            raise HookNameError(
                f"a hook is not called {quoted(str(self))}; its name is printable and no longer "
                f"than {_LONGEST_NAME} bytes"
            )

    # The first whole segment of digits after a dot, which is where SAELens reads the layer.
    _LAYER = re.compile(r"(?<=\.)\d+(?=\.|$)")

    @classmethod
    def from_hook_name(cls, hook_name: str) -> "HookTemplate":
        """The template of a hook name of any one layer, such as `blocks.3.hook_resid_post`."""
        match = cls._LAYER.search(hook_name)
        if match is None:
            raise HookNameError(
                f"hook_name {hook_name!r} has no layer number, so it cannot stand for several "
                "layers; name the hook of any one layer, such as blocks.3.hook_resid_post or "
                "gpt_neox.layers.3"
            )
        return cls(hook_name[: match.start()], hook_name[match.end() :])

    @classmethod
    def from_text(cls, text: str) -> "HookTemplate":
        """Reads what `str` writes: `blocks.{layer}.hook_resid_post`."""
        before, found, after = text.partition("{layer}")
        template = cls(before, after)
        if not found or template.layer_of(template.hook_name(0)) != 0:
            raise HookNameError(
                f"hook_template {quoted(text)} has no {{layer}} that is its first number between "
                "dots, as in blocks.{layer}.hook_resid_post"
            )
        return template

    @property
    def in_transformer_lens(self) -> "HookTemplate | None":
        """What TransformerLens calls these hooks; None where that is not known."""
        if self.before in _BLOCKS and not self.after:
            return HookTemplate("blocks.", ".hook_resid_post")
        return self if self.before == "blocks." else None

    def is_same_site(self, other: "HookTemplate") -> bool:
        """Whether two names mean the same activations: `model.layers.3`, `blocks.3.hook_resid_post`."""
        known = self.in_transformer_lens
        return self == other or (known is not None and known == other.in_transformer_lens)

    def hook_name(self, layer: int) -> str:
        """The name of the hook at this layer."""
        return f"{self.before}{layer}{self.after}"

    def hook_names(self, groups: Iterable[LayerGroup]) -> list[str]:
        """The hooks of all layers of these groups, in their order."""
        return [self.hook_name(layer) for group in groups for layer in group.layers]

    def group_to_dict(self, group: LayerGroup) -> dict[str, Any]:
        """The entry of a group in `suite.json` and `plan.json`."""
        return {
            "name": group.name,
            "layers": list(group.layers),
            "hook_names": self.hook_names([group]),
        }

    def layer_of(self, hook_name: str) -> int | None:
        """The layer of a hook name of this template; None for any other name."""
        match = self._LAYER.search(hook_name)
        if match is None or self.hook_name(int(match.group())) != hook_name:
            return None
        return int(match.group())

    def __str__(self) -> str:
        return f"{self.before}{{layer}}{self.after}"


def layer_in(hook_name: str) -> int:
    """The layer whose hook this is.

    Raises:
        HookNameError: there is no layer number in its name.
    """
    layer = HookTemplate.from_hook_name(hook_name).layer_of(hook_name)
    assert layer is not None
    return layer
