"""Lines of Python that load SAEs from the Hub, at main or at another branch."""

from collections.abc import Sequence

from sae_lens_groups.publish.card.facts import CardFacts
from sae_lens_groups.publish.card.text import f_string, string


def imports(facts: CardFacts, names: str | None) -> list[str]:
    """What the lines below need, and these names of SAELens."""
    lines = [] if names is None else [f"from sae_lens import {names}"]
    if facts.branch is not None:
        lines.insert(0, "from huggingface_hub import snapshot_download")
    return lines


def load_example(facts: CardFacts) -> list[str]:
    """Lines that leave one layer's SAE in `sae`."""
    hook_name = facts.manifest.hook_template.hook_name(facts.example)
    if facts.branch is None:
        return [f"sae = SAE.from_pretrained({string(facts.repo_id)}, {string(hook_name)})"]
    return [
        *_download(facts, string(f"{hook_name}/*")),
        f"sae = SAE.load_from_disk(folder + {string(f'/{hook_name}')})",
    ]


def load_lines(facts: CardFacts, layers: Sequence[int]) -> list[str]:
    """Lines that leave these layers' SAEs in `saes`, with hook names that TransformerLens knows."""
    before, after = facts.manifest.hook_template.before, facts.manifest.hook_template.after
    if facts.branch is None:
        lines: list[str] = []
        name = f_string(before, "layer", after)
        load = f"SAE.from_pretrained({string(facts.repo_id)}, {name})"
    else:
        pattern = f_string(before, "layer", f"{after}/*")
        lines = _download(facts, f"{pattern} for layer in {numbers(layers)}")
        load = f"SAE.load_from_disk(folder + {f_string(f'/{before}', 'layer', after)})"
    hook = facts.transformer_lens_hook
    if not facts.is_renamed_for_transformer_lens or hook is None:
        return [*lines, f"saes = [{load} for layer in {numbers(layers)}]"]
    return [
        *lines,
        "saes = []",
        f"for layer in {numbers(layers)}:",
        f"    sae = {load}",
        "    # What TransformerLens calls the hook.",
        f"    sae.cfg.metadata.hook_name = {f_string(hook[0], 'layer', hook[1])}",
        "    saes.append(sae)",
    ]


def _download(facts: CardFacts, patterns: str) -> list[str]:
    """Lines that leave the folders of some layers, at the branch, in `folder`."""
    assert facts.branch is not None
    return [
        "folder = snapshot_download(",
        f"    {string(facts.repo_id)},",
        f"    revision={string(facts.branch)},",
        f"    allow_patterns=[{patterns}],",
        ")",
    ]


def numbers(layers: Sequence[int]) -> str:
    """Layers as Python: a list, or the range that they are."""
    run = range(layers[0], layers[-1] + 1)
    if len(layers) > 3 and list(layers) == list(run):
        return f"range({run.start}, {run.stop})" if run.start else f"range({run.stop})"
    return str(list(layers))
