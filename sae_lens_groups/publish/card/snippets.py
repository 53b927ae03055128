"""The card's programs: each is complete, and takes the SAEs to one tool."""

from sae_lens_groups.publish.card.facts import CardFacts
from sae_lens_groups.publish.card.loading import imports, load_example, load_lines, numbers
from sae_lens_groups.publish.card.text import code, f_string, fenced, shell, string

# Which SAELens 6.0 does not know.
_LATE_ARCHITECTURES = ("abstopk", "matching_pursuit")
_TEXT = '"The cat sat on the mat"'
# SAEBench's own example.
_SOME_TEXT = "Skylion007/openwebtext"


def quick(facts: CardFacts) -> str:
    """How to load one layer."""
    program = "\n".join([*imports(facts, "SAE"), "", *load_example(facts)])
    return f"{fenced('python', program)}\n\n{_advice(facts)}"


def _advice(facts: CardFacts) -> str:
    lines = [
        "Any hook name of [the table](#the-layers) will do. These are plain SAELens SAEs: "
        f"`pip install sae-lens` ({_versions(facts)}) is all that is needed to use them."
    ]
    if facts.branch is not None:
        lines.append(
            f"`SAE.from_pretrained` takes no revision and reads `main`, so the programs here "
            f"download the revision {code(facts.branch)} first."
        )
    return " ".join(lines)


def _versions(facts: CardFacts) -> str:
    late = [name for name in facts.cfg_values("architecture") if name in _LATE_ARCHITECTURES]
    return f"a version that knows `{late[0]}`" if late else "6.0 or newer"


def use(facts: CardFacts) -> str:
    """The section of programs for the other tools."""
    return "\n\n".join(["## Use them", _in_a_model(facts), _saebench(facts), _whole_suite(facts)])


def _in_a_model(facts: CardFacts) -> str:
    if facts.transformer_lens_hook is None or (
        facts.is_renamed_for_transformer_lens and facts.transformer_lens_model is None
    ):
        return _with_saelens_loader(facts)
    return _with_transformer_lens(facts)


def _with_transformer_lens(facts: CardFacts) -> str:
    """Three layers attached at once."""
    layers = facts.three_layers
    program = "\n".join(
        [
            *imports(facts, "SAE, HookedSAETransformer"),
            "",
            *_model_lines(facts),
            *load_lines(facts, layers),
            f"_, cache = model.run_with_cache_with_saes({_TEXT}, saes=saes)",
            "for sae in saes:",
            '    print(cache[f"{sae.cfg.metadata.hook_name}.hook_sae_acts_post"].shape)',
        ]
    )
    many = "several layers at once" if len(layers) > 1 else "its layer"
    heading = f"**In a model**, with SAELens's `HookedSAETransformer`, at {many}:"
    return f"{heading}\n\n{fenced('python', program)}"


def _model_lines(facts: CardFacts) -> list[str]:
    name = facts.transformer_lens_model
    options = facts.metadata.get("model_from_pretrained_kwargs") or {}
    more = "".join(f", {key}={value!r}" for key, value in options.items() if key.isidentifier())
    load = "model = HookedSAETransformer.from_pretrained_no_processing"
    if name is not None:
        return [f"{load}({string(name)}{more})"]
    return [
        "# The model is not on the Hub under a name that TransformerLens knows: load your copy.",
        f"{load}({string(facts.manifest.model_name)}{more})",
    ]


def _with_saelens_loader(facts: CardFacts) -> str:
    """One layer of a model of transformers, whose hook TransformerLens may not have."""
    hook_name = string(facts.manifest.hook_template.hook_name(facts.example))
    name, comment = facts.base_model, ""
    if name is None:
        name, comment = f"path/to/{facts.manifest.model_name}", "  # it is not on the Hub"
    model_class = facts.metadata.get("model_class_name") or "AutoModelForCausalLM"
    program = "\n".join(
        [
            *imports(facts, "SAE"),
            "from sae_lens.load_model import load_model",
            "",
            f"model = load_model({string(model_class)}, {string(name)}){comment}",
            *load_example(facts),
            f'tokens = model.tokenizer({_TEXT}, return_tensors="pt").input_ids',
            f"_, cache = model.run_with_cache(tokens, names_filter=[{hook_name}])",
            f"features = sae.encode(cache[{hook_name}])",
        ]
    )
    heading = "**In a model** of transformers, through SAELens's own loader:"
    return f"{heading}\n\n{fenced('python', program)}"


def _saebench(facts: CardFacts) -> str:
    heading = "**[SAEBench](https://github.com/adamkarvonen/SAEBench)**"
    if facts.transformer_lens_hook is None or facts.transformer_lens_model is None:
        return (
            f"{heading} loads models by TransformerLens's names, and has none for this model and "
            "hook."
        )
    program = "\n".join(
        [
            *imports(facts, None if _can_name_pairs(facts) else "SAE"),
            "from sae_bench.evals.core.main import multiple_evals",
            "",
            *_pairs(facts),
            *_core(facts),
        ]
    )
    return (
        f"{heading}, its `core` eval. It logs errors and goes on, so keep the check at the end; and "
        f"it needs the two `compute_featurewise` switches.\n\n{fenced('python', program)}"
    )


def _can_name_pairs(facts: CardFacts) -> bool:
    """Whether SAEBench finds the model and the hook in the files by itself."""
    return (
        facts.branch is None
        and not facts.is_renamed_for_transformer_lens
        and facts.transformer_lens_model == facts.metadata.get("model_name")
    )


def _pairs(facts: CardFacts) -> list[str]:
    layers, template = facts.manifest.layers, facts.manifest.hook_template
    name = f_string(template.before, "layer", template.after)
    if _can_name_pairs(facts):
        return [
            f"saes = [({string(facts.repo_id)}, {name}) for layer in {numbers(layers)}]",
        ]
    return [
        *load_lines(facts, layers),
        "for sae in saes:",
        f"    sae.cfg.metadata.model_name = {string(facts.transformer_lens_model or '')}",
        f"saes = [({string(facts.name + '_')} + sae.cfg.metadata.hook_name, sae) for sae in saes]",
    ]


def _core(facts: CardFacts) -> list[str]:
    is_tokens = facts.setting("is_dataset_tokenized", True) or facts.dataset_name is None
    dataset = _SOME_TEXT if is_tokens else facts.dataset_name or _SOME_TEXT
    without_special = bool(facts.metadata.get("exclude_special_tokens"))
    context_size = facts.metadata.get("context_size") or 128
    return [
        "results = multiple_evals(",
        "    saes,",
        f"    dataset={string(dataset)},  # any with a column of text",
        f"    context_size={context_size},",
        "    n_eval_reconstruction_batches=200,",
        "    n_eval_sparsity_variance_batches=2000,",
        "    eval_batch_size_prompts=16,",
        "    compute_featurewise_density_statistics=True,",
        "    compute_featurewise_weight_based_metrics=True,",
        f"    exclude_special_tokens_from_reconstruction={without_special},",
        '    output_folder="saebench_core",',
        "    force_rerun=True,",
        '    device="cuda",',
        ")",
        "if len(results) != len(saes):",
        '    raise RuntimeError(f"SAEBench scored {len(results)} of {len(saes)} SAEs")',
    ]


def _whole_suite(facts: CardFacts) -> str:
    branch = "" if facts.branch is None else f", revision={string(facts.branch)}"
    layers = numbers(facts.three_layers)
    hook_name = facts.manifest.hook_template.hook_name(facts.three_layers[0])
    program = "\n".join(
        [
            "from sae_lens_groups import SAESuite",
            "",
            "# Downloads these layers; without `layers`, all of them.",
            f"suite = SAESuite.from_pretrained({string(facts.repo_id)}, layers={layers}{branch})",
            f"sae = suite[{string(hook_name)}]",
        ]
    )
    contents = "" if facts.is_imported else ", with its groups and scaling"
    return (
        f"**The suite as one object**{contents}, in `sae-lens-groups`:\n\n"
        f"{fenced('python', program)}{_train_further(facts)}"
    )


def _train_further(facts: CardFacts) -> str:
    if facts.branch is not None:
        return ""
    command = code(f"sae-lens-groups train --init_from {shell(facts.repo_id)} ...")
    return f"\n\nIt also trains on from here, with more text or for other layers: {command}."
