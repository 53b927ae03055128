"""What a checkpoint holds beside the SAEs, and whether a run can go on from it."""

import contextlib
import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from sae_lens_groups import files
from sae_lens_groups.scaling.alignments import NONE
from sae_lens_groups.activations.batches import TrainingBatches
from sae_lens_groups.config import AUTO, GroupSAERunnerConfig
from sae_lens_groups.errors import CheckpointError
from sae_lens_groups.layers import HookTemplate, LayerGroup
from sae_lens_groups.plan.group_plan import GroupPlan
from sae_lens_groups.train.checkpoints.folder import checkpoints_in, damage_of, newest_whole, require_whole
from sae_lens_groups.saved.transfer_report import TransferReport
from sae_lens_groups.files.reading import UNREADABLE
from torch.optim import Optimizer


# What the weights in a checkpoint were made for.
_FIXED_SAE_FIELDS = ("architecture", "d_in", "d_sae", "normalize_activations")

# What may change without changing how training goes on, and what `_facts` compares.
_FREE_FIELDS = {
    "checkpoint_every",
    "checkpoint_path",
    "hook_name",
    "init_from",
    "keep_checkpoints",
    "layer_groups",
    "logger",
    "model_name",
    "n_checkpoints",
    "output_path",
    "resume_from_checkpoint",
    "save_final_checkpoint",
    "verbose",
}

# What decides on measured groups.
_PLAN_FIELDS = ("layer_groups", "amad_threshold", "plan_tokens")


def save_runner_files(
    checkpoint: Path,
    cfg: GroupSAERunnerConfig[Any],
    batches: TrainingBatches,
    plan: GroupPlan | None,
    transfer: TransferReport | None,
) -> None:
    """Adds which batches come next, the plan, what the SAEs started from, and the config."""
    batches.save(checkpoint)
    if plan is not None:
        plan.save(checkpoint / files.PLAN)
    if transfer is not None:
        report = transfer.to_dict(cfg.hook_template)
        files.write_text(checkpoint / files.TRANSFER, json.dumps(report, indent=2) + "\n")
    files.write_text(checkpoint / files.RUNNER_CFG, json.dumps(cfg.to_dict(), indent=2) + "\n")


def require_resumable(
    checkpoint: Path | str, cfg: GroupSAERunnerConfig[Any], groups: tuple[LayerGroup, ...] | None
) -> None:
    """Refuses a checkpoint that is incomplete or of another run.

    Args:
        checkpoint: the folder to resume from.
        cfg: the config of the run that wants to resume.
        groups: its groups; None where the model has to be loaded first to know them.

    Raises:
        CheckpointError: says which file is missing, or which setting differs.
    """
    checkpoint = Path(checkpoint)
    if not (checkpoint / files.RUNNER_CFG).is_file():
        raise CheckpointError(
            f"resume_from_checkpoint {str(checkpoint)!r} is no checkpoint of a grouped run: it has "
            f"no {files.RUNNER_CFG}; name a folder such as checkpoints/<run id>/<tokens>"
        )
    if not (checkpoint / files.CHECKSUMS).exists():
        raise CheckpointError(
            f"checkpoint {str(checkpoint)!r} has no {files.CHECKSUMS}: it is incomplete, or of "
            "sae-lens-groups before 0.7.0, which has to finish it"
        )
    require_whole(checkpoint)
    saved = _read_json(checkpoint / files.RUNNER_CFG)
    _require_equal(checkpoint, _facts(saved), _facts(cfg.to_dict()))
    if groups is not None:
        require_held(checkpoint, groups)


def require_held(checkpoint: Path | str, groups: tuple[LayerGroup, ...]) -> None:
    """Refuses a checkpoint that lacks one of these groups.

    Raises:
        CheckpointError: says which it has.
    """
    checkpoint = Path(checkpoint)
    if not {group.name for group in groups} <= _group_names(checkpoint):
        raise CheckpointError(
            f"checkpoint {str(checkpoint)!r} holds "
            f"{', '.join(sorted(_group_names(checkpoint))) or 'no groups'}, and this run asks for "
            f"{', '.join(group.name for group in groups)}; resume with the first run's "
            "layer_groups, or some of its groups"
        )


def warn_of_other_settings(checkpoint: Path | str, cfg: GroupSAERunnerConfig[Any]) -> None:
    """Says where a run goes on with other settings than it began with: it is another run then."""
    saved = _read_json(Path(checkpoint) / files.RUNNER_CFG)
    wanted = json.loads(json.dumps(cfg.to_dict()))
    differing = [
        f"{name} was {saved.get(name)!r} and is {wanted.get(name)!r}"
        for name in sorted((saved.keys() | wanted.keys()) - _FREE_FIELDS)
        if saved.get(name) != wanted.get(name)
    ]
    if differing:
        warnings.warn(
            f"the run goes on from {str(checkpoint)!r} with other settings than it began with, so "
            f"it will not end as it would have: {'; '.join(differing)}",
            stacklevel=2,
        )


def saved_lr(checkpoint: Path | str) -> float:
    """The learning rate of the run that a checkpoint belongs to."""
    return float(_read_json(Path(checkpoint) / files.RUNNER_CFG)["lr"])


def with_newest_checkpoint(cfg: GroupSAERunnerConfig[Any]) -> GroupSAERunnerConfig[Any]:
    """The config, where `resume_from_checkpoint` is `auto` with the newest checkpoint in its place.

    The run goes on in the folder of the run that made it. It starts anew where there is none.

    Raises:
        CheckpointError: several runs in `checkpoint_path` could be meant, or all checkpoints of the
            one that is meant are damaged.
    """
    if cfg.resume_from_checkpoint != AUTO:
        return cfg
    cfg = copy.copy(cfg)
    assert cfg.checkpoint_path is not None  # the config refuses `auto` without it
    runs = [folder for folder in _run_folders(Path(cfg.checkpoint_path)) if _is_same(folder, cfg)]
    if len(runs) > 1:
        raise CheckpointError(
            f"resume_from_checkpoint is auto, and {len(runs)} runs could be meant: "
            f"{', '.join(sorted(map(str, runs)))}; name a checkpoint of one, or remove the others"
        )
    newest = newest_whole(runs[0]) if runs else None
    cfg.resume_from_checkpoint = None if newest is None else str(newest)
    if newest is not None:
        cfg.checkpoint_path = str(newest.parent)
    return cfg


def _run_folders(own: Path) -> list[Path]:
    """The folders of the runs that share a `checkpoint_path` with this one, which have checkpoints."""
    if not own.parent.is_dir():
        return []
    return [folder for folder in own.parent.iterdir() if checkpoints_in(folder)]


def _is_same(run_folder: Path, cfg: GroupSAERunnerConfig[Any]) -> bool:
    """Whether a run's checkpoints are for the same model, hook, groups and kind of SAE."""
    for checkpoint in reversed(checkpoints_in(run_folder)):
        if damage_of(checkpoint, [files.RUNNER_CFG]) is not None:
            continue  # one of the others says
        saved = _read_json(checkpoint / files.RUNNER_CFG)
        wanted = cfg.to_dict()
        same_groups = saved.get("layer_groups") == wanted["layer_groups"]
        return same_groups and _facts(saved) == _facts(wanted)
    return True  # all are damaged, which is not to be passed over in silence


def saved_plan(checkpoint: Path | str, cfg: GroupSAERunnerConfig[Any]) -> GroupPlan | None:
    """The plan of the run that a checkpoint belongs to, if it had one.

    Raises:
        CheckpointError: the plan is damaged, or this run asks for another.
    """
    checkpoint = Path(checkpoint)
    if not (checkpoint / files.PLAN).exists():
        return None
    saved, wanted = _read_json(checkpoint / files.RUNNER_CFG), cfg.to_dict()
    _require_equal(checkpoint, saved, {name: wanted[name] for name in _PLAN_FIELDS})
    with readable(checkpoint):
        return GroupPlan.load(checkpoint / files.PLAN)


def saved_transfer(checkpoint: Path | str, cfg: GroupSAERunnerConfig[Any]) -> TransferReport | None:
    """What the SAEs of a checkpoint's run started from; None where they were trained from scratch.

    Raises:
        CheckpointError: the report is damaged.
    """
    path = Path(checkpoint) / files.TRANSFER
    if not path.exists():
        return None
    with readable(checkpoint):
        return TransferReport.from_dict(_read_json(path), cfg.hook_template)


@contextlib.contextmanager
def readable(checkpoint: Path | str) -> Iterator[None]:
    """Names the checkpoint where a file in it turns out to be damaged."""
    try:
        yield
    except UNREADABLE as error:
        raise CheckpointError(
            f"checkpoint {str(checkpoint)!r} is damaged and cannot be resumed: "
            f"{type(error).__name__}: {error}; resume from the one before it"
        ) from error


def _facts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be equal for a run to go on from another's checkpoint."""
    sae = settings.get("sae") or {}
    return {
        # A local model may lie elsewhere by now, and hook_name may name any layer.
        "model_name": Path(str(settings.get("model_name"))).name,
        "hook_name": str(HookTemplate.from_hook_name(str(settings.get("hook_name")))),
        "hook_head_index": settings.get("hook_head_index"),
        "layer_alignment": settings.get("layer_alignment", NONE),
        # One counts the dataset's rows, the other those of the cache.
        "use_cached_activations": bool(settings.get("use_cached_activations")),
        "init_from": Path(str(settings.get("init_from"))).name,
        **{name: sae.get(name) for name in _FIXED_SAE_FIELDS},
    }


def _require_equal(checkpoint: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        if saved.get(name) != value:
            raise CheckpointError(
                f"checkpoint {str(checkpoint)!r} was made with {name}={saved.get(name)!r}, and "
                f"this run asks for {value!r}; resume with the config of the first run"
            )


def _group_names(checkpoint: Path) -> set[str]:
    return {path.parent.name for path in checkpoint.glob(f"*/{files.LAYER_STATISTICS}")}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = files.parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(path)!r} holds no settings")
    return content


def rescale_learning_rate(optimizer: Optimizer, scheduler: Any, factor: float) -> None:
    """Multiplies the learning rate of the next step, and of all that follow by the schedule."""
    for group in optimizer.param_groups:
        for name in ("lr", "initial_lr"):
            if name in group:
                group[name] *= factor
    _rescale_schedule(scheduler, factor)


def _rescale_schedule(scheduler: Any, factor: float) -> None:
    for name in ("base_lrs", "_last_lr"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, [lr * factor for lr in getattr(scheduler, name)])
    if hasattr(scheduler, "eta_min"):
        scheduler.eta_min *= factor
    for part in getattr(scheduler, "_schedulers", []):  # SAELens chains warm-up, main and decay
        _rescale_schedule(part, factor)
