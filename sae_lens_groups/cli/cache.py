"""`sae-lens-groups cache`: stores what training reads of the language model, for many runs."""

import shlex
from collections.abc import Sequence

from sae_lens_groups.cli.command_line import ConfigFlags, announce, read_command_line
from sae_lens_groups.errors import ConfigError, counted

_DEFAULTS = {"layer_groups": "each"}


def cache(args: Sequence[str]) -> int:
    """Says how large the activations will be, writes them, and says how to train from them."""
    own, line = read_command_line(_parser(), args)
    if own.cache_rows == "drawn" and line.saved is None and "layer_groups" not in line.given:
        raise ConfigError(
            "cache_rows is drawn, and layer_groups does not say for which groups; name those that "
            "will be trained, such as --layer_groups 0-3,4-7"
        )
    announce(line)
    # These import SAELens.
    from sae_lens_groups.cli.flags import as_mistakes, parse_flags, with_width
    from sae_lens_groups.train import ALL_ROWS, CacheRun

    cfg = with_width(parse_flags(line, _DEFAULTS), line)
    with as_mistakes():
        caching = CacheRun(cfg, own.cache_rows, own.cache_dtype)
        groups, every_row = caching.groups, own.cache_rows == ALL_ROWS
        n_layers = sum(map(len, groups))
        what = counted(n_layers, "layer") if every_row else counted(len(groups), "group")
        print(
            f"Caching about {caching.n_tokens:,} tokens of {what}: {caching.n_bytes / 1e9:,.2f} GB "
            f"in {caching.folder}",
            flush=True,
        )
        manifest = caching.run()
    print(f"Cached {manifest.n_tokens:,} tokens. To train from them, add to these settings:")
    folder = shlex.quote(str(caching.folder))
    print(f"    --use_cached_activations --cached_activations_path {folder}")
    return 0


def _parser() -> ConfigFlags:
    parser = ConfigFlags(
        "cache",
        usage="sae-lens-groups cache --cached_activations_path FOLDER --model_name NAME ...",
        description="Runs the language model once and stores the activations that training reads. "
        "Training then\ntakes them from disk with --use_cached_activations, as often as you like.",
        epilog="""every flag of `train` works here too; those that matter:
  --cached_activations_path   the folder to write
  --layer_groups     the layers to store (default without --config_file: all)
  --model_name, --model_class_name, --hook_name, --hook_head_index, --d_in, --dataset_path,
  --context_size, --seqpos_slice, --store_batch_size_prompts, --device, --config_file
  --training_tokens, --train_batch_size_tokens, --n_batches_in_buffer, --layers_per_token,
  --normalize_activations, --n_batches_for_norm_estimate, --exclude_special_tokens:
                     how many tokens training reads""",
    )
    parser.add_argument(
        "--cache_rows",
        choices=("all", "drawn"),
        default="all",
        help="all (default): every token at every layer, for any groups of them and any seed; "
        "drawn: only the rows that training draws, for runs with these groups and this seed",
    )
    parser.add_argument(
        "--cache_dtype",
        choices=("float32", "float16"),
        default="float32",
        help="float32 (default) is exact, float16 is half as large",
    )
    return parser
