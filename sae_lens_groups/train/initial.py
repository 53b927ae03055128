"""The SAEs that training starts from: one per group, fresh, loaded, or passed in."""

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from sae_lens import TrainingSAE
from sae_lens.registry import get_sae_training_class

from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import ConfigError
from sae_lens_groups.field_values import why_not_here
from sae_lens_groups.files import UNREADABLE
from sae_lens_groups.layers import LayerGroup
from sae_lens_groups.saved import SavedSAE, group_metadata
from sae_lens_groups.scaling import ESTIMATED_MODES, require_foldable
from sae_lens_groups.train.sweep import Setting, sae_name

# What SAELens records of a run in each SAE's metadata.
_RECORDED_SETTINGS = (
    "dataset_path",
    "model_name",
    "model_class_name",
    "hook_head_index",
    "context_size",
    "seqpos_slice",
    "prepend_bos",
    "exclude_special_tokens",
    "max_activation_norm_multiple",
    "sequence_separator_token",
    "disable_concat_sequences",
)


def saes_of_settings(
    settings: Iterable[Setting],
    groups: tuple[LayerGroup, ...],
    override_saes: Mapping[str, TrainingSAE[Any]] | None,
    own: tuple[LayerGroup, ...],
    kept_of: Callable[[TrainingSAE[Any]], TrainingSAE[Any]],
) -> tuple[dict[str, TrainingSAE[Any]], "Orders"]:
    """The SAEs of each setting, as a run of it alone makes them, by `sae_name`; and the orders of
    rows in which such runs train them.
    """
    found, orders = dict[str, TrainingSAE[Any]](), Orders()
    # The global generator decides initial weights here and the shuffling later. It is seeded apart
    # from whatever else the process draws, and carried over between the two.
    with torch.random.fork_rng():
        for setting in settings:
            torch.manual_seed(setting.cfg.seed)
            saes = _initial_saes(setting.cfg, groups, override_saes, own, kept_of)
            found |= {sae_name(setting.name, group): saes[group.name] for group in own}
            orders.add(setting.name, torch.get_rng_state())
    return found, orders


class Orders:
    """In which order each setting's SAEs see the rows: one, but where settings draw more or fewer
    initial weights than others, as the shuffling begins where drawing them ended.
    """

    def __init__(self) -> None:
        self.rng_states: dict[str, torch.Tensor] = {}
        """Where torch's generator is when each order begins: the first by the name "", others by
        that of the first setting that has it."""
        self.of_setting: dict[str, str] = {}

    def add(self, setting: str, rng_state: torch.Tensor) -> None:
        """Says where the generator is behind the initial weights of a setting."""
        known = (name for name, one in self.rng_states.items() if torch.equal(one, rng_state))
        order = next(known, setting if self.rng_states else "")
        self.rng_states[order] = rng_state
        self.of_setting[setting] = order


def _initial_saes(
    cfg: GroupSAERunnerConfig[Any],
    groups: tuple[LayerGroup, ...],
    override_saes: Mapping[str, TrainingSAE[Any]] | None,
    own: tuple[LayerGroup, ...],
    kept_of: Callable[[TrainingSAE[Any]], TrainingSAE[Any]],
) -> dict[str, TrainingSAE[Any]]:
    """Group name -> SAE to train, on the config's device, made in the order of the groups.

    Where only some are the process's own, the others are made too, as the weights are drawn one
    after the other, and let go; so is what `kept_of` leaves out of the own.
    """
    names = [group.name for group in groups]
    if override_saes is not None and set(override_saes) != set(names):
        raise ConfigError(
            f"override_saes has the keys {', '.join(sorted(override_saes))}; "
            f"it needs one SAE for each of {', '.join(names)}"
        )
    given = override_saes or {}
    for name, sae in given.items():
        _require_fit(sae, cfg, f"override_saes[{name!r}]")
    saes: dict[str, TrainingSAE[Any]] = {}
    for group in groups:
        sae = given[group.name] if group.name in given else _initial_sae(cfg)
        if group in own:
            saes[group.name] = kept_of(sae)
            _prepare(saes[group.name], cfg, group)
    return saes


def _initial_sae(cfg: GroupSAERunnerConfig[Any]) -> TrainingSAE[Any]:
    # Not by `or`: whether an SAE is true asks for its length, which SAELens warns of.
    return fresh_sae(cfg) if (sae := pretrained_sae(cfg)) is None else sae


def fresh_sae(cfg: GroupSAERunnerConfig[Any]) -> TrainingSAE[Any]:
    """An SAE of the config's architecture with initial weights from torch's global generator."""
    sae_class, config_class = get_sae_training_class(cfg.sae.architecture())
    settings = cfg.sae.to_dict()
    # Where the first weights are drawn; SAELens then moves them to `device`, which decides.
    if why_not_here(settings["device"]) is not None:
        settings["device"] = cfg.device
    return sae_class(config_class.from_dict(settings))


def pretrained_sae(cfg: GroupSAERunnerConfig[Any]) -> TrainingSAE[Any] | None:
    """The SAE at `from_pretrained_path`; None where none is named."""
    path = cfg.from_pretrained_path
    if path is None:
        return None
    try:
        sae = SavedSAE.at(Path(path)).load(cfg.device)
    except UNREADABLE as error:
        raise ConfigError(
            f"from_pretrained_path {path!r} holds no SAE in training form: {error}; name a folder "
            "that SAELens's checkpoints or a suite's groups/ hold"
        ) from error
    if not isinstance(sae, TrainingSAE):
        raise ConfigError(
            f"from_pretrained_path {path!r} holds an SAE in inference form, which cannot be "
            "trained further; name one in training form, as in checkpoints or a suite's groups/"
        )
    _require_fit(sae, cfg, "the SAE at from_pretrained_path")
    return sae


def _require_fit(sae: TrainingSAE[Any], cfg: GroupSAERunnerConfig[Any], which: str) -> None:
    wanted = cfg.sae
    compared = {
        "architecture": (sae.cfg.architecture(), wanted.architecture()),
        "d_in": (sae.cfg.d_in, wanted.d_in),
        "d_sae": (sae.cfg.d_sae, wanted.d_sae),
    }
    modes = (sae.cfg.normalize_activations, wanted.normalize_activations)
    if not (modes[0] == "none" and modes[1] in ESTIMATED_MODES):  # a group's SAE on scaled rows
        compared["normalize_activations"] = modes
    for name, (found, asked) in compared.items():
        if found != asked:
            raise ConfigError(
                f"{which} has {name}={found!r}, and the config asks for {asked!r}; make them equal"
            )


@torch.no_grad()
def _prepare(sae: TrainingSAE[Any], cfg: GroupSAERunnerConfig[Any], group: LayerGroup) -> None:
    """Moves an SAE to its device and records in it what it is trained for."""
    sae.cfg = copy.deepcopy(sae.cfg)  # an SAE passed in may share it with `cfg.sae`
    sae.to(cfg.device)
    if (threshold := getattr(sae, "topk_threshold", None)) is not None:
        # Loading has put BatchTopK's into the SAE's dtype; in bfloat16 an average stands still.
        wide = torch.promote_types(threshold.dtype, torch.float32)
        sae.topk_threshold = threshold.to(wide)  # type: ignore[assignment]
    require_foldable(sae, cfg.sae.normalize_activations)
    if cfg.sae.normalize_activations in ESTIMATED_MODES:
        # The trainer scales every row by its layer before the SAE sees it.
        sae.cfg.normalize_activations = "none"
    metadata = sae.cfg.metadata
    metadata.hook_name = cfg.hook_template.hook_name(group.middle)
    metadata.model_from_pretrained_kwargs = cfg.model_from_pretrained_kwargs or {}
    for name in _RECORDED_SETTINGS:
        metadata[name] = getattr(cfg, name)
    metadata.sae_lens_groups = group_metadata(group)


def compile_saes_if_asked(
    cfg: GroupSAERunnerConfig[Any], saes: Mapping[str, TrainingSAE[Any]]
) -> None:
    """Compiles SAELens's own step of each SAE."""
    if not cfg.compile_sae:
        return
    backend = "aot_eager" if cfg.device == "mps" else "inductor"
    for sae in saes.values():
        sae.training_forward_pass = torch.compile(  # type: ignore[method-assign]
            sae.training_forward_pass, mode=cfg.sae_compilation_mode, backend=backend
        )
