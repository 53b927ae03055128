"""Which settings cached activations depend on, so that a run has to agree in them."""

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from sae_lens_groups.config import GroupSAERunnerConfig


def _own(part: str) -> tuple[str, ...]:
    """The flags of ours that say this of themselves."""
    flags = fields(GroupSAERunnerConfig)
    return tuple(flag.name for flag in flags if flag.metadata.get("cached") == part)


# Every setting of SAELens is in one of these, and every flag of ours says in which it belongs.
IN_ROWS = (
    *("model_name", "model_class_name", "model_from_pretrained_kwargs", "model_kwargs"),
    *("autocast_lm", "hook_name", "hook_head_index", "dataset_path", "context_size"),
    *("seqpos_slice", "prepend_bos", "disable_concat_sequences", "sequence_separator_token"),
    *("use_chat_formatting", *_own("rows")),
)
"""What decides on the tokens, and on their activations."""
IN_DRAWS = ("seed", *_own("draws"), "exclude_special_tokens")
"""What decides, beside the groups, on the layers that each token gives rows of."""
IN_NEITHER = (
    # The SAE and its training; the width that it asks for is compared by itself.
    *("sae", "dtype", "autocast", "compile_sae", "sae_compilation_mode", "from_pretrained_path"),
    *("adam_beta1", "adam_beta2", "lr", "lr_scheduler_name", "lr_warm_up_steps", "lr_end"),
    *("lr_decay_steps", "n_restart_cycles", "dead_feature_window", "feature_sampling_window"),
    "dead_feature_threshold",
    # How many rows are read, and how many at once: that there are enough is checked by itself.
    *("training_tokens", "n_batches_in_buffer", "store_batch_size_prompts"),
    *("train_batch_size_tokens", "activations_mixing_fraction", "n_batches_for_norm_estimate"),
    *("prefetch_llm_batches", "use_cached_activations", "cached_activations_path"),
    # Where the same numbers are made, and how fast.
    *("device", "llm_device", "act_store_device", "compile_llm", "llm_compilation_mode"),
    *("streaming", "dataset_trust_remote_code", "is_dataset_tokenized"),
    # What a run tells, and what it leaves.
    *("hook_eval", "n_eval_batches", "eval_batch_size_prompts", "logger", "verbose"),
    *("n_checkpoints", "checkpoint_path", "save_final_checkpoint", "output_path"),
    *("resume_from_checkpoint", "sae_lens_version", "sae_lens_training_version"),
    *_own("neither"),
)


def undecided() -> tuple[str, ...]:
    """Settings of which nobody has said yet whether cached activations depend on them."""
    decided = {*IN_ROWS, *IN_DRAWS, *IN_NEITHER}
    return tuple(f.name for f in fields(GroupSAERunnerConfig) if f.name not in decided)


def row_settings(cfg: GroupSAERunnerConfig[Any]) -> dict[str, Any]:
    """What decides on the tokens and on their activations, as JSON gives it back.

    A setting that a newer SAELens has is taken to be of them: better a cache refused than a wrong
    one used.
    """
    values = {name: getattr(cfg, name) for name in (*IN_ROWS, *undecided())}
    for name in ("model_name", "dataset_path"):  # a local folder may lie elsewhere by now
        values[name] = Path(str(values[name])).name
    values["hook_name"] = str(cfg.hook_template)  # which may name any layer
    values["model_from_pretrained_kwargs"] = values["model_from_pretrained_kwargs"] or {}
    return _as_json(values)


def draw_settings(cfg: GroupSAERunnerConfig[Any]) -> dict[str, Any]:
    """What decides on the draws beside the groups, as JSON gives it back."""
    return _as_json({name: getattr(cfg, name) for name in IN_DRAWS})


def default_of(name: str) -> Any:
    """What a setting was, where cached activations of before it say nothing of it."""
    (found,) = (field for field in fields(GroupSAERunnerConfig) if field.name == name)
    default = found.metadata.get("before", found.default)
    return None if default is MISSING else _as_json(default)


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
