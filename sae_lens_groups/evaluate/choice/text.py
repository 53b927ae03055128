"""A sweep's scores in the terminal: a line per setting."""

from sae_lens_groups.errors import counted
from sae_lens_groups.evaluate.bootstrap import Estimate
from sae_lens_groups.evaluate.choice.result import INTERVALS, SweepEvaluation
from sae_lens_groups.evaluate.metrics import BY_NAME
from sae_lens_groups.evaluate.numbers import percent
from sae_lens_groups.evaluate.report.names import printable
from sae_lens_groups.evaluate.report.text import aligned

_FRONTS = {"explained_variance": "EV front", "ce_loss_score": "CE front"}


def sweep_text(found: SweepEvaluation) -> str:
    """What `sae-lens-groups evaluate` prints of a sweep: means over the layers."""
    names = [of.setting.name for of in found]
    dead = [percent(of.evaluation.mean("dead_features")) for of in found]
    columns = [
        ["setting", *names],
        *([name, *(_cell(name, of.means[name]) for of in found)] for name in INTERVALS),
        ["dead", *dead],
        *(
            [title, *("*" if name in found.front(metric) else "" for name in names)]
            for metric, title in _FRONTS.items()
        ),
    ]
    tokens = found[0].evaluation.tokens
    at_site = " at its site" * (len(found.sites) > 1)
    return (
        f"{aligned(columns)}\n\n"
        f"Means over the layers, with 95% intervals over prompts, on {tokens.n_tokens:,} tokens of "
        f"{printable(found[0].evaluation.dataset_name)}:\n"
        f"{counted(tokens.n_prompts, 'prompt')}, the same for all. *: no other setting{at_site} has a better "
        "score with as few features per token."
    )


def _cell(name: str, of: Estimate) -> str:
    written = BY_NAME[name].written
    return f"{written(of.value)} [{written(of.low)}, {written(of.high)}]"
