"""What `evaluate` does with a sweep: scores every suite on the same tokens, prints, writes the page."""

import argparse
from collections.abc import Sequence

from sae_lens_groups import files
from sae_lens_groups.activations import require_usable_rows
from sae_lens_groups.cli.flags import as_mistakes
from sae_lens_groups.cli.scoring import (
    command_again,
    hooks_of_baseline,
    measured_as,
    model_of_suite,
    suite_text,
    task_names_of,
)
from sae_lens_groups.evaluate import (
    Baseline,
    OpenedSweep,
    evaluate_sweep,
    open_baseline,
    sweep_text,
)
from sae_lens_groups.field_values import require_device


def score_sweep(flags: argparse.Namespace, args: Sequence[str]) -> int:
    """Scores every suite of a sweep, prints a line for each, and writes its files and the page."""
    require_device("--device", flags.device)
    task_names = task_names_of(flags.tasks)
    sweep = OpenedSweep(flags.suite, flags.device)
    files.require_writable(sweep.folder, "the sweep")
    first, *others = sweep.suites()
    with as_mistakes():
        baseline = None if flags.baseline is None else open_baseline(flags.baseline, flags.device)
        read = [*map(Baseline.of, others), *([] if baseline is None else [baseline])]
        text = suite_text(flags, first, read)
        hooks = [name for of in others for name in of] + hooks_of_baseline(first, baseline)
        model = model_of_suite(flags, first, hooks)
        require_usable_rows(text.path, text.rows, model)
        found = evaluate_sweep(
            sweep,
            model,
            text.rows,
            baseline=baseline,
            tasks=task_names,
            commands=[command_again(args)],
            **measured_as(flags, text),
        )
    print(sweep_text(found))
    print(
        f"\nChoose one: {sweep.folder / files.SWEEP_PAGE}\n"
        f"Figures:    {sweep.folder / files.SWEEP_SCORES}, and {files.REPORT} in each suite's folder"
    )
    return 0
