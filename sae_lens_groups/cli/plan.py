"""`sae-lens-groups plan`: measures a model, proposes groups, and draws both."""

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sae_lens_groups import files
from sae_lens_groups.cli.command_line import CommandLine, ConfigFlags, announce, read_command_line

if TYPE_CHECKING:  # they bring SAELens, which takes seconds to import
    from sae_lens_groups.config import GroupSAERunnerConfig
    from sae_lens_groups.plan import GroupPlan

# Features per dimension of the SAEs that a plan without --d_sae reckons with, as in the paper.
_EXPANSION = 16
# Stands for a d_sae that is not given until d_in is known; no k is too large for it.
_ANY_D_SAE = 2**30
# A plan fills no shuffle buffer, so nobody has to make one large enough.
_DEFAULTS = {"layer_groups": "auto", "n_batches_in_buffer": 1_000_000}


def plan(args: Sequence[str]) -> int:
    """Measures, plans, prints, and writes `plan.json`, `plan.html` and `plan.png`."""
    own, line = read_command_line(_parser(), args)
    folder = files.expanded(line.given.get("output_path") or "plan")
    files.require_free(folder)
    files.require_writable(folder)
    announce(line)
    # These import SAELens.
    from sae_lens_groups.cli.flags import as_mistakes, parse_flags
    from sae_lens_groups.plan import find_metric, plan_text, save_plan_folder
    from sae_lens_groups.train import settle

    cfg = parse_flags(line, _DEFAULTS, d_sae=_ANY_D_SAE)
    with as_mistakes():
        cfg = settle(cfg).cfg
        find_metric(own.metric)
        made = _made(cfg, line, own)
    print(plan_text(made, cfg.training_tokens))
    sae = cfg.sae
    print(f"                of SAEs of architecture {sae.architecture()} with d_sae {sae.d_sae:,}")
    save_plan_folder(made, folder)
    print(
        f"\nLook at it: {folder / files.PLAN_PAGE} (or {files.PLAN_PICTURE})\n"
        f"Train it:   sae-lens-groups train --layer_groups {shlex.quote(str(folder / files.PLAN))} ..."
    )
    return 0


def _made(
    cfg: "GroupSAERunnerConfig[Any]", line: CommandLine, own: argparse.Namespace
) -> "GroupPlan":
    from sae_lens_groups.activations import (
        load_hooked_model,
        n_layers_before_loading,
        open_dataset,
        require_usable_rows,
    )
    from sae_lens_groups.plan import measure_layer_distances, plan_groups, require_plannable
    from sae_lens_groups.train import count_flops, time_steps

    choice = {
        "amad_threshold": cfg.amad_threshold,
        "max_cost": own.max_cost,
        "last_layer": own.last_layer,
    }
    dataset = open_dataset(cfg)
    rule = require_plannable(cfg.layer_groups, n_layers=n_layers_before_loading(cfg), **choice)
    model = load_hooked_model(cfg, None)
    require_usable_rows(cfg.dataset_path, dataset, model)
    _complete(cfg, line, model)
    flops = count_flops(cfg, model, dataset)
    seconds = time_steps(cfg, model, dataset) if own.time else None
    distances = measure_layer_distances(
        cfg, metric=own.metric, override_dataset=dataset, override_model=model
    )
    return plan_groups(distances, rule, flops=flops, seconds=seconds, **choice)


def _complete(cfg: "GroupSAERunnerConfig[Any]", line: CommandLine, model: Any) -> None:
    """Sets what a plan needs not be told: the width, and the size of an SAE."""
    from sae_lens_groups.activations import width_at

    hook_name = cfg.hook_template.hook_name(0)
    if line.saved is not None or hook_name not in model.hook_dict:
        return
    if "sae.d_in" not in line.given:
        cfg.sae.d_in = width_at(model, hook_name, cfg.hook_head_index)
    if "sae.d_sae" not in line.given:
        cfg.sae.d_sae = _EXPANSION * cfg.sae.d_in


def _parser() -> ConfigFlags:
    parser = ConfigFlags(
        "plan",
        usage="sae-lens-groups plan --model_name NAME --hook_name HOOK --dataset_path DATASET ...",
        description="Measures how far apart the layers of a model are, proposes groups of layers to "
        "share an SAE,\nand writes plan.json, plan.html and plan.png. Nothing is trained.",
        epilog="""every flag of `train` works here too; those that matter:
  --model_name, --model_class_name, --hook_name, --hook_head_index, --dataset_path, --context_size,
  --store_batch_size_prompts, --exclude_special_tokens, --device, --dtype, --config_file
  --layer_groups     auto (default without --config_file), auto:4, optimal, optimal:4, even:4, or
                     groups such as 0-3,4-7,8-10,11
  --amad_threshold   the fewest groups whose AMAD is below this (default: 0.2)
  --plan_tokens      tokens to measure on (default: 200,000)
  --architecture, --d_sae, --k and the like: the SAE whose cost is counted
                     (default: d_sae is 16 times the width)
  --output_path      the folder to write (default: plan)""",
    )
    parser.add_argument(
        "--metric",
        default="angular",
        help="angular (default), cosine, cka, or one that another package registered",
    )
    parser.add_argument(
        "--max_cost",
        type=float,
        help="the most groups whose suite costs at most this fraction of an SAE per layer, such as 0.8",
    )
    parser.add_argument(
        "--last_layer",
        choices=("alone", "grouped"),
        default="alone",
        help="whether the last layer may share an SAE (default: alone, as in the paper)",
    )
    parser.add_argument(
        "--time", action="store_true", help="time a few steps, and estimate the wall-clock time"
    )
    return parser
