"""What `sae-lens-groups train --help` prints: what is needed, what is ours, and the rest."""

import textwrap
from collections.abc import Iterable, Mapping

from sae_lens_groups.cli.fields import DEFAULT_ARCHITECTURE, Field, architectures, config_fields

_NEEDED = ("layer_groups", "model_name", "hook_name", "dataset_path")
_USUAL = (
    *("model_class_name", "sae.d_sae", "sae.k", "sae.normalize_activations", "training_tokens"),
    *("context_size", "train_batch_size_tokens", "lr", "autocast_lm", "device"),
    *("exclude_special_tokens", "logger.log_to_wandb", "output_path"),
)
# The field that each part of SAELens's settings begins with.
_PARTS = {
    "model_name": "model and text",
    "cached_activations_path": "activations",
    "device": "devices and precision",
    "train_batch_size_tokens": "optimiser",
    "dead_feature_window": "statistics and evaluation",
    "n_checkpoints": "outputs",
    "logger.log_to_wandb": "Weights & Biases",
}
_WIDTH, _INDENT = 100, 34
# Where SAELens's docstrings say nothing, or what does not hold for groups.
_DESCRIPTIONS = {
    "layer_groups": "Which layers share an SAE: 0-3,4-7,11 (only layers that are named are trained), "
    "each (an SAE per layer), even:4, auto or auto:4 (measured), optimal, or my_plan/plan.json",
    "hook_name": "The hook at any one layer, such as blocks.3.hook_resid_post or model.layers.3",
    "dataset_path": "A dataset on the Hub, or a folder: of text files, of parquet, of save_to_disk",
    "model_name": "A model on the Hub, or its folder (with --model_class_name AutoModelForCausalLM)",
    "model_class_name": "HookedTransformer, or AutoModelForCausalLM for any model of transformers",
    "sae.d_in": "The width of the activations, taken from the model where it is not given",
    "sae.normalize_activations": "none, expected_average_only_in, layer_norm, covariance_whitening",
    "autocast_lm": "Runs the language model in bfloat16",
    "logger.log_to_wandb": "Logs to Weights & Biases",
}


def train_help(architecture: str | None = None) -> str:
    """The help of `train`, with the settings of one architecture's SAEs."""
    chosen = architecture or DEFAULT_ARCHITECTURE
    fields = {field.path: field for field in config_fields(chosen)}
    needed = [fields.pop(path) for path in _NEEDED]
    usual = [fields.pop(path) for path in _USUAL if path in fields]
    ours = [fields.pop(path) for path, field in [*fields.items()] if field.is_ours]
    of_sae = [fields.pop(path) for path in [*fields] if path.startswith("sae.")]
    return "\n".join(
        [
            "usage: sae-lens-groups train --layer_groups GROUPS --model_name NAME --hook_name HOOK "
            "--dataset_path DATASET ...",
            "",
            "Trains one SAE per group of layers. Takes every flag of SAELens's training command; a",
            "switch such as --streaming is turned off by --nostreaming. Numbers may be 3M or 3e6.",
            "",
            "the command",
            _entry("--architecture", f"or --sae: {', '.join(architectures())} (default: {chosen})"),
            _entry("--config_file", "The runner_cfg.json of an earlier run; flags beside it win"),
            _entry("--dry_run", "Says what would be trained, loads no model and trains nothing"),
            _part("needed (or in --config_file)", needed),
            _part("usual", usual),
            _part("groups, starts and checkpoints: what SAELens does not have", ours),
            _part(
                f"the SAE (--architecture {chosen}; --architecture NAME --help for another)", of_sae
            ),
            *_parts_of_saelens(fields),
        ]
    )


def _parts_of_saelens(rest: Mapping[str, Field]) -> list[str]:
    title, parts = "", dict[str, list[Field]]()
    for field in config_fields():
        title = _PARTS.get(field.path, title)
        if field.path in rest:
            parts.setdefault(title, []).append(field)
    return [_part(f"SAELens: {title}", fields) for title, fields in parts.items()]


def _part(title: str, fields: Iterable[Field]) -> str:
    return "\n".join(["", title, *map(_line, fields)])


def _line(field: Field) -> str:
    """A field's entry; SAELens's own words are cut to one line."""
    own = field.description if field.is_ours else ""
    default = f"(default: {field.default})" if field.default not in ("", "None") else ""
    if text := _DESCRIPTIONS.get(field.path, own):
        return _entry(field.flag, f"{text} {default}")
    room = _WIDTH - max(_INDENT, len(field.flag) + 3) - len(default) - 1
    return _entry(
        field.flag, f"{textwrap.shorten(field.description, room, placeholder=' ...')} {default}"
    )


def _entry(flag: str, text: str) -> str:
    start = f"  {flag}".ljust(_INDENT - 1) + " "
    wrapped = textwrap.fill(text, _WIDTH, initial_indent=start, subsequent_indent=" " * _INDENT)
    return wrapped.rstrip() or start.rstrip()
