"""The card's account of what goes into the SAEs, and in which units their features come out."""

from sae_lens_groups.publish.card.facts import CardFacts
from sae_lens_groups.publish.card.text import code, fenced
from sae_lens_groups.scaling.alignments import NONE
from sae_lens_groups.scaling.group_scaling import MEAN_NORM

_RAW = "The SAEs take each layer's raw activations; do not scale or centre them first."


def units(facts: CardFacts) -> str:
    """The section, for how these activations were normalised."""
    return f"## Units of feature activations\n\n{_statement(facts)}{_tokens(facts)}"


def _tokens(facts: CardFacts) -> str:
    """Which tokens training saw; features on others mean little."""
    if facts.is_imported or "prepend_bos" not in facts.metadata:
        return ""
    bos = "began" if facts.metadata["prepend_bos"] else "did not begin"
    excluded = facts.setting("exclude_special_tokens")
    left_out = ", and the activations of special tokens were left out" if excluded else ""
    return f"\n\nIn training, prompts {bos} with a BOS token{left_out}."


def _statement(facts: CardFacts) -> str:
    inside = [mode for mode in facts.cfg_values("normalize_activations") if mode != "none"]
    if facts.is_scaled:
        return _scaled(facts)
    if MEAN_NORM in inside:
        return (
            f"`cfg.json` says `normalize_activations` {code(MEAN_NORM)} and holds no factor, so "
            "SAELens does not scale: what these SAEs were trained on has a mean norm of √d_in, and "
            "you have to scale activations to that yourself."
        )
    if facts.is_whitened:
        return (
            f"{_RAW} In training they were whitened layer by layer, and the whitening is in the "
            "files. Feature activations are those of the group's SAE, on whitened activations: "
            "they can be compared across the layers of a group as they are."
        )
    if inside:
        return (
            f"{_RAW} The SAE itself normalises every activation vector "
            f"(`normalize_activations` {', '.join(map(code, inside))}), and its feature activations "
            "are in units of the normalised vector."
        )
    return f"{_RAW} Feature activations are in the units of these activations.{_depth(facts)}"


def _depth(facts: CardFacts) -> str:
    if not facts.shared_groups:
        return ""
    return (
        " Norms differ between layers, so a feature of a group can be stronger on one layer only "
        "because all activations are larger there."
    )


def _scaled(facts: CardFacts) -> str:
    aligned = facts.manifest.layer_alignment != NONE
    trained_on = "`F(s·x)`, where `F` maps the layer to the middle one" if aligned else "`s·x`"
    folded = "`R(f(F(s·x))) / s`, with `R` the way back," if aligned else "`f(s·x) / s`"
    purpose = (
        "To compare how strongly a feature fires on different layers of a group"
        if facts.shared_groups
        else "For their strength relative to the size of the layer's activations"
    )
    snippet = (
        "features = sae.encode(activations)  # in the units of this layer's activations\n"
        'strength = features * sae.cfg.metadata.sae_lens_groups["scaling_factor"]'
        ""
    )
    return (
        f"{_RAW} In training, the activations `x` of a layer were multiplied by its "
        "`scaling_factor` `s` = √d_in / mean norm, so that all layers have the same size: the SAE `f` "
        f"was trained on {trained_on}. The exported SAE computes {folded} from `x`. "
        "So its feature activations are in the units of that layer's own activations, 1/s times "
        f"those of `f`. {purpose}, multiply by `s`:\n\n{fenced('python', snippet)}"
    )
