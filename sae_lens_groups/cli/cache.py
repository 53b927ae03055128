"""`sae-lens-groups cache`: stores what training reads of the language model, for many runs."""

import argparse
from collections.abc import Sequence

from sae_lens_groups.cli.flags import OwnFlags, ParsedFlags, as_mistakes, parse_flags
from sae_lens_groups.errors import ConfigError, counted
from sae_lens_groups.train import ALL_ROWS, CACHE_DTYPES, CACHE_ROWS, DRAWN_ROWS, CacheRun

_DEFAULTS = {"layer_groups": "each"}


def cache(args: Sequence[str]) -> int:
    """Says how large the activations will be, writes them, and says how to train from them."""
    own, rest = _parser().parse_known_args(list(args))
    flags = parse_flags("cache", rest, _DEFAULTS)
    _require_groups(flags, own.cache_rows)
    with as_mistakes():
        caching = CacheRun(flags.cfg, own.cache_rows, own.cache_dtype)
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
    print(f"    --use_cached_activations --cached_activations_path {caching.folder}")
    return 0


def _require_groups(flags: ParsedFlags, cache_rows: str) -> None:
    if cache_rows == DRAWN_ROWS and not flags.has_file and "layer_groups" not in flags.given:
        raise ConfigError(
            "cache_rows is drawn, and layer_groups does not say for which groups; name those that "
            "will be trained, such as --layer_groups 0-3,4-7"
        )


def _parser() -> argparse.ArgumentParser:
    parser = OwnFlags(
        prog="sae-lens-groups cache",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
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
        choices=CACHE_ROWS,
        default=ALL_ROWS,
        help="all (default): every token at every layer, for any groups of them and any seed; "
        "drawn: only the rows that training draws, for runs with these groups and this seed",
    )
    parser.add_argument(
        "--cache_dtype",
        choices=CACHE_DTYPES,
        default=CACHE_DTYPES[0],
        help="float32 (default) is exact, float16 is half as large",
    )
    return parser
