"""Evaluates all suites of a sweep on the same tokens, and writes the page to choose one from."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sae_lens.config import HfDataset
from tqdm.auto import tqdm
from transformer_lens import HookedRootModule

from sae_lens_groups import files
from sae_lens_groups.evaluate.bootstrap import Means, Resamplings
from sae_lens_groups.evaluate.choice.commands import train_flags
from sae_lens_groups.evaluate.choice.page import sweep_page
from sae_lens_groups.evaluate.choice.result import COMPARED, SettingScores, SweepEvaluation
from sae_lens_groups.evaluate.measurement import Measurement
from sae_lens_groups.evaluate.run import evaluate_on
from sae_lens_groups.saved import SweepIndex, SweepSetting, read_sweep_index
from sae_lens_groups.suite import SAESuite


class OpenedSweep:
    """A sweep's suites; none of their SAEs is held."""

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        self.folder = files.expanded(folder)
        self.index: SweepIndex = read_sweep_index(self.folder)
        self._suites = [SAESuite.load(self.folder / name, device) for name in self.index.names]

    def suites(self) -> Iterator[SAESuite]:
        """Each in turn, with SAEs that go when it goes."""
        for of in self._suites:
            yield SAESuite(of.source, device=of.device, path=of.path)


def evaluate_sweep(
    sweep: str | Path | OpenedSweep,
    model: HookedRootModule,
    dataset: HfDataset,
    *,
    device: str = "cpu",
    commands: Sequence[str] = (),
    **settings: Any,
) -> SweepEvaluation:
    """The scores of all suites of a sweep on the same tokens, with 95% intervals over prompts.

    Evaluates the suites one after the other, as `evaluate_suite` does, and writes each one's files
    into its folder; then `sweep.csv` and the page `sweep.html` into the sweep's. What replaces an
    activation with zeros is the same for all suites and computed once.

    Args:
        sweep: the folder of a sweep, which holds `sweep.json`.
        model: the language model, with the hooks of all suites.
        dataset: text or tokens that the suites were not trained on.
        device: of the SAEs.
        commands: command lines that the pages show for doing it again.
        settings: what else `evaluate_suite` takes: `n_batches`, `tasks`, `baseline`, ...

    Raises:
        SuiteError: it is no sweep, or one of its suites is missing or damaged.
        GroupSAEError: what `evaluate_suite` raises.
    """
    opened = sweep if isinstance(sweep, OpenedSweep) else OpenedSweep(sweep, device)
    files.require_writable(opened.folder, "the sweep")
    on = Measurement.of(opened.suites(), model, dataset, **settings)
    resamplings = Resamplings(on.tokens.n_prompts)
    each = zip(tqdm(opened.index.settings, "Evaluating suites", unit="suite"), opened.suites())
    scored, means = zip(*(_scored(*of, on, resamplings, commands) for of in each))
    alike = [[of.site == other.site for other in scored[:n]] for n, of in enumerate(scored)]
    differences = {
        name: [
            [
                resamplings.difference(ours, other, name) if is_same else None
                for other, is_same in zip(means, row)
            ]
            for ours, row in zip(means, alike)
        ]
        for name in COMPARED
    }
    found = SweepEvaluation(settings=scored, differences=differences)
    rows = files.csv_text(row for of in found for row in of.to_rows())
    files.write_text(opened.folder / files.SWEEP_SCORES, rows)
    name = opened.folder.resolve().name
    files.write_text(opened.folder / files.SWEEP_PAGE, sweep_page(found, name, commands))
    return found


def _scored(
    setting: SweepSetting,
    suite: SAESuite,
    on: Measurement,
    resamplings: Resamplings,
    commands: Sequence[str],
) -> tuple[SettingScores, Means]:
    evaluation, results = evaluate_on(suite, on, commands)
    sums = [results[of.hook_name].sums for of in evaluation]
    layers, means = resamplings.estimates(sums)
    sae = suite[evaluation[0].hook_name]
    cost = evaluation.costs[0] if evaluation.costs else None
    head = sae.cfg.metadata.hook_head_index
    scores = SettingScores(
        setting=setting,
        site=str(suite.manifest.hook_template) + ("" if head is None else f", head {head}"),
        evaluation=evaluation,
        layers=layers,
        means=means.estimates,
        d_sae=sae.cfg.d_sae,
        n_parameters=sum(parameter.numel() for parameter in sae.parameters()),
        training_tokens=(suite.runner_cfg or {}).get("training_tokens"),
        training_flops=None if cost is None else cost.flops,
        train_flags=train_flags(setting, suite),
    )
    return scores, means
