"""The card's end: how the SAEs were made, and whom to cite."""

import re

from sae_lens_groups.layers import format_layer_groups
from sae_lens_groups.publish.card.facts import CardFacts
from sae_lens_groups.publish.card.text import code, fenced, shell

_GROUP_SAE = """\
@inproceedings{ghilardi-etal-2025-group,
  title     = {Group-{SAE}: Efficient Training of Sparse Autoencoders for Large Language Models via Layer Groups},
  author    = {Ghilardi, Davide and Belotti, Federico and Molinari, Marco and Ma, Tao and Palmonari, Matteo},
  booktitle = {Proceedings of the 2025 Conference on Empirical Methods in Natural Language Processing},
  year      = {2025},
  doi       = {10.18653/v1/2025.emnlp-main.942},
  note      = {arXiv:2410.21508},
}"""
_TRANSFER = """\
@inproceedings{ghilardi-etal-2024-accelerating,
  title     = {Accelerating Sparse Autoencoder Training via Layer-Wise Transfer Learning in Large Language Models},
  author    = {Ghilardi, Davide and Belotti, Federico and Molinari, Marco and Lim, Jaehyuk},
  booktitle = {Proceedings of the 7th BlackboxNLP Workshop: Analyzing and Interpreting Neural Networks for NLP},
  year      = {2024},
  doi       = {10.18653/v1/2024.blackboxnlp-1.32},
}"""
# As SAELens's README asks for it.
_SAELENS = """\
@misc{bloom2024saetrainingcodebase,
  title        = {SAELens},
  author       = {Bloom, Joseph and Tigges, Curt and Duong, Anthony and Chanin, David},
  year         = {2024},
  howpublished = {\\url{https://github.com/decoderesearch/SAELens}},
}"""
_NO_PATHS = "`runner_cfg.json` has its name and no path, so say where your copy lies."
# Values of layer_groups that mean the same everywhere; others name a file.
_GROUPS_BY_RULE = re.compile(r"\s*(each|(even|auto|optimal)(:\d+)?|[\d\s,-]+)\s*")


def reproduce(facts: CardFacts) -> str:
    """How to train the same again, or that nobody can say."""
    if facts.is_imported:
        return (
            "## How they were trained\n\n"
            "The settings of their training are not in this repository. What their files say of it "
            f"is in each layer's `cfg.json`, under `metadata`.{_versions(facts)}"
        )
    return "\n\n".join(["## Train them again", _training(facts), _command(facts), _caveats(facts)])


def _training(facts: CardFacts) -> str:
    tokens, seed = facts.setting("training_tokens"), facts.setting("seed")
    parts = [
        f"{tokens:,} tokens per SAE of {_text(facts)}" if tokens else f"Trained on {_text(facts)}",
        f"context {facts.setting('context_size')}",
        f"learning rate {facts.setting('lr')}",
    ]
    if seed is not None:
        parts.append(f"seed {seed}")
    return f"{', '.join(parts)}.{_versions(facts)}"


def _text(facts: CardFacts) -> str:
    if facts.dataset_name is not None:
        link = f"https://huggingface.co/datasets/{facts.dataset_name}"
        return f"[{code(facts.dataset_name)}]({link})"
    return f"{code(str(facts.setting('dataset_path') or 'unnamed text'))} (not on the Hub)"


def _versions(facts: CardFacts) -> str:
    versions = [code(f"{name}=={given}") for name, given in facts.manifest.versions.items()]
    return f" Made with {', '.join(versions)}." if versions else ""


def _command(facts: CardFacts) -> str:
    branch = "" if facts.branch is None else f" --revision {shell(facts.branch)}"
    flags = "".join(f" \\\n    {flag}" for flag in _flags(facts))
    return fenced(
        "",
        f"hf download {shell(facts.repo_id)} runner_cfg.json{branch} --local-dir .\n"
        "sae-lens-groups train --config_file runner_cfg.json "
        f"--output_path {shell(f'{facts.name}-again')}{flags}",
    )


def _flags(facts: CardFacts) -> list[str]:
    """What the settings say by a name that means nothing elsewhere."""
    flags = []
    if facts.base_model is None:
        flags.append("--model_name path/to/the/model")
    if facts.dataset_name is None:
        flags.append("--dataset_path path/to/the/text")
    groups = str(facts.setting("layer_groups"))
    if not _GROUPS_BY_RULE.fullmatch(groups):
        flags.append(f"--layer_groups {format_layer_groups(facts.manifest.trained_groups)}")
    return flags


def _caveats(facts: CardFacts) -> str:
    """What the command line above cannot know."""
    lines = [
        "The run is seeded: on a CPU the same settings, text and versions give the same weights."
    ]
    if facts.base_model is None:
        lines.append(f"The model {code(facts.manifest.model_name)} was local: {_NO_PATHS}")
    if facts.manifest.dataset_rows_read is None:
        lines.append(
            "The text was passed in from Python (`override_dataset`), so with other text the command "
            "trains the same kind of SAEs, and not these."
        )
    elif facts.dataset_name is None:
        lines.append(f"The text {_text(facts)} was local: {_NO_PATHS}")
    if facts.manifest.transfer is not None:
        lines.append(
            f"Training started from {code(facts.manifest.transfer.init_from)}; if that is not on "
            "the Hub, say with `--init_from` where it lies."
        )
    return " ".join(lines)


def cite(facts: CardFacts) -> str:
    """Whom to cite, for what was used."""
    if facts.is_imported:
        lead = "Cite those who trained these SAEs, and SAELens, whose format they are in:"
        return f"## Cite\n\n{lead}\n\n{fenced('bibtex', _SAELENS)}"
    lead = (
        "Group-SAE for one SAE on several layers, layer-wise transfer for starting from a "
        "neighbour's SAE, and SAELens, which does the training:"
    )
    entries = "\n\n".join([_GROUP_SAE, _TRANSFER, _SAELENS])
    return f"## Cite\n\n{lead}\n\n{fenced('bibtex', entries)}"
