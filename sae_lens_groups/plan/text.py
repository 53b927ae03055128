"""A plan in the terminal: the groups as a bar of layers, and a table of the alternatives."""

import textwrap

from sae_lens_groups.layers import saes_for_layers
from sae_lens_groups.plan.cost import SuiteCost
from sae_lens_groups.plan.group_plan import GroupPlan
from sae_lens_groups.plan.level import PlanLevel

_WIDTH = 100
# All levels are shown up to this many; of more, those around the chosen one and every tenth.
_ALL_LEVELS = 16
_LONGEST_SPELLED = 12


def plan_text(plan: GroupPlan, training_tokens: int | None = None) -> str:
    """What `sae-lens-groups plan` prints; with `training_tokens` also how long training takes."""
    distances = plan.distances
    parts = [
        f"{distances.metric} distances of {distances.n_layers} layers at {plan.hook_template}: "
        f"{distances.n_tokens:,} tokens, largest standard error {distances.largest_standard_error:.4f}",
        layer_bar(plan),
        f"{saes_for_layers(plan.groups)}, chosen by: {plan.chosen_by}" + stability_note(plan),
        "",
        *level_table(plan),
        *cost_lines(plan, training_tokens),
    ]
    return "\n".join(parts)


def layer_bar(plan: GroupPlan) -> str:
    """`[0 1 2 3] [4 5 6 7] [8 9 10] [11]`; of a long group only its ends."""
    boxes = []
    for group in plan.groups:
        layers = [str(layer) for layer in group.layers]
        shown = layers if len(layers) <= _LONGEST_SPELLED else [layers[0], "...", layers[-1]]
        boxes.append("[" + "\N{NO-BREAK SPACE}".join(shown) + "]")
    # Blanks that do not break keep a group on one line while the text is wrapped.
    return textwrap.fill(" ".join(boxes), _WIDTH).replace("\N{NO-BREAK SPACE}", " ")


def level_table(plan: GroupPlan) -> list[str]:
    """A line for each number of groups; the chosen one is marked."""
    lines = [
        f"   {'G':>3} {'SAEs':>4}  {'AMAD':>6} {'weighted':>8} {'widest':>6} {'cost':>5}  groups"
    ]
    shown = _shown_levels(plan)
    lines += [_row(level, is_chosen=level == plan.chosen) for level in shown]
    if plan.chosen not in plan.hierarchy:
        lines.append(_row(plan.chosen, is_chosen=True))
    if (n_left_out := len(plan.hierarchy) - len(shown)) > 0:
        lines.append(f"   {n_left_out} more rows are on the plan's page and in its plan.json")
    return lines


def cost_lines(plan: GroupPlan, training_tokens: int | None) -> list[str]:
    """What the chosen suite costs against the other two ways."""
    lines = []
    n_saes = len(plan.groups)
    if plan.flops is not None:
        lines += ["", "cost, counted:  " + _compared(plan.flops, n_saes, "MFLOPs per token", 1e-6)]
    if plan.seconds is not None and training_tokens is not None:
        lines.append(
            "time, measured: " + _compared(plan.seconds, n_saes, "minutes", training_tokens / 60)
        )
        lines.append(f"                for training_tokens = {training_tokens:,}, steps alone")
    return lines


def stability_note(plan: GroupPlan) -> str:
    """How often the distances, within their standard errors, give the same groups."""
    if plan.stability is None:
        return ""
    return f"; the same groups in {plan.stability:.0%} of resamplings within the standard errors"


def _compared(cost: SuiteCost, n_saes: int, unit: str, scale: float) -> str:
    grouped, shared, separate = (
        f"{value * scale:,.1f}"
        for value in (cost.grouped(n_saes), cost.shared_pass, cost.separate_runs)
    )
    return f"{grouped} {unit}; an SAE per layer: {shared} from one pass, {separate} in runs of their own"


def _shown_levels(plan: GroupPlan) -> list[PlanLevel]:
    if len(plan.hierarchy) <= _ALL_LEVELS:
        return list(plan.hierarchy)
    return [
        level
        for level in plan.hierarchy
        if abs(level.n_groups - plan.chosen.n_groups) <= 3
        or level.n_groups % 10 == 0
        or level.n_groups in (1, len(plan.hierarchy))
    ]


def _row(level: PlanLevel, *, is_chosen: bool) -> str:
    mark = "->" if is_chosen else "  "
    cost = "    -" if level.cost is None else f"{level.cost:5.2f}"
    groups = textwrap.shorten(" ".join(map(str, level.groups)), _WIDTH - 42, placeholder=" ...")
    return (
        f"{mark} {level.n_groups:>3} {len(level.groups):>4}  {level.amad:6.3f} "
        f"{level.weighted_amad:8.3f} {level.max_diameter:6.3f} {cost}  {groups}"
    )
