"""What a checkpoint holds beside the SAEs, and whether a run can go on from it."""

import contextlib
import copy
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from sae_lens_groups import files
from sae_lens_groups.config import NEWEST, GroupSAERunnerConfig
from sae_lens_groups.errors import CheckpointError, GroupSAEError, HookNameError, OutputFolderError
from sae_lens_groups.files import UNREADABLE
from sae_lens_groups.layers import HookTemplate, LayerGroup
from sae_lens_groups.plan import GroupPlan
from sae_lens_groups.saved import TransferReport
from sae_lens_groups.scaling import NONE
from sae_lens_groups.train.checkpoints.folder import (
    CheckpointFacts,
    checkpoints_in,
    damage_of,
    newest_whole,
    require_whole,
)

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
    "n_batches_for_norm_estimate",
    "n_checkpoints",
    "output_path",
    "ranks_per_group",
    "resume_from_checkpoint",
    "save_final_checkpoint",
    "verbose",
}

# How the dataset is cut into prompts, by which a checkpoint counts how far it was read.
_CUT_FIELDS = (
    *("context_size", "prepend_bos", "sequence_separator_token"),
    *("disable_concat_sequences", "use_chat_formatting"),
)

# What decides on measured groups.
_PLAN_FIELDS = ("layer_groups", "amad_threshold", "plan_tokens")


class Checkpoint:
    """A checkpoint, each of whose files is read once, when it is first asked for.

    Args:
        path: its folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def whole(cls, path: Path | str) -> "Checkpoint":
        """One whose files are as they were written; refuses any other, and says what is wrong."""
        path = Path(path)
        if not (path / files.RUNNER_CFG).is_file():
            raise CheckpointError(
                f"resume_from_checkpoint {str(path)!r} is not a checkpoint of a grouped run: it has "
                f"no {files.RUNNER_CFG}; name a folder such as checkpoints/<run id>/<tokens>"
            )
        if not (path / files.CHECKSUMS).exists():
            raise CheckpointError(
                f"checkpoint {str(path)!r} has no {files.CHECKSUMS}: it is incomplete, or of "
                "sae-lens-groups before 0.7.0, which has to finish it"
            )
        require_whole(path)
        return cls(path)

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The config of the run that made it."""
        return _read_json(self.path / files.RUNNER_CFG)

    @property
    def training_tokens(self) -> int:
        """That every SAE has been trained on."""
        facts = CheckpointFacts.read(self.path)
        assert facts is not None  # it is whole
        return facts.training_tokens

    def plan(self, cfg: GroupSAERunnerConfig[Any]) -> GroupPlan | None:
        """The plan of the run that made it, if it had one."""
        path = self.path / files.PLAN
        if not path.exists():
            return None
        self._require_equal(self.settings, {name: getattr(cfg, name) for name in _PLAN_FIELDS})
        with self.readable():
            return GroupPlan.load(path)

    def transfer(self, template: HookTemplate) -> TransferReport | None:
        """What its run's SAEs started from; None where they were trained from scratch."""
        path = self.path / files.TRANSFER
        if not path.exists():
            return None
        with self.readable():
            report = files.read_entries(TransferReport, _read_json(path))
            report.require_of(template)
            return report

    def is_of(self, cfg: GroupSAERunnerConfig[Any]) -> bool:
        """Whether it is for the same model, hook, groups and kind of SAE."""
        same_groups = self.settings.get("layer_groups") == cfg.layer_groups
        return same_groups and _facts(self.settings) == _facts(cfg.to_dict())

    def require_fit(
        self, cfg: GroupSAERunnerConfig[Any], groups: tuple[LayerGroup, ...] | None
    ) -> None:
        """Refuses a run that cannot go on from it.

        Args:
            cfg: the run's config.
            groups: its groups; None where the model has to be loaded first to know them.
        """
        self._require_equal(_facts(self.settings), _facts(cfg.to_dict()))
        self._require_equal(self.settings, {name: getattr(cfg, name) for name in _CUT_FIELDS})
        one_batch = max(self.settings["train_batch_size_tokens"], cfg.train_batch_size_tokens)
        if self.training_tokens >= cfg.training_tokens + one_batch:
            raise CheckpointError(
                f"checkpoint {str(self.path)!r} has had {self.training_tokens:,} training tokens, and "
                f"this run is to have training_tokens={cfg.training_tokens:,}; raise it, or name an "
                "earlier checkpoint"
            )
        found = self.path.glob(f"*/{files.SHUFFLE_BUFFER}")
        names = sorted(path.parent.name for path in found)
        if groups is not None and not {group.name for group in groups} <= {*names}:
            raise CheckpointError(
                f"checkpoint {str(self.path)!r} holds "
                f"{', '.join(names) or 'no groups'}, and this run asks for "
                f"{', '.join(group.name for group in groups)}; resume with the first run's "
                "layer_groups, or some of its groups"
            )

    def warn_of_other_settings(self, cfg: GroupSAERunnerConfig[Any]) -> None:
        """Says where a run goes on with other settings than it began with: it is another run then."""
        if differing := _differing(self.settings, cfg):
            warnings.warn(
                f"the run goes on from {str(self.path)!r} with other settings than it began with, "
                f"so it will not end as it would have: {'; '.join(differing)}",
                stacklevel=2,
            )

    @contextlib.contextmanager
    def readable(self) -> Iterator[None]:
        """Names the checkpoint where a file in it turns out to be damaged."""
        try:
            yield
        except GroupSAEError:
            raise
        except UNREADABLE as error:
            raise CheckpointError(
                f"checkpoint {str(self.path)!r} is damaged and cannot be resumed: "
                f"{type(error).__name__}: {error}; resume from the one before it"
            ) from error

    def _require_equal(self, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        for name, value in wanted.items():
            if saved.get(name) != value:
                raise CheckpointError(
                    f"checkpoint {str(self.path)!r} was made with {name}={saved.get(name)!r}, and "
                    f"this run asks for {value!r}; resume with the config of the first run"
                )


def _differing(saved: Mapping[str, Any], cfg: GroupSAERunnerConfig[Any]) -> list[str]:
    """The settings that decide how training goes on and that are not those of an earlier run."""
    saved, wanted = _flat(saved), _flat(json.loads(json.dumps(cfg.to_dict())))
    return [
        f"{name} was {saved.get(name)!r} and is {wanted.get(name)!r}"
        for name in sorted((saved.keys() | wanted.keys()) - _FREE_FIELDS)
        if saved.get(name) != wanted.get(name)
    ]


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """With the settings of the SAE beside those of the run; its metadata repeat some of either."""
    sae = {f"sae.{k}": v for k, v in (settings.get("sae") or {}).items() if k != "metadata"}
    return {**settings, "sae": None, **sae}


def require_unfinished(cfg: GroupSAERunnerConfig[Any]) -> None:
    """Refuses a run whose suite lies in its `output_path` already, and says that it is done."""
    assert cfg.output_path is not None
    if not files.exists(Path(cfg.output_path) / files.SUITE):
        return
    suite = Checkpoint(cfg.output_path)  # it has the settings of its run as a checkpoint has them
    with contextlib.suppress(CheckpointError, HookNameError):  # of something else
        if suite.is_of(cfg) and not _differing(suite.settings, cfg):
            raise OutputFolderError(
                f"this run is done: output_path {cfg.output_path!r} holds its suite; to train it "
                "again, name another output_path"
            )


def resumed(
    cfg: GroupSAERunnerConfig[Any], *, is_known_whole: bool = False
) -> tuple[GroupSAERunnerConfig[Any], Checkpoint | None]:
    """The checkpoint that a run goes on from, if any, and the config with it in place of `auto`.

    With `auto` it is the newest one, in the folder of the run that made it; none where there is no
    such run. Refused where several runs could be meant, or all checkpoints of the one are damaged.
    """
    if cfg.resume_from_checkpoint is None:
        return cfg, None
    if cfg.resume_from_checkpoint != NEWEST:
        of = Checkpoint if is_known_whole else Checkpoint.whole
        return cfg, of(cfg.resume_from_checkpoint)
    cfg = copy.copy(cfg)
    newest = _newest(cfg)
    cfg.resume_from_checkpoint = None if newest is None else str(newest.path)
    if newest is not None:
        cfg.checkpoint_path = str(newest.path.parent)
    return cfg, newest


def _newest(cfg: GroupSAERunnerConfig[Any]) -> Checkpoint | None:
    assert cfg.checkpoint_path is not None  # the config refuses `auto` without it
    checkpoint_at = cache(Checkpoint)
    beside = Path(cfg.checkpoint_path).parent  # the runs that were given the same checkpoint_path
    folders = [folder for folder in beside.glob("*") if checkpoints_in(folder)]
    runs = [folder for folder in folders if _is_same(folder, cfg, checkpoint_at)]
    if len(runs) > 1:
        raise CheckpointError(
            f"resume_from_checkpoint is auto, and {len(runs)} runs could be meant: "
            f"{', '.join(sorted(map(str, runs)))}; name a checkpoint of one, or remove the others"
        )
    path = newest_whole(runs[0]) if runs else None
    return None if path is None else checkpoint_at(path)


def _is_same(
    run_folder: Path,
    cfg: GroupSAERunnerConfig[Any],
    checkpoint_at: Callable[[Path], Checkpoint],
) -> bool:
    """Whether a run's checkpoints are such that the run of `cfg` can go on from them."""
    for path in reversed(checkpoints_in(run_folder)):
        if damage_of(path, [files.RUNNER_CFG]) is None:  # otherwise one of the others says
            return checkpoint_at(path).is_of(cfg)
    return True  # all are damaged, which is not to be passed over in silence


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
        "sweep": settings.get("sweep"),
        "init_from": Path(str(settings.get("init_from"))).name,
        **{name: sae.get(name) for name in _FIXED_SAE_FIELDS},
    }


def _read_json(path: Path) -> dict[str, Any]:
    with files.refusing(CheckpointError, f"{str(path)!r} cannot be read"):
        content = files.parse_json(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(path)!r} holds no settings")
    return content
