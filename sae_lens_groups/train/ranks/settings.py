"""The settings of a run of several processes: what cannot work is refused, and all have the same."""

import contextlib
import copy
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError, quoted
from sae_lens_groups.train.fast_step import why_not_sharded
from sae_lens_groups.train.prepare import PreparedRun
from sae_lens_groups.train.ranks.status import agreed
from sae_lens_groups.train.ranks.world import Ranks, World

# What may differ: the first rank's are taken.
_OF_FIRST = {"checkpoint_path", "logger", "resume_from_checkpoint"}
_PACKAGES = ("sae-lens-groups", "sae-lens", "transformer-lens", "transformers", "torch")
_SECONDS_TO_SHOW = 5  # that a shared folder may take to show a new file


def require_usable_by(world: World, cfg: GroupSAERunnerConfig[Any]) -> None:
    """Refuses what several processes cannot do, or differ in."""
    if not isinstance(world, Ranks) or not isinstance(cfg, GroupSAERunnerConfig):
        return
    if reason := _why_not_with_ranks(cfg) or _why_not_sharded(cfg, world.size):
        raise ConfigError(f"with {world.size} processes {reason}")
    _require_equal(world, cfg)
    for setting in ("output_path", "checkpoint_path"):
        if (folder := getattr(cfg, setting)) is not None:
            _require_shared(world, Path(folder), setting)


def prepared_by_all(
    world: World,
    cfg: GroupSAERunnerConfig[Any],
    prepare: Callable[[GroupSAERunnerConfig[Any]], PreparedRun],
) -> PreparedRun:
    """What each process prepares: the first one first, whose folders and checkpoint all take."""
    prepared: list[PreparedRun] = []

    def by_first() -> tuple[str | None, str | None]:
        prepared.append(prepare(cfg))
        found = prepared[0].cfg
        return found.checkpoint_path, found.resume_from_checkpoint

    found = world.of_first(by_first)

    def by_others() -> None:
        if not prepared:
            theirs = copy.copy(cfg)  # not dataclasses.replace: a new config gets another folder
            theirs.checkpoint_path, theirs.resume_from_checkpoint = found
            prepared.append(prepare(theirs))

    world.agreed(by_others)
    return prepared[0]


def on_own_device(world: World, cfg: GroupSAERunnerConfig[Any]) -> GroupSAERunnerConfig[Any]:
    """The config with the language model's device by its number, as TransformerLens needs it."""
    cfg = copy.copy(cfg)
    cfg.llm_device = world.device(cfg.llm_device)
    return cfg


def _why_not_with_ranks(cfg: GroupSAERunnerConfig[Any]) -> str | None:
    kwargs = cfg.model_from_pretrained_kwargs or {}
    devices = [str(getattr(cfg, name)) for name in ("device", "llm_device", "act_store_device")]
    numbered = next((device for device in devices if device.startswith("cuda:")), None)
    if cfg.output_path is None:
        return "output_path has to name where they write the suite, each its part"
    if cfg.prefetch_llm_batches:
        return "prefetch_llm_batches cannot be used; leave it out"
    if cfg.compile_llm:
        return "compile_llm is not supported yet; leave it out"
    if numbered is not None:
        return f"each takes a GPU of its own, so {numbered} cannot be meant; write cuda"
    if "device_map" in kwargs or kwargs.get("n_devices", 1) != 1:
        return "the language model cannot lie on several devices; leave n_devices or device_map out"
    if "cuda" in devices and not torch.cuda.is_available():
        return "cuda is asked for, and there is no GPU here; write cpu"
    return None


def _why_not_sharded(cfg: GroupSAERunnerConfig[Any], n_ranks: int) -> str | None:
    n_shards = cfg.ranks_per_group
    if n_shards == 1:
        return None
    if n_ranks % n_shards:
        return f"ranks_per_group is {n_shards}, which does not divide them; give a number that does"
    if n_shards > int(cfg.sae.d_sae):
        return f"ranks_per_group is {n_shards}, more than there are features; give a smaller number"
    reason = why_not_sharded(cfg.sae, cfg.fast_step)
    return reason and f"ranks_per_group is {n_shards}, but {reason}; leave ranks_per_group out"


def _require_equal(ranks: Ranks, cfg: GroupSAERunnerConfig[Any]) -> None:
    facts = {name: value for name, value in cfg.to_dict().items() if name not in _OF_FIRST}
    facts |= {f"the version of {name}": version(name) for name in _PACKAGES}
    if cfg.device == "cpu":
        facts["the number of threads (OMP_NUM_THREADS)"] = torch.get_num_threads()
    everyones = ranks.gathered(lambda: {name: quoted(value) for name, value in facts.items()})
    for rank, theirs in enumerate(everyones):
        for name, value in everyones[0].items():
            if theirs.get(name) != value:
                raise agreed(
                    ConfigError(
                        f"rank {rank} has {name} {theirs.get(name)}, and rank 0 has {value}; start "
                        "all processes with the same command on the same software"
                    )
                )


def _require_shared(world: World, folder: Path, setting: str) -> None:
    """Refuses a folder that not all ranks see."""
    probes: list[str] = []

    def lay() -> str:
        nearest = next(path for path in folder.absolute().parents if path.exists())
        probes.append(tempfile.mkdtemp(prefix=".", suffix=".probe", dir=nearest))
        return probes[0]

    def look(probe: Path) -> None:
        ends = time.monotonic() + _SECONDS_TO_SHOW
        while not (probe.parent.is_dir() and probe in probe.parent.iterdir()):
            if time.monotonic() > ends:
                raise ConfigError(
                    f"{setting} {str(folder)!r} is not the same folder{world.here} as on rank 0; "
                    "name one that all processes share"
                )
            time.sleep(0.2)

    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [Path(probe).rmdir() for probe in probes])
        laid = world.of_first(lay)
        world.agreed(lambda: look(Path(laid)))
