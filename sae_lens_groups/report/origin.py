"""Where the suite comes from: the plan of its groups, commands, and versions."""

import html
from collections.abc import Sequence
from importlib import metadata

from sae_lens_groups._version import __version__
from sae_lens_groups.drawing import embedded
from sae_lens_groups.plan.group_plan import GroupPlan
from sae_lens_groups.plan.page import distances_figure
from sae_lens_groups.plan.text import stability_note
from sae_lens_groups.report.plots import FONT, group_boxes
from sae_lens_groups.report.section import Section, table
from sae_lens_groups.suite import SAESuite


def plan(chosen: GroupPlan | None) -> Section | None:
    """The distances that the groups were chosen from; None where they were named."""
    if chosen is None:
        return None
    distances, level = chosen.distances, chosen.chosen
    hint = (
        f"{distances.metric.capitalize()} distance of every pair of layers, measured on "
        f"{distances.n_tokens:,} tokens; the boxes are the groups. Chosen by: {chosen.chosen_by}"
        f"{stability_note(chosen)}. AMAD, the mean over the groups of the largest distance in each, "
        f"is {level.amad:.3f}; the largest distance in any group {level.max_diameter:.3f}."
    )
    figure = distances_figure(chosen).update_layout(font=FONT, shapes=group_boxes(chosen.groups))
    body = f'<div class="square">{embedded(figure, "distances")}</div>'
    return Section("plan", "How the groups were chosen", hint, body)


def _installed_version(name: str) -> str:
    if name == "sae-lens-groups":
        return __version__
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "-"


def reproduce(suite: SAESuite, commands: Sequence[str]) -> Section:
    """Commands, where they are known, and the versions of what trained and what evaluated."""
    lines = html.escape("\n".join(commands))
    shown = f"<pre><code>{lines}</code></pre>\n" if commands else ""
    rows = [
        [name, version, _installed_version(name)]
        for name, version in suite.manifest.versions.items()
    ]
    hint = (
        "What was run, and the versions of the packages that trained the suite and made this page."
    )
    body = shown + table(["package", "trained with", "page made with"], rows)
    return Section("reproduce", "To do it again", hint, body)
