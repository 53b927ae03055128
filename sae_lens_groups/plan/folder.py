"""A plan's folder: its figures, its page and its picture."""

from pathlib import Path

from sae_lens_groups import files
from sae_lens_groups.plan.group_plan import GroupPlan
from sae_lens_groups.plan.page import plan_page
from sae_lens_groups.plan.picture import save_picture


def save_plan_folder(plan: GroupPlan, folder: Path | str) -> Path:
    """Writes `plan.json`, `plan.html` and `plan.png`, all or none, and returns the folder.

    Raises:
        OutputFolderError: the folder already holds something.
    """
    folder = files.expanded(folder)
    with files.new_folder(folder) as partial:
        plan.save(partial / files.PLAN)
        files.write_text(partial / files.PLAN_PAGE, plan_page(plan))
        save_picture(plan, partial / files.PLAN_PICTURE)
    return folder
