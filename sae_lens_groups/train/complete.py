"""What a run knows only once the language model is loaded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformer_lens import HookedRootModule

from sae_lens_groups.activations import (
    ActivationNorms,
    DatasetId,
    fingerprint,
    measure_norms,
    require_hooks,
    require_usable_rows,
)
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.plan import GroupPlan
from sae_lens_groups.train.prepare import PreparedRun, transfer_of
from sae_lens_groups.transfer import Transfer, rows_read_for


@dataclass(frozen=True, kw_only=True)
class CompletedRun:
    """What a run knows only once the language model is loaded."""

    groups: tuple[LayerGroup, ...]
    plan: GroupPlan | None
    """What the groups were chosen from; None where they were named, or follow a rule."""
    transfer: Transfer | None
    """Where each group starts from."""
    norms: ActivationNorms
    dataset: DatasetId


def complete(
    run: PreparedRun,
    model: HookedRootModule,
    measured: Callable[[Callable[[], Any]], Any],
) -> CompletedRun:
    """The groups of the loaded model, where each of them starts from, and its layers' norms.

    Checks what depends on groups that were not known before.

    Args:
        measured: gives what is measured, of which several processes are to have the same.
    """
    cfg = run.cfg
    require_usable_rows(run.dataset_path, run.dataset, model)
    groups, plan = measured(lambda: run.settled.choose_groups(model, run.dataset))
    are_known = groups == run.groups
    transfer = run.transfer if are_known else transfer_of(cfg, run.source, groups)
    hooked = groups if transfer is None else transfer.hooked_groups
    require_hooks(model, cfg.hook_template, hooked)
    for given in (run.settled.checkpoint, run.cache):
        if given is not None and not are_known:
            given.require_fit(cfg, groups)
    norms = measured(lambda: _norms(run, model, hooked))
    if not (run.settled.measures_distances and run.settled.checkpoint is None):
        norms.warn_if_massive()  # where distances were measured, that has said it of every layer
    if cfg.sae.normalize_activations == "none":
        norms.warn_if_unlike(groups)
    dataset = DatasetId(run.dataset_path, fingerprint(run.dataset))
    if transfer is not None:  # counted from here on, as a resumed run may not find the source
        run.rows.n_read = max(run.rows.n_read, rows_read_for(transfer.source, dataset))
    return CompletedRun(groups=groups, plan=plan, transfer=transfer, norms=norms, dataset=dataset)


def _norms(
    run: PreparedRun, model: HookedRootModule, hooked: tuple[LayerGroup, ...]
) -> ActivationNorms:
    """Of the layers that are read; as cached activations have them, where those are trained on."""
    cfg = run.cfg
    layers = [layer for group in hooked for layer in group.layers]
    cached = {} if run.cache is None else run.cache.norms
    if all(str(layer) in cached for layer in layers):
        found = {layer: cached[str(layer)] for layer in layers}
        return ActivationNorms(found, cfg.max_activation_norm_multiple)
    return measure_norms(cfg, model, run.rows, hooked, cfg.training_tokens)
