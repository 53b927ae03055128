"""What a run is about to do, in the terminal."""

import textwrap
from typing import Any

from sae_lens_groups.config import GroupSAERunnerConfig
from sae_lens_groups.errors import counted
from sae_lens_groups.scaling import ESTIMATED_MODES
from sae_lens_groups.train.fast_step import step_of_config
from sae_lens_groups.train.prepare import PreparedRun, prepare
from sae_lens_groups.train.sites import sites_of

_WIDTH, _INDENT = 100, 13


def dry_run(cfg: GroupSAERunnerConfig[Any]) -> str:
    """What a run of these settings would do, found and checked without loading the model."""
    sites = [cfg] if cfg.sweep is None else sites_of(cfg)
    return "\n\n".join(run_text(prepare(of_site)) for of_site in sites)


def run_text(run: PreparedRun) -> str:
    """The settings that decide what a run gives and costs, as they are understood."""
    cfg = run.cfg
    checkpoint = run.settled.checkpoint
    rows = {
        "model": f"{cfg.model_name}, {cfg.hook_template}, {_precision(run)}",
        "groups": _groups(run),
        "SAEs": _saes(cfg),
        "sweep": _sweep(run),
        "step": "; ".join(dict.fromkeys(_step(one.cfg) for one in run.settled.settings)),
        "tokens": f"{cfg.training_tokens:,} for each SAE, in {cfg.total_training_steps:,} steps of "
        f"{cfg.train_batch_size_tokens:,}; learning rate {cfg.lr:g}",
        "text": _text(run),
        "starts from": cfg.init_from or cfg.from_pretrained_path,
        "goes on from": None
        if checkpoint is None
        else f"{checkpoint.path}, after {checkpoint.training_tokens:,} of {cfg.training_tokens:,} tokens",
        "checkpoints": cfg.checkpoint_path or "none",
        "suite": cfg.output_path or "not written",
        "W&B": f"logged to {cfg.logger.wandb_project}" if cfg.logger.log_to_wandb else None,
    }
    return "\n".join(_row(name, text) for name, text in rows.items() if text is not None)


def _groups(run: PreparedRun) -> str:
    cfg = run.cfg
    if run.groups is None:
        measured = f", measured on {cfg.plan_tokens:,} tokens" * run.settled.measures_distances
        return f"{cfg.layer_groups}{measured}; known once the model is loaded"
    drawn = "" if cfg.layers_per_token == 1 else f"; {cfg.layers_per_token} layers of every token"
    listed = " ".join(map(str, run.groups))
    asked = cfg.layer_groups.strip()
    other = f"; {asked} groups of all layers are even:{asked}" if asked.isdigit() else ""
    layers = counted(sum(map(len, run.groups)), "layer")
    return f"{len(run.groups)} for {layers}: {listed}{drawn}{other}"


def _saes(cfg: GroupSAERunnerConfig[Any]) -> str:
    sae = cfg.sae
    k = getattr(sae, "k", None)
    mode = sae.normalize_activations
    batches = f" from {cfg.norm_estimate_batches:,} batches" * (mode in ESTIMATED_MODES)
    return (
        f"{sae.architecture()}, d_in {sae.d_in:,}, d_sae {sae.d_sae:,}"
        + (f", k {k:g}" if k is not None else "")
        + f"; normalize_activations {mode}{batches}"
    )


def _sweep(run: PreparedRun) -> str | None:
    names = [setting.name for setting in run.settled.sweep]
    if not names:
        return None
    return f"{counted(len(names), 'setting')}, SAEs of each as above but for {', '.join(names)}"


def _step(cfg: GroupSAERunnerConfig[Any]) -> str:
    choice = step_of_config(cfg.sae, cfg.fast_step)
    reason = "sae.dtype" if cfg.sae.dtype == "bfloat16" else "autocast" * cfg.autocast
    in_bfloat16 = f", the encoder in bfloat16 ({reason})" if reason else ""
    compiled = "; compile_sae compiles SAELens's own alone" * cfg.compile_sae
    return str(choice) if choice.step is None else f"{choice}{in_bfloat16}{compiled}"


def _text(run: PreparedRun) -> str:
    cfg = run.cfg
    if cfg.use_cached_activations:
        return f"cached activations, {cfg.cached_activations_path}"
    limit = cfg.max_activation_norm_multiple
    excluded = cfg.exclude_special_tokens
    special = "all special tokens" if excluded is True else f"tokens {excluded}"
    return ", ".join(
        [
            run.dataset_path or "a dataset that was passed in",
            f"context {cfg.context_size}",
            f"{'' if cfg.prepend_bos else 'no '}BOS prepended to text",
            *([f"{special} left out of training"] if excluded else []),
            *([f"tokens over {limit:g} times the median norm left out"] if limit else []),
            *([] if cfg.seqpos_slice == (None,) else [f"positions {cfg.seqpos_slice} of each"]),
        ]
    )


def _precision(run: PreparedRun) -> str:
    cfg = run.cfg
    in_bfloat16 = " in bfloat16 (autocast_lm)" if cfg.autocast_lm else ""
    unused = "" if cfg.dtype == "float32" else f" (dtype {cfg.dtype} does nothing: use autocast_lm)"
    return f"on {cfg.llm_device}{in_bfloat16}{unused}"


def _row(name: str, text: str) -> str:
    start = name.ljust(_INDENT)
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=start,
        subsequent_indent=" " * _INDENT,
        break_on_hyphens=False,
        break_long_words=False,  # of a path
    )
